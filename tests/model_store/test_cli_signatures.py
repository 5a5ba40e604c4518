"""``etegrec-models`` creates keys, signs versions, and says who signed them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from model_store.bundle.registry import STORE_ENV, ModelStore
from model_store.bundle.signature import SIGNING_ENV, TRUSTED_ENV
from model_store.cli import app
from model_store.console import run
from tests.support.bundles import publish_small

Command = Callable[..., str]


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command on one store; return what it printed."""
    monkeypatch.setenv(STORE_ENV, str(tmp_path / "models"))

    def perform(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        assert run(app, "etegrec-models", arguments) == code
        shown = capsys.readouterr()
        return shown.err if code else shown.out

    return perform


def test_from_keygen_to_a_signed_promotion(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / "signing.pem"
    name = json.loads(command("keygen", str(key), "--json"))["key"]
    version = publish_small(ModelStore(tmp_path / "models"))

    monkeypatch.setenv(TRUSTED_ENV, f"{key}.pub")
    assert "manifest.sig: missing" in command("promote", version, code=5)
    assert "manifest.sig: missing" in command("verify", version, code=5)
    assert json.loads(command("list", "--json"))["versions"][0]["state"] == "untrusted"

    monkeypatch.setenv(SIGNING_ENV, str(key))
    assert command("sign", version) == f"{version} is signed by {name}\n"
    assert command("verify", version) == f"{version} is intact, signed by {name}\n"
    assert f"{version} is live now" in command("promote", version)
    assert f"signed by {name}" in command("show")

    monkeypatch.delenv(TRUSTED_ENV)
    assert command("verify") == f"{version} is intact, signed by {name} (not checked: no keys are trusted here)\n"


def test_mistakes_are_told_with_the_cure(tmp_path: Path, command: Command) -> None:
    key = tmp_path / "signing.pem"
    assert "private" in command("keygen", str(key))
    assert "exists already" in command("keygen", str(key), code=3)
    (tmp_path / "models").mkdir()
    assert "fix: `etegrec-models list`" in command("sign", "absent", "--signing-key", str(key), code=6)
    key.chmod(0o644)
    assert f"fix: chmod 600 {key}" in command("sign", "absent", "--signing-key", str(key), code=3)
    command("sign", "absent", code=2)  # without a key
