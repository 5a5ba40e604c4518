from __future__ import annotations

from pathlib import Path

import pytest

from model_store.errors import ConfigError
from service.access.keys import keys_of_settings
from service.access.limits import Limits
from service.settings import Settings


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("ETEGREC_READ_KEYS", "ETEGREC_WRITE_KEYS", "ETEGREC_REDIS_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("ETEGREC_SECRETS_DIR", str(tmp_path))
    return tmp_path


def test_secrets_come_from_files(folder: Path) -> None:
    (folder / "etegrec_write_keys").write_text("writer-key-1\n")
    (folder / "etegrec_redis_url").write_text("redis://:hidden@redis:6379/0\n")
    settings = Settings.load()
    assert settings.redis_url is not None
    assert settings.redis_url.get_secret_value() == "redis://:hidden@redis:6379/0"
    assert [key.name for key in keys_of_settings(settings, Limits())] == ["write-1"]
    assert settings.secrets_dir == str(folder)
    assert "hidden" not in repr(settings)


def test_variables_win_over_files_and_options_over_both(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "etegrec_port").write_text("1\n")
    assert Settings.load().port == 1
    monkeypatch.setenv("ETEGREC_PORT", "2")
    assert Settings.load().port == 2
    assert Settings.load(port=3).port == 3


def test_a_folder_that_is_given_wins_over_the_variable(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (folder / "etegrec_port").write_text("1\n")
    (other / "etegrec_port").write_text("4\n")
    assert Settings.load(secrets_dir=str(other)).port == 4


def test_a_service_whose_secrets_are_missing_does_not_start_open(folder: Path) -> None:
    with pytest.raises(ConfigError, match="holds no file"):
        Settings.load()


def test_a_wrong_value_in_a_file_names_the_variable_and_not_the_value(folder: Path) -> None:
    (folder / "etegrec_port").write_text("hunter2\n")
    with pytest.raises(ConfigError, match=r"^ETEGREC_PORT: ") as refused:
        Settings.load()
    assert "hunter2" not in str(refused.value)
