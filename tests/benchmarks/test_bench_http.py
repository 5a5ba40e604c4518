"""The benchmarks of the service run from end to end on a small store and say what they promise."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import bench_http, bench_overload
from benchmarks.load import Reply, milliseconds
from model_store.console import new_app
from service.engines.base import SearchResult
from tests.support.bundles import small_catalogue
from tests.support.service_harness import live_store

CATALOGUE = small_catalogue()
SCORES = np.array([-1.0, -2.0, -2.0004], dtype=np.float32)
EXPECTED = SearchResult(np.array([3, 1, 2]), SCORES, SCORES)


def printed(module: Any, *options: str) -> dict[str, Any]:
    app = new_app("benchmark")
    app.command()(module.main)
    result = CliRunner().invoke(app, list(options))
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout.splitlines()[-1]))


def test_bench_http_prints_its_figures(tmp_path: Path) -> None:
    live_store(tmp_path)
    quick = ["--seconds", "0.4", "--repeats", "2", "--latency-seconds", "0.5", "--connections", "4", "--threads", "1"]
    found = printed(
        bench_http, "--store", str(tmp_path), "--engine", "fake", "--returning", "0.5", "--cache", "9", *quick
    )
    for name in ("engine_req_s", "http_req_s", "server_cpu_ms_outside_engine", "p50_ms", "p99_ms", "mean_batch"):
        assert math.isfinite(found[name]), name
    assert found["bench"] == "http"
    assert found["engine_req_s"] > 0
    assert 0 < found["p50_ms"] <= found["p99_ms"]
    assert found["cache_hits"] > 0


def test_bench_overload_prints_its_figures_and_finds_nothing_wrong(tmp_path: Path) -> None:
    live_store(tmp_path)
    quick = ["--seconds", "1", "--peak-seconds", "0.3", "--users", "20", "--threads", "1"]
    found = printed(bench_overload, "--store", str(tmp_path), "--engine", "fake", *quick)
    assert found["bench"] == "overload"
    assert found["answered"] > 0
    assert (found["wrong"], found["other"], found["probes"], found["probes_failed"]) == (0, 0, 10, 0)
    assert {"goodput_of_peak", "p99_ms", "refused_p99_ms", "recover_s", "deadline_ms"} <= found.keys()


def body(items: list[tuple[int, float]], served_by: str = "model") -> bytes:
    listed = [{"item_id": f"item-{row}", "score": score} for row, score in items]
    return json.dumps({"served_by": served_by, "items": listed}).encode()


@pytest.mark.parametrize(
    ("items", "right"),
    [
        ([(3, -1.0), (1, -2.0), (2, -2.0004)], True),
        ([(3, -1.0), (2, -2.0004), (1, -2.0)], True),  # within the margin
        ([(3, -1.0), (1, -2.0), (9, -2.0)], True),  # as good as the last one
        ([(1, -2.0), (3, -1.0), (2, -2.0004)], False),
        ([(3, -1.002), (1, -2.0), (2, -2.0004)], False),
        ([(9, -1.0), (1, -2.0), (2, -2.0004)], False),
        ([(3, -1.0), (1, -2.0), (1, -2.0004)], False),
        ([(3, -1.0), (1, -2.0)], False),
    ],
)
def test_answers_are_compared_up_to_the_margin(items: list[tuple[int, float]], right: bool) -> None:
    assert bench_overload.is_right(body(items), EXPECTED, CATALOGUE) == right


def test_other_kinds_of_answers_are_wrong_and_percentiles_need_replies() -> None:
    whole = [(3, -1.0), (1, -2.0), (2, -2.0004)]
    assert not bench_overload.is_right(body(whole, "popular"), EXPECTED, CATALOGUE)
    assert milliseconds([], 99) is None
    assert milliseconds([Reply(0, 200, 0.1, b""), Reply(1, 200, 0.3, b"")], 50) == 200.0
