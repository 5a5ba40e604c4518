from __future__ import annotations

import os
from pathlib import Path

import pytest

from model_store.errors import ConfigError
from model_store.secret_files import read_secrets


def test_each_file_is_a_variable(tmp_path: Path) -> None:
    (tmp_path / "etegrec_redis_url").write_text("redis://:pass word@redis:6379/0\n")
    (tmp_path / "etegrec_write_keys").write_text("  first,second\n\n")
    (tmp_path / "redis.conf").write_text("not ours")
    assert read_secrets(str(tmp_path)) == {
        "ETEGREC_REDIS_URL": "redis://:pass word@redis:6379/0",
        "ETEGREC_WRITE_KEYS": "first,second",
    }


def test_without_a_folder_there_are_none() -> None:
    assert read_secrets("") == {}


def test_a_folder_that_is_not_mounted_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ETEGREC_SECRETS_DIR: .*missing cannot be read: No such file"):
        read_secrets(str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match="holds no file etegrec_"):
        read_secrets(str(tmp_path))


def test_what_cannot_be_read_is_named_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "etegrec_read_keys").write_bytes(b"\xffhunter2")
    with pytest.raises(ConfigError, match="it is not UTF-8 text") as refused:
        read_secrets(str(tmp_path))
    assert "hunter2" not in str(refused.value)

    (tmp_path / "etegrec_read_keys").unlink()
    (tmp_path / "etegrec_read_keys").mkdir()
    with pytest.raises(ConfigError, match=r"etegrec_read_keys cannot be read: Is a directory"):
        read_secrets(str(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_another_user_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "etegrec_read_keys"
    path.write_text("key")
    path.chmod(0)
    with pytest.raises(ConfigError, match="Permission denied"):
        read_secrets(str(tmp_path))
