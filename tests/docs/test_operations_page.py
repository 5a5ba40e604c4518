"""docs/OPERATIONS.md knows every setting, metric and problem."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.errors import ConfigError
from service import errors
from service.cli import serve
from service.errors import RequestError
from service.settings import ENV_PREFIX, Settings
from service.telemetry import Telemetry

OPERATIONS = (Path(__file__).parents[2] / "docs" / "OPERATIONS.md").read_text()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented_with_its_default(name: str) -> None:
    default = Settings.model_fields[name].default
    shown = {"": "", "None": ""}.get(str(default), f"`{default}`") if name not in ("read_keys", "write_keys") else ""
    row = next((line for line in OPERATIONS.splitlines() if line.startswith(f"| `{ENV_PREFIX}{name.upper()}` |")), "")
    assert row, f"{name} is missing"
    assert row.split("|")[2].strip() == shown
    assert Settings.model_fields[name].description


def test_every_metric_is_documented() -> None:
    names = [family.name for family in Telemetry().registry.collect()]
    assert len(names) > 10
    missing = [name for name in names if f"`{name}" not in OPERATIONS]
    assert not missing


def test_every_problem_is_documented() -> None:
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, RequestError)]
    missing = [
        each.slug for each in kinds if each is not RequestError and f"`{each.slug}` | {each.status}" not in OPERATIONS
    ]
    assert not missing


def test_the_command_takes_its_options_from_the_settings() -> None:
    assert set(serve.__annotations__) - {"return"} <= set(Settings.model_fields)


def test_the_environment_is_read_and_mistakes_name_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETEGREC_MAX_BATCH", "7")
    assert Settings.load().max_batch == 7
    assert Settings.load(max_batch=3).max_batch == 3
    monkeypatch.setenv("ETEGREC_MAX_BATCH", "0")
    with pytest.raises(ConfigError, match="ETEGREC_MAX_BATCH"):
        Settings.load()
