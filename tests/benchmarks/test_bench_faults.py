"""The benchmark of Redis trouble runs from end to end on a small store and says what it promises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import bench_faults
from model_store.console import new_app
from tests.support.service_harness import live_store

KINDS = {
    "killed",
    "stopped",
    "paused",
    "slow",
    "out_of_memory",
    "wrong_password",
    "corrupt",
    "unreachable",
    "restarted_empty",
    "primary_killed",
    "cluster_node_killed",
}


@pytest.mark.redis
def test_every_fault_is_endured_and_nothing_wrong_is_answered(tmp_path: Path) -> None:
    live_store(tmp_path)
    app = new_app("benchmark")
    app.command()(bench_faults.main)
    quick = ["--seconds", "0.5", "--before-s", "0.3", "--users", "10", "--rate", "20", "--threads", "1"]
    result = CliRunner().invoke(app, ["--store", str(tmp_path), "--engine", "fake", *quick])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["bench"] == "faults"
    assert found["faults"].keys() == KINDS
    assert (found["wrong"], found["writes_lost"]) == (0, 0)
    assert found["answered"] > 0
    assert 0 < found["recover_s"] < bench_faults.LONGEST_RECOVERY_S
    for fault in found["faults"].values():
        assert fault["requests"] > 0
        assert fault["writes_failed"] == 0
    assert found["faults"]["killed"]["writes_refused"] > 0
