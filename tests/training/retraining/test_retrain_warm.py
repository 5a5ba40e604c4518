"""Passes that go on from the live version: where they began, and when training is full after all."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from model_store.bundle.bundle import Bundle
from tests.support.made_up_passes import FakePipeline, judged_against, record
from training.config import WarmConfig, load_config
from training.loop.progress import PlainProgress
from training.retraining import retrain
from training.retraining.retrain import Retrainer
from training.retraining.warm_start import Start
from training.run_folder import RunFolder


class FakeWarmPipeline(FakePipeline):
    """The same, going on from a version."""

    def __init__(self, run: RunFolder, progress: object, start: Start, _: WarmConfig) -> None:
        super().__init__(run, progress)
        self.start = start


@pytest.fixture
def warm_passes(passes: Retrainer, monkeypatch: pytest.MonkeyPatch) -> tuple[Retrainer, str]:
    """A retrainer that is to go on from its first version, which fits."""
    first = passes.run_once().version
    assert first
    record(passes, "i3")
    FakePipeline.trained.clear()
    passes.config = load_config("demo", ["warm.start=true"])

    def found(live: Bundle, runs: Path, _: object, __: object) -> Start:
        assert runs == passes.work / "runs"
        return Start(live.version, RunFolder(runs, passes.config), np.empty((0, 3), np.int16), np.empty(0, np.int64))

    monkeypatch.setattr(retrain, "find_start", found)
    monkeypatch.setattr(retrain, "WarmPipeline", FakeWarmPipeline)
    return passes, first


def test_a_warm_pass_says_where_it_began(warm_passes: tuple[Retrainer, str]) -> None:
    passes, first = warm_passes
    report = passes.run_once()
    assert (report.promoted, report.started_from) == (True, first)
    [folder] = FakePipeline.trained
    assert folder.name.endswith(f"-from-{first}")


def test_a_warm_candidate_that_is_dropped_gets_a_full_training(
    warm_passes: tuple[Retrainer, str], capsys: pytest.CaptureFixture[str]
) -> None:
    passes, first = warm_passes
    passes.progress = PlainProgress(sys.stderr)
    FakePipeline.fused = 0.4
    report = judged_against(passes, 0.5)
    assert (report.promoted, report.started_from) == (False, None)
    assert [folder.name.endswith(f"-from-{first}") for folder in FakePipeline.trained] == [True, False]
    said = capsys.readouterr().err
    assert f"training goes on from {first}" in said
    assert "kept the incumbent: the candidate is worse" in said
    assert "; training from scratch" in said


def test_a_live_version_that_does_not_fit_is_said_and_training_is_full(
    warm_passes: tuple[Retrainer, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    passes, first = warm_passes
    passes.progress = PlainProgress(sys.stderr)
    monkeypatch.setattr(retrain, "find_start", lambda *_: "its run is gone")
    report = passes.run_once()
    assert (report.promoted, report.started_from) == (True, None)
    assert "training from scratch: its run is gone" in capsys.readouterr().err
    [folder] = FakePipeline.trained
    assert first not in folder.name
