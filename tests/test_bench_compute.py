"""The benchmark of ways to compute in training, on a processor and a tiny model: every figure is there."""

from __future__ import annotations

import json

import pytest

from benchmarks.bench_compute import main
from model_store.console import new_app, run
from tests.tiny import set_options


def test_one_line_of_json_with_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    app = new_app("benchmark")
    app.command()(main)
    sizes = ["--device", "cpu", "--steps", "2", "--repeats", "2"]
    # Room for the items of the benchmark in two levels.
    assert run(app, "bench-compute", [*sizes, *set_options(["model.tokenizer.codebook_size=128"])]) == 0
    [line] = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert (found["bench"], found["device"], found["steps"]) == ("compute", "cpu", 2)
    for name in ("fp32", "bf16", "compiled"):
        assert found[f"{name}_items_s"] > 0
        assert found[f"{name}_spread_s"][0] <= found[f"{name}_spread_s"][1]
    assert found["fp32_over_fp32"] == 1
