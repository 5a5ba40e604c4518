"""The benchmark of warm starts on a tiny world: one line of JSON, and the warm side really is warm."""

from __future__ import annotations

import json
from pathlib import Path

from typer import Typer
from typer.testing import CliRunner

from benchmarks.bench_warm import generated, main
from tests.support.tiny import CONTENT, set_options


def test_one_line_of_json_with_every_figure(tmp_path: Path) -> None:
    app = Typer()
    app.command()(main)
    sizes = ["--users", "60", "--items", "60", "--interactions", "1500", "--days", "1", "--day-share", "0.1"]
    quick = set_options(["tokenizer.epochs=60", "joint.epochs=9", "joint.alignment_from=8", f"content.dim={CONTENT}"])
    done = CliRunner().invoke(app, [*sizes, *quick, "--folder", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0

    [line] = done.stdout.splitlines()
    found = json.loads(line)
    assert (found["bench"], found["events_a_day"]) == ("warm", 150)
    assert len(found["cold_s"]) == len(found["warm_s"]) == len(found["warm_ndcg"]) == 1
    assert 0 < found["warm_over_cold_training_s"] < 1
    assert found["warm_minus_cold_ndcg"] == round(found["warm_ndcg"][0] - found["cold_ndcg"][0], 4)
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_generated_interactions_are_in_order_and_hold_late_items() -> None:
    log, table = generated(users=50, items=100, interactions=2_000, days=5, seed=1)
    assert log["timestamp"].is_sorted()
    assert (len(log), len(table)) == (2_000, 100)
    early = set(log[:1_500]["item"])
    late = set(log[1_500:]["item"]) - early
    assert late, "some items come late"
    again, _ = generated(users=50, items=100, interactions=2_000, days=5, seed=1)
    assert log.equals(again)
