"""The file that Prometheus reads after a pass: every figure under its name, and none that was not measured."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

from training.retraining.gate import GATE_METRIC
from training.retraining.metrics import write_metrics
from training.retraining.pass_report import RetrainReport

MEASURED = RetrainReport(
    promoted=False,
    reason="held back: an implausible gain",
    version="v1",
    held_back="v2",
    events=17,
    rejected={},
    new_items=0,
    changed_items=0,
    candidate={GATE_METRIC: 0.75, "recall@10": 0.9},
    incumbent={GATE_METRIC: 0.25, "recall@10": 0.3},
    started_from=None,
    warnings=[],
    gate={"checks": [{"result": result} for result in ("pass", "hold back", "pass", "not judged", "pass")]},
    drift={
        "shifts": {
            "codes": {"psi": 0.01, "limit": 0.1},
            "items": {"psi": 0.31, "limit": 0.125},
        }
    },
    page=None,
)

NOTHING = replace(MEASURED, promoted=True, held_back=None, events=0, candidate={}, incumbent={}, gate={}, drift={})


def written(report: RetrainReport, path: Path) -> dict[str, float]:
    """Return what stands in the file by name and labels, without the time at which the pass ended."""
    before = time.time()
    write_metrics(report, path)
    rows = [line.rsplit(" ", 1) for line in path.read_text().splitlines() if not line.startswith("#")]
    found = {re.sub(r"^etegrec_retrain_", "", name): float(value) for name, value in rows}
    assert before <= found.pop("finished_timestamp_seconds") <= time.time()
    return found


def test_every_figure_of_a_pass_stands_in_the_file(tmp_path: Path) -> None:
    assert written(MEASURED, tmp_path / "metrics.prom") == {
        "promoted": 0,
        "held_back": 1,
        "events": 17,
        'ndcg{model="candidate"}': 0.75,
        'ndcg{model="live"}': 0.25,
        'limits{result="pass"}': 3,
        'limits{result="hold back"}': 1,
        'limits{result="not judged"}': 1,
        'drift_psi{of="codes"}': 0.01,
        'drift_psi{of="items"}': 0.31,
        'drift_limit{of="codes"}': 0.1,
        'drift_limit{of="items"}': 0.125,
    }


def test_what_the_newest_pass_did_not_measure_is_not_left_from_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "metrics.prom"
    written(MEASURED, path)
    assert written(NOTHING, path) == {"promoted": 1, "held_back": 0, "events": 0}
