"""Two processes with half a batch each train as one process with the joint batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from model_store.errors import ConfigError
from training.loop import distributed

Trained = tuple[dict[str, Tensor], dict[str, Any]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """The results of all phases, of one process and of each of two."""
    folder = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-W", "error", "-m", "tests.support.training_forks", "together", str(folder)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {
        f"{name}-{rank}": (
            load_file(folder / name / f"tensors-{rank}.safetensors"),
            json.loads((folder / name / f"losses-{rank}.json").read_text()),
        )
        for name, rank in (("one", 0), ("two", 0), ("two", 1))
    }


def test_two_processes_keep_the_same_weights_and_history(trained: dict[str, Trained]) -> None:
    (first, first_losses), (second, second_losses) = trained["two-0"], trained["two-1"]
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert first_losses == second_losses


@pytest.mark.parametrize(
    "phase",
    ["sasrec full", "sasrec sampled", "tokenizer", "joint alternating=True", "joint alternating=False"],
)
def test_weights_are_those_of_one_process(trained: dict[str, Trained], phase: str) -> None:
    one, two = ({k: v for k, v in trained[name][0].items() if k.startswith(f"{phase}/")} for name in ("one-0", "two-0"))
    assert len(one) > 3
    torch.testing.assert_close(two, one, rtol=1e-3, atol=3e-4)


@pytest.mark.parametrize("alternating", [True, False])
def test_losses_are_those_of_one_process(trained: dict[str, Trained], alternating: bool) -> None:
    one, two = (trained[name][1][f"joint alternating={alternating}"] for name in ("one-0", "two-0"))
    assert {"rec", "sq", "sia", "psa"} <= {name for epoch in one for name in epoch}
    assert [epoch.keys() for epoch in two] == [epoch.keys() for epoch in one]
    for mine, theirs in zip(one, two, strict=True):
        assert theirs == pytest.approx(mine, rel=1e-3)


@pytest.mark.parametrize("softmax", ["full", "sampled"])
def test_validation_decides_as_one_process_would(trained: dict[str, Trained], softmax: str) -> None:
    one, two = (trained[name][1][f"sasrec {softmax}"] for name in ("one-0", "two-0"))
    assert two == pytest.approx(one)


def test_alone_everything_is_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    rows, loss = np.arange(5), torch.tensor(2.0)
    with distributed.process_group("cuda:7") as device:
        assert device == "cuda:7"
        mine, counts = distributed.take_shard(rows)
        assert (mine.tolist(), counts) == (rows.tolist(), True)
        assert distributed.gather(loss, [1]) is loss
        assert distributed.even_share(loss) is loss
        assert distributed.compute_on_first(lambda: {"a": 1}) == {"a": 1}
        assert (distributed.rank(), distributed.world_size()) == (0, 1)


def test_a_device_by_number_is_refused_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="cuda:1"), distributed.process_group("cuda:1"):
        pass
