"""The pages in docs/ know every setting, metric and problem, their links lead somewhere, and the map is fresh."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from model_store.errors import ConfigError
from service import errors
from service.cli import serve
from service.errors import RequestError
from service.settings import ENV_PREFIX, Settings
from service.telemetry import Telemetry

ROOT = Path(__file__).parents[2]
OPERATIONS = (ROOT / "docs" / "OPERATIONS.md").read_text()
API = (ROOT / "docs" / "API.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented_with_its_default(name: str) -> None:
    default = Settings.model_fields[name].default
    shown = {"": "", "None": ""}.get(str(default), f"`{default}`") if name not in ("read_keys", "write_keys") else ""
    row = next((line for line in OPERATIONS.splitlines() if line.startswith(f"| `{ENV_PREFIX}{name.upper()}` |")), "")
    assert row, f"{name} is missing"
    assert row.split("|")[2].strip() == shown
    assert row.split("|")[3].strip() == Settings.model_fields[name].description


def test_every_metric_is_documented() -> None:
    families = list(Telemetry().registry.collect())
    assert len(families) > 10
    rows = [line for line in OPERATIONS.splitlines() if line.startswith("| `etegrec_")]
    shown = {row.split("|")[1].strip().strip("`").removesuffix("_total"): row.split("|")[3].strip() for row in rows}
    assert shown == {family.name: family.documentation for family in families}


def test_every_problem_is_documented() -> None:
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, RequestError)]
    missing = [each.slug for each in kinds if each is not RequestError and f"`{each.slug}` | {each.status}" not in API]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


def test_the_map_of_files_is_fresh() -> None:
    command = [sys.executable, str(ROOT / "docs" / "make_map.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_command_takes_its_options_from_the_settings() -> None:
    assert set(serve.__annotations__) - {"return", "context"} <= set(Settings.model_fields)


def test_the_environment_is_read_and_mistakes_name_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETEGREC_MAX_BATCH", "7")
    assert Settings.load().max_batch == 7
    assert Settings.load(max_batch=3).max_batch == 3
    monkeypatch.setenv("ETEGREC_MAX_BATCH", "0")
    with pytest.raises(ConfigError, match="ETEGREC_MAX_BATCH"):
        Settings.load()
