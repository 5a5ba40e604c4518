"""The configuration: every key has a meaning, a wrong one is answered with the right one, and fingerprints differ."""

from __future__ import annotations

import pytest

from model_store.errors import ConfigError
from training.config import PRESETS, TrainingConfig, load_config, settings


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
    with pytest.raises(ConfigError, match=r"the configuration has seed, threads, compute, data, content, sasrec"):
        load_config("demo", ["zzz=3"])


def test_an_unknown_preset_is_answered_with_the_one_that_was_meant() -> None:
    with pytest.raises(ConfigError, match=r"no preset 'papre' \(did you mean 'paper'\?\)"):
        load_config("papre")


def test_the_fingerprint_tells_settings_apart() -> None:
    base = load_config("cpu")
    assert base.fingerprint == load_config("cpu").fingerprint
    others = [load_config("cpu", [change]) for change in ("seed=7", "joint.epochs=3")]
    found = {config.fingerprint for config in (base, *others, *(load_config(preset) for preset in PRESETS))}
    assert len(found) == 1 + len(others) + len(PRESETS) - 1
    assert all(len(each) == 64 for each in found)


@pytest.mark.parametrize("change", ["threads=2", "seed=42", 'data.columns.user="sku"', "data.min_item=2"])
def test_threads_defaults_and_what_shows_in_the_data_change_no_fingerprint(change: str) -> None:
    assert load_config("cpu", [change]).fingerprint == load_config("cpu").fingerprint


def test_a_setting_that_a_newer_release_adds_changes_no_fingerprint() -> None:
    class NewerConfig(TrainingConfig):
        later: int = 3

    newer = NewerConfig.model_validate(load_config("cpu").model_dump())
    assert newer.fingerprint == load_config("cpu").fingerprint
    assert newer.model_copy(update={"later": 4}).fingerprint != newer.fingerprint


def test_content_has_room_for_its_flag_and_one_width() -> None:
    assert load_config("demo", ["content.dim=0"]).content.dim == 0
    with pytest.raises(ConfigError, match=r"content\.dim: .*must be 0, or at least 2"):
        load_config("demo", ["content.dim=1"])
    with pytest.raises(ConfigError, match=r"content_dim is set by training: set content\.dim instead"):
        load_config("demo", ["model.recommender.content_dim=8"])
