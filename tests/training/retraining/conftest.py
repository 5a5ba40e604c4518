"""Passes that train nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.made_up_passes import FakePipeline, judged_against, made_up_passes, record
from training.retraining.retrain import Retrainer


@pytest.fixture
def passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Retrainer:
    """A retrainer without a model whose candidates are made up."""
    return made_up_passes(tmp_path, monkeypatch)


@pytest.fixture
def two_passes(passes: Retrainer) -> tuple[str, str]:
    """Versions of two passes, with events in between."""
    first = passes.run_once().version
    record(passes, "i3")
    FakePipeline.fused = 0.6
    second = judged_against(passes, 0.5).version
    assert first != second
    assert first
    assert second
    return first, second
