"""Runs that are killed with SIGKILL go on as if nothing had happened; damaged checkpoints are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from model_store.errors import CheckpointError, ConfigError
from tests.support.tiny import OVERRIDES
from training.config import load_config
from training.loop import checkpoint, distributed
from training.loop.checkpoint import BestWeights, ResumableLoop, State, Weights, read_state, seconds_spent, write_state
from training.run_folder import RunFolder

CPU = torch.device("cpu")


def test_a_run_killed_in_every_stage_ends_with_the_same_bytes(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "tests.support.training_forks", "killed", str(tmp_path)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    calm, killed = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("calm", "killed")
    )
    for files in (calm, killed):
        del files[Path("seconds.json")]
    assert {path.stem for path in calm} >= {"sasrec", "tokenizer", "joint", "finetune", "tiger_joint", "tiger_finetune"}
    assert calm.keys() == killed.keys()  # no checkpoint is left
    assert [path for path in calm if calm[path] != killed[path]] == []


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save after every batch."""
    monkeypatch.setattr(checkpoint, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(checkpoint, "SAVING_SHARE", 1e9)


def saved(path: Path) -> Path:
    """A stage with its first batch done."""
    network = nn.Linear(2, 2)
    course = ResumableLoop(path, np.random.default_rng(0), {"network": Weights(network)}, CPU)
    for _ in course.epochs(1):
        for _ in course.batches([1, 2]):
            if course.step:
                return path
    raise AssertionError


def resumed(path: Path, width: int = 2) -> ResumableLoop:
    return ResumableLoop(path, np.random.default_rng(0), {"network": Weights(nn.Linear(2, width))}, CPU)


@pytest.mark.usefixtures("always")
def test_a_stage_goes_on_after_the_batches_that_are_done(tmp_path: Path) -> None:
    course = resumed(saved(tmp_path / "stage.checkpoint.safetensors"))
    assert course.resumed
    assert (course.epoch, course.step, course.done) == (0, 1, 1)
    assert [list(course.batches([10, 20, 30])) for _ in course.epochs(3)] == [[20, 30], [10, 20, 30], [10, 20, 30]]
    assert seconds_spent(tmp_path / "stage.checkpoint.safetensors") > 0
    assert seconds_spent(tmp_path / "none") == 0


def test_nothing_is_saved_before_its_time(tmp_path: Path) -> None:
    course = ResumableLoop(tmp_path / "file", np.random.default_rng(0), {}, CPU)
    assert [list(course.batches([1])) for _ in course.epochs(2)] == [[1], [1]]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("damage", ["truncate", "empty", "flip", "no checkpoint"])
def test_a_damaged_checkpoint_is_named_with_the_fix(tmp_path: Path, damage: str) -> None:
    path = saved(tmp_path / "joint.checkpoint.safetensors")
    whole = path.read_bytes()
    if damage == "no checkpoint":
        RunFolder(tmp_path, load_config("demo", OVERRIDES)).write_tensors(path.name, {"weight": torch.ones(2)})
    else:
        damaged = {"truncate": whole[:-9], "empty": b"", "flip": whole[:-1] + bytes([whole[-1] ^ 1])}[damage]
        path.write_bytes(damaged)
    with pytest.raises(
        CheckpointError, match=r"joint\.checkpoint\.safetensors cannot be resumed: it is damaged"
    ) as told:
        resumed(path)
    assert "remove that file" in told.value.hint


@pytest.mark.usefixtures("always")
def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="to another training"):
        resumed(saved(tmp_path / "file"), width=3)


@pytest.mark.usefixtures("always")
def test_a_machine_that_has_another_checkpoint_than_the_first_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "stage.checkpoint.safetensors")
    monkeypatch.setattr(distributed, "compute_on_first", lambda _: [7, 1.5])
    with pytest.raises(CheckpointError, match="has it after 1 batches, and that of the first process after 7"):
        resumed(path)
    path.unlink()
    with pytest.raises(CheckpointError, match="has it after 0 batches"):
        resumed(path)


def test_a_run_folder_that_machines_do_not_share_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path, load_config("demo"))
    run.require_shared()
    assert list(tmp_path.iterdir()) == []

    # The second of two machines: what the first one writes does not come here.
    monkeypatch.setattr(distributed, "compute_on_first", lambda _: "token of the first")
    monkeypatch.setattr(distributed, "is_first", lambda: False)
    with pytest.raises(ConfigError, match="is not the same folder on all machines") as told:
        run.require_shared()
    assert "mounted" in told.value.hint


def test_tensors_and_values_come_back_as_they_were(tmp_path: Path) -> None:
    tensors = {"a": torch.tensor(3.5), "b": torch.empty(0, 2), "c": torch.arange(6, dtype=torch.int16).view(2, 3)}
    values = {"big": 2**100, "nested": {"list": [1.5, None]}, "text": "é"}
    write_state(tmp_path / "file", State(tensors, values))
    found = read_state(tmp_path / "file")
    assert found.values == values
    assert found.tensors.keys() == tensors.keys()
    assert all(torch.equal(found.tensors[name], tensors[name]) for name in tensors)


def test_the_best_weights_are_kept_and_put_back() -> None:
    network = nn.Linear(1, 1, bias=False)
    best = BestWeights(network)
    for score in (0.2, 0.5, 0.5, 0.1):
        with torch.no_grad():
            network.weight.fill_(score + best.misses)
        best.offer(score, {"recall": score})
    assert (best.score, best.misses, best.metrics) == (0.5, 2, {"recall": 0.5})
    best.load_best()
    assert network.weight.item() == 0.5


def test_a_run_is_resumed_or_started_as_it_was_asked_for(tmp_path: Path) -> None:
    config, folder = load_config("demo"), tmp_path / "run"
    with pytest.raises(CheckpointError, match=r"no run to resume in .*run"):
        RunFolder.create_or_resume(folder, config, "data", resume=True)
    assert not folder.exists()
    for resume in (False, True, None):
        RunFolder.create_or_resume(folder, config, "data", resume)
    RunFolder.create_or_resume(folder, config, "other", resume=False)  # nothing was trained yet
    run = RunFolder.create_or_resume(folder, config, "data")
    run.write_bytes("sasrec.checkpoint.safetensors", b"")
    with pytest.raises(CheckpointError, match=r"there is a run already in .*run"):
        RunFolder.create_or_resume(folder, config, "data", resume=False)
    with pytest.raises(CheckpointError, match="another data source"):
        RunFolder.create_or_resume(folder, config, "other")


def test_a_run_older_than_a_setting_goes_on_with_its_default(tmp_path: Path) -> None:
    config = load_config("demo")
    run = RunFolder.create_or_resume(tmp_path, config, "data")
    stored = run.read_json("config.json")
    del stored["config"]["joint"]["alternating"]
    run.write_json("config.json", stored)
    run.write_bytes("sasrec.safetensors", b"")
    RunFolder.create_or_resume(tmp_path, config, "data")
    with pytest.raises(CheckpointError, match="another configuration"):
        RunFolder.create_or_resume(tmp_path, load_config("demo", ["joint.alternating=false"]), "data")
