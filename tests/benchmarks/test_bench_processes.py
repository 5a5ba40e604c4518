"""The benchmark of several processes runs on a small store, and reads memory as the kernel counts it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import bench_processes
from benchmarks.bench_processes import memory_mb
from model_store.console import new_app
from tests.support.service_harness import live_store


@pytest.mark.redis
def test_one_process_is_compared_with_several(tmp_path: Path) -> None:
    live_store(tmp_path)
    app = new_app("benchmark")
    app.command()(bench_processes.main)
    quick = ["--seconds", "0.5", "--connections", "4", "--cores", "2"]
    result = CliRunner().invoke(app, ["--store", str(tmp_path), "--engine", "fake", *quick])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["bench"] == "processes"
    assert [found[name]["processes"] for name in ("one", "several")] == [1, 2]
    for name in ("one", "several"):
        assert found[name]["requests_s"] > 0
        assert 0 < found[name]["outside_engine_ms"] <= found[name]["cpu_ms"]
        assert 0 < found[name]["private_mb"] <= found[name]["pss_mb"]
    assert found["several"]["pss_mb"] > found["one"]["pss_mb"]


def test_memory_that_a_process_takes_shows(tmp_path: Path) -> None:
    before = memory_mb(os.getpid())
    taken = bytearray(b"x" * 50_000_000)
    after = memory_mb(os.getpid())
    assert after["private_mb"] - before["private_mb"] == pytest.approx(len(taken) / 1e6, rel=0.2)
    assert after["private_mb"] <= after["pss_mb"]
