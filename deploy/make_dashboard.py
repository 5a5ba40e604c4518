"""Write the Grafana dashboard, ``docker/grafana/dashboards/etegrec.json``, from the list of its panels.

``python -m deploy.make_dashboard`` rewrites the file; ``--check`` fails if it is stale. Each panel takes one line, so
that a change of one shows as one. Prometheus is chosen above the dashboard, as are jobs and replicas, so the same file
serves the compose stack, a cluster and any other Grafana.
"""

from __future__ import annotations

import json
import string
import sys
from pathlib import Path
from typing import Any

from deploy.alerts import narrowed
from deploy.dashboard_panels import ROWS, Panel

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docker" / "grafana" / "dashboards" / "etegrec.json"

Json = dict[str, Any]

SOURCE = {"type": "prometheus", "uid": "${source}"}

WIDTH = 24
"""Width of a dashboard, in Grafana's columns."""
PANELS_A_LINE = 3
HEIGHTS = {"timeseries": 7, "stat": 4}

CHOSEN = 'job=~"$job",instance=~"$instance"'
"""Selector of the jobs and replicas that are chosen above the dashboard."""

OTHER_JOBS = ("etegrec_ingest_", "etegrec_retrain_")
"""Beginnings of the metrics of feed and retraining, which have jobs of their own."""


def main() -> int:
    """Write or check the file; return the exit code."""
    wanted = dashboard_text()
    if "--check" not in sys.argv:
        FILE.parent.mkdir(parents=True, exist_ok=True)
        FILE.write_text(wanted, encoding="utf-8")
        return 0
    if FILE.read_text(encoding="utf-8") != wanted:
        sys.stderr.write(f"error: {FILE.relative_to(ROOT)} is stale; run python -m deploy.make_dashboard\n")
        return 1
    return 0


def dashboard_text() -> str:
    """Return the dashboard as JSON, one panel a line."""
    head = {name: value for name, value in dashboard().items() if name != "panels"}
    lines = [f" {json.dumps(name)}: {json.dumps(value)}," for name, value in head.items()]
    panels = ",\n".join(f"  {json.dumps(panel)}" for panel in _panels())
    return "\n".join(["{", *lines, ' "panels": [', panels, " ]", "}", ""])


def dashboard() -> Json:
    """Return the dashboard as Grafana reads it."""
    return {
        "uid": "etegrec",
        "title": "ETEGRec",
        "tags": ["etegrec"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "graphTooltip": 1,  # one time is marked in all panels
        "templating": {"list": _variables()},
        "annotations": {"list": [_promotions()]},
        "panels": _panels(),
    }


def _variables() -> list[Json]:
    """Return what is chosen above the dashboard."""
    return [
        {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1},
        _labels("job", "Job", "label_values(etegrec_live_up, job)"),
        _labels("instance", "Replica", 'label_values(etegrec_live_up{job=~"$job"}, instance)'),
    ]


def _labels(name: str, label: str, query: str) -> Json:
    """Return a variable whose choices are the values of a label, all of them unless some are chosen."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _promotions() -> Json:
    """Return the marks of new versions in all panels."""
    versions = "count by (version) (etegrec_model_info)"
    earlier = "count by (version) (etegrec_model_info offset 5m)"
    return {
        "name": "New version",
        "enable": True,
        "datasource": SOURCE,
        "iconColor": "blue",
        "expr": narrowed(f"{versions} unless {earlier}", _selector_of),
        "titleFormat": "{{version}}",
        "step": "60s",
    }


def _panels() -> list[Json]:
    """Return all rows and panels, each with its place."""
    panels: list[Json] = []
    y = 0
    for row in ROWS:
        place = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        panels.append({"id": len(panels) + 1, "type": "row", "title": row.title, "gridPos": place, "panels": []})
        y += 1

        a_line = len(row.panels) if row.panels[0].kind == "stat" else PANELS_A_LINE
        height = HEIGHTS[row.panels[0].kind]
        for at, panel in enumerate(row.panels):
            width = WIDTH // a_line
            place = {"x": at % a_line * width, "y": y + at // a_line * height, "w": width, "h": height}
            panels.append({"id": len(panels) + 1, "gridPos": place, **_panel(panel)})
        y += -(-len(row.panels) // a_line) * height
    return panels


def _panel(panel: Panel) -> Json:
    targets = [
        {"refId": letter, "expr": narrowed(expression, _selector_of), "legendFormat": legend}
        for letter, (legend, expression) in zip(string.ascii_uppercase, panel.queries.items(), strict=False)
    ]
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.meaning,
        "datasource": SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": _look(panel), "overrides": []},
        "options": _options(panel),
    }


def _look(panel: Panel) -> Json:
    look: Json = {"unit": panel.unit, "min": 0}
    if panel.is_stacked:
        look["custom"] = {"stacking": {"mode": "normal"}, "fillOpacity": 30}
    if panel.kind == "stat":  # else Grafana shows every number in green, good or not
        look["color"] = {"mode": "fixed", "fixedColor": "text"}
    if panel.bad_from is not None:
        look["color"] = {"mode": "thresholds"}
        steps = [{"color": "green", "value": None}, {"color": "red", "value": panel.bad_from}]
        look["thresholds"] = {"mode": "absolute", "steps": steps}
    return look


def _options(panel: Panel) -> Json:
    if panel.kind == "stat":
        is_name = any("{{" in legend for legend in panel.queries)
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "textMode": "value_and_name" if is_name else "value"}
    return {"tooltip": {"mode": "multi", "sort": "desc"}, "legend": {"displayMode": "list", "placement": "bottom"}}


def _selector_of(metric: str) -> str:
    """Return the selector of what is chosen above the dashboard, for one metric."""
    return 'instance=~".+"' if metric.startswith(OTHER_JOBS) else CHOSEN


if __name__ == "__main__":
    sys.exit(main())
