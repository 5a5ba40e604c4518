"""Settings of the console: what it refuses to start with, and that docs/CONSOLE.md lists them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from console.errors import ConsoleError
from console.settings import ENV_PREFIX, Settings

ROOT = Path(__file__).parents[2]


def test_without_a_write_key_nothing_can_be_changed() -> None:
    assert not Settings.load().can_change
    assert not Settings.load(key="reader").can_change
    assert Settings.load(write_key="writer").can_change
    assert Settings.load(allow_changes=True).can_change


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"host": "0.0.0.0"}, "no password"),
        ({"host": "192.168.1.5"}, "no password"),
        ({"host": "shop.example"}, "no password"),
        ({"password": "short"}, "5 characters"),
        ({"service": "localhost:8000"}, "no address"),
        ({"service": "file:///etc/passwd"}, "no address"),
        ({"port": 0}, "PORT"),
        ({"sample_s": "often"}, "SAMPLE_S"),
    ],
)
def test_what_is_unsafe_or_wrong_is_refused(given: dict[str, Any], word: str) -> None:
    with pytest.raises(ConsoleError, match=word):
        Settings.load(**given)


def test_a_password_opens_a_public_address_and_is_never_shown() -> None:
    settings = Settings.load(host="0.0.0.0", password="a-long-password-of-mine", write_key="the-key")
    assert "a-long-password" not in repr(settings)
    assert "the-key" not in repr(settings)
    for local in ("127.0.0.1", "::1", "localhost", "127.1.2.3"):
        assert Settings.load(host=local).is_local


def test_secrets_come_from_files_and_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etegrec_console_key").write_text("from-file\n")
    key = Settings.load(str(tmp_path)).key
    assert key is not None
    assert key.get_secret_value() == "from-file"
    monkeypatch.setenv(f"{ENV_PREFIX}KEY", "from-environment")
    key = Settings.load(str(tmp_path)).key
    assert key is not None
    assert key.get_secret_value() == "from-environment"
    with pytest.raises(ConsoleError, match="no folder"):
        Settings.load(str(tmp_path / "missing"))


def test_the_page_lists_every_setting_with_its_default() -> None:
    page = (ROOT / "docs" / "CONSOLE.md").read_text()
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None or field.default == "" else f"`{field.default}`"
        assert f"| `{ENV_PREFIX}{name.upper()}` | {default} | {field.description} |".replace("|  |", "| |") in page


def test_an_empty_variable_takes_away_the_key_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etegrec_console_write_key").write_text("a-key-that-may-write")
    assert Settings.load(str(tmp_path)).can_change
    monkeypatch.setenv("ETEGREC_CONSOLE_WRITE_KEY", "")
    assert not Settings.load(str(tmp_path)).can_change
