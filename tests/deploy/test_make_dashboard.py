"""The dashboard is about metrics that exist, fits together, and Prometheus can read every query of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.alerts import metric_names, metrics_in
from deploy.dashboard_panels import ROWS
from deploy.make_dashboard import FILE, OTHER_JOBS, WIDTH

ROOT = Path(__file__).parents[2]
DASHBOARD: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [
    *(target["expr"] for panel in PANELS for target in panel["targets"]),
    *(mark["expr"] for mark in DASHBOARD["annotations"]["list"]),
    *(re.sub(r"label_values\((.*), \w+\)", r"\1", each["query"]["query"])
      for each in DASHBOARD["templating"]["list"] if each["type"] == "query"),
]  # fmt: skip


def test_the_file_is_fresh() -> None:
    command = [sys.executable, "-m", "deploy.make_dashboard", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_metric_of_the_dashboard_is_there() -> None:
    named = {name for query in QUERIES for name in metrics_in(query)}
    assert len(named) > 40
    assert named - metric_names() == set()


@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_a_panel_says_what_it_shows_and_obeys_what_is_chosen(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in {"short", "s", "reqps", "cps", "percentunit", "bytes"}
    assert panel["datasource"]["uid"] == "${source}"
    letters = [target["refId"] for target in panel["targets"]]
    assert len(letters) == len(set(letters))
    for target in panel["targets"]:
        for metric in metrics_in(target["expr"]):
            selected = re.findall(rf"\b{metric}\b(.*?)}}", target["expr"])
            needed = "instance=~" if metric.startswith(OTHER_JOBS) else 'job=~"$job",instance=~"$instance"'
            assert selected
            assert all(needed in each for each in selected)


def test_legends_name_labels_that_queries_keep() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            grouped = set(re.findall(r"by \(([^)]*)\)", target["expr"]))
            kept = {label.strip() for labels in grouped for label in labels.split(",")}
            wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert wanted <= kept or not grouped, target["expr"]


def test_panels_stand_beside_each_other_and_not_on_each_other() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < WIDTH
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    assert len(PANELS) == sum(len(row.panels) for row in ROWS)


def test_panels_that_alerts_name_are_there() -> None:
    text = (ROOT / "docker" / "prometheus" / "alerts.yml").read_text(encoding="utf-8")
    named = re.findall(r'panel "([^"]+)"', " ".join(text.split()))
    assert len(named) >= 3
    assert set(named) <= {panel["title"] for panel in PANELS}
