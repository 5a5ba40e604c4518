"""The GPU benchmark on a processor and a tiny model: every figure is there, and the engine answers as on the CPU."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
import torch
from typer import Typer

from benchmarks.bench_gpu import main
from model_store.console import new_app, run
from tests.support.tiny import set_options

HAS_PEER = find_spec("transformers") is not None  # installed with the extra `bench` only
SIZES = ["--items", "1500", "--steps", "1", "--repeats", "1", "--batches", "1", "--batches", "3"]
# The sizes of test_bench_catalogue, so that both trace one graph.
MODEL = set_options(["model.tokenizer.codebook_size=256", "model.tokenizer.levels=3", "tokenizer.epochs=2"])


@pytest.fixture
def app() -> Typer:
    made = new_app("benchmark")
    made.command()(main)
    return made


def test_one_line_of_json_with_every_figure(app: Typer, capsys: pytest.CaptureFixture[str]) -> None:
    peer = "--peer" if HAS_PEER else "--no-peer"
    assert run(app, "bench-gpu", ["--device", "cpu", *SIZES, peer, *MODEL]) == 0
    [line] = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert (found["bench"], found["device"], found["device_mib"]) == ("gpu", "cpu", None)
    assert found["overlap_fp32"] == 1
    assert found["largest_difference_fp32"] < 1e-3
    assert 0.8 < found["overlap_bf16"] <= 1
    assert found["captured"] == 2  # histories of this model hold 8 items at most
    assert [each["batch"] for each in found["batches"]] == [1, 3]
    for figures in found["batches"]:
        for name in ("fp32", "bf16"):
            assert min(figures[f"{name}_ms"], figures[f"{name}_req_s"], figures[f"{name}_over_eager"]) > 0
            assert (f"{name}_over_hf" in figures) == HAS_PEER


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_it_needs(app: Typer, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--device", "cuda"]):
        assert run(app, "bench-gpu", arguments or ["--items", "1500"]) == 3
        said = capsys.readouterr()
        assert not said.out
        assert "needs a CUDA device" in said.err
        assert "--device cpu" in said.err
