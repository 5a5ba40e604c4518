from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from model_store.errors import ConfigError
from training.cli import app


def test_the_address_of_redis_comes_from_a_file_of_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "etegrec_redis_url").write_text("not-redis://:hunter2@redis\n")
    monkeypatch.delenv("ETEGREC_REDIS_URL", raising=False)
    monkeypatch.setenv("ETEGREC_SECRETS_DIR", str(secrets))

    (tmp_path / "models").mkdir()
    done = CliRunner().invoke(
        app, ["retrain", "--data", "nowhere", "--store", str(tmp_path / "models"), "--work", str(tmp_path / "work")]
    )
    assert isinstance(done.exception, ConfigError)  # the file was read, and its content refused without being shown
    assert str(done.exception) == "ETEGREC_REDIS_URL is not a Redis URL"
