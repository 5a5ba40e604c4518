"""The benchmark of ways to compute in training, on a processor and a tiny model: every figure is there."""

from __future__ import annotations

import json

import pytest

from benchmarks.bench_compute import main
from model_store.console import new_app, run
from tests.support.tiny import set_options


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
        ratio = found[f"{name}_items_s"] / found["fp32_items_s"]
        assert found[f"{name}_over_fp32"] == pytest.approx(ratio, abs=0.02)
