"""Retraining that could not promote what it publishes ends before it trains."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.bundle.key_files import create_keys
from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import SigningKey, Trust
from model_store.console import run
from model_store.errors import ConfigError
from training.cli import app
from training.config import load_config
from training.loop.progress import SilentProgress
from training.retraining.retrain import Retrainer


def retrainer(folder: Path, trust: Trust, key: SigningKey | None) -> Retrainer:
    store = ModelStore(folder / "models", trust=trust)
    return Retrainer("ml-100k", load_config("cpu"), store, folder / "events", folder, SilentProgress(), key)


def test_a_key_that_is_not_trusted_shows_before_training(tmp_path: Path) -> None:
    keys = {name: SigningKey.load(tmp_path / name) for name in ("own", "other") if create_keys(tmp_path / name)}
    trust = Trust(tmp_path / "own.pub")
    with pytest.raises(ConfigError, match="there is no key to sign with"):
        retrainer(tmp_path, trust, None)
    with pytest.raises(ConfigError, match="is not among the trusted keys"):
        retrainer(tmp_path, trust, keys["other"])
    assert retrainer(tmp_path, trust, keys["own"]).key is keys["own"]


@pytest.mark.parametrize("command", ["publish", "retrain", "schedule"])
def test_the_commands_take_the_key_from_the_environment(
    tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ETEGREC_SIGNING_KEY_FILE", str(tmp_path / "absent.pem"))
    arguments = [str(tmp_path)] if command == "publish" else ["--data", "ml-100k", "--work", str(tmp_path / "work")]
    store = ["--store", str(tmp_path / "models"), "--create-store"]
    assert run(app, "etegrec-train", [command, *arguments, *store]) == 3
    assert "absent.pem cannot be read" in capsys.readouterr().err
