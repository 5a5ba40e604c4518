"""Keys of the configuration: every one has a meaning, and a wrong one is answered with the right one."""

from __future__ import annotations

import pytest

from model_store.errors import ConfigError
from training.config import load_config, settings


def test_every_key_has_a_meaning() -> None:
    assert len(list(settings())) > 80
    assert [setting.key for setting in settings() if not setting.field.description] == []


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("items_file", "data.items_file"),
        ("data.colums.user", "data.columns"),
        ("data.columns.usr", "data.columns.user"),
        ("sasrec.epoch", "sasrec.epochs"),
        ("datas.min_user", "data"),
        ("data.min_users", "data.min_user"),
    ],
)
def test_an_unknown_key_is_answered_with_the_one_that_was_meant(key: str, meant: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config("demo", [f"{key}=3"])
    assert f"(did you mean {meant}?)" in str(refused.value)
    assert "docs/SETTINGS.md" in refused.value.hint


def test_the_keys_of_a_section_are_listed() -> None:
    with pytest.raises(ConfigError, match=r"data.columns has user, item, timestamp, event, value, title"):
        load_config("demo", ["data.columns.zzz=3"])
    with pytest.raises(ConfigError, match=r"the configuration has seed, threads, compute, data, sasrec"):
        load_config("demo", ["zzz=3"])


def test_an_unknown_preset_is_answered_with_the_one_that_was_meant() -> None:
    with pytest.raises(ConfigError, match=r"no preset 'papre' \(did you mean 'paper'\?\)"):
        load_config("papre")
