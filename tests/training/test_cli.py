from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from model_store.console import run
from model_store.errors import ConfigError
from training.cli import app
from training.commands.options import PROGRAM


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


@pytest.mark.parametrize(
    "command",
    [["run", "--data", "none.csv", "--out", "s3://b/y"], ["report", "s3://b/y"], ["retrain", "--work", "s3://b/y"]],
    ids=lambda command: command[0],
)
def test_a_run_folder_is_never_a_url(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = [] if "--data" in command or command[0] == "report" else ["--data", "none.csv"]
    assert run(app, PROGRAM, [*command, *data]) == 3
    assert "s3://b/y is a URL, and a path on this machine is needed" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_partitions_without_a_cluster_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["prepare", "--data", "none.csv", "--out", str(tmp_path / "out"), "--partitions", "2"]
    assert run(app, PROGRAM, command) == 3
    assert "--partitions needs --ray" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
