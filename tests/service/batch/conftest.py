"""The store that batch runs of these tests read, and the engine that they use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.service_harness import live_store


@pytest.fixture(autouse=True)
def _fake_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETEGREC_ENGINE", "fake")
    monkeypatch.delenv("ETEGREC_REDIS_URL", raising=False)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    live_store(tmp_path / "models")
    return tmp_path / "models"
