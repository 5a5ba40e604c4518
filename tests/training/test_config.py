from __future__ import annotations

import pytest

from training.config import PRESETS, TrainingConfig, load_config


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
