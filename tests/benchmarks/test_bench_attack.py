"""A short attack runs from end to end, finds nothing wrong, and says what it promises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import bench_attack
from benchmarks.attack.findings import Findings, total
from model_store.console import new_app


@pytest.mark.redis
def test_a_short_attack_finds_nothing(tmp_path: Path) -> None:
    app = new_app("benchmark")
    app.command()(bench_attack.main)
    short = ["--scale", "0.01", "--minutes", "0.5", "--seed", "1"]
    result = CliRunner().invoke(app, ["--store", str(tmp_path / "attacked"), *short])
    found = json.loads(result.stdout.splitlines()[-1])

    assert result.exit_code == 0, json.dumps(found["parts"], indent=1)
    assert found["bench"] == "attack"
    assert (found["fivexx"], found["hangs"], found["lost"], found["wrong"]) == (0, 0, 0, 0)
    refused, tried = found["refused_bundles"]
    assert refused == tried == 10
    assert found["parts"].keys() == set(bench_attack.PARTS)
    assert found["parts"]["fuzz"]["values"] > 0
    assert found["parts"]["kills"]["service"]["acknowledged"] > 0
    assert found["parts"]["swaps"]["swaps"] >= 1
    assert found["parts"]["ends"]["sigterms"] >= 1
    assert found["neighbour_p99_ratio"] > 0


def test_findings_count_and_keep_examples() -> None:
    first = Findings()
    first.check(True, "right")
    first.check(False, "the first")
    for number in range(10):
        first.add("hangs", f"hang {number}")
    second = Findings()
    second.check(False, "gone", "lost")

    whole = total({"a": first, "b": second})
    assert (whole.cases, whole.wrong, whole.hangs, whole.lost, whole.fivexx) == (3, 1, 10, 1, 0)
    assert whole.examples["lost"] == ["b: gone"]
    assert len(whole.examples["hangs"]) == 5
    assert not whole.is_clean
