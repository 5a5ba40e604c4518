"""The pages in docs/ know every setting, metric and problem, their links lead somewhere, and the map is fresh."""

from __future__ import annotations

import re
import subprocess
import sys
from inspect import signature
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import yaml
from typer.models import OptionInfo

from model_store.errors import ConfigError
from service import errors
from service.cli import serve
from service.errors import RequestError
from service.ingest import cli as ingest
from service.ingest.metrics import IngestMetrics
from service.settings import ENV_PREFIX, Settings
from service.telemetry.telemetry import Telemetry
from training.config import settings
from training.retraining.metrics import RetrainMetrics

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
    registries = [each.registry for each in (Telemetry(), IngestMetrics(), RetrainMetrics())]
    families = [family for registry in registries for family in registry.collect()]
    assert len(families) > 10
    rows = [line for line in OPERATIONS.splitlines() if line.startswith(("| `etegrec_", "| `process_"))]
    shown = {row.split("|")[1].strip().strip("`").removesuffix("_total"): row.split("|")[3].strip() for row in rows}
    if sys.platform != "linux":  # only there a process can tell about itself
        shown = {name: meaning for name, meaning in shown.items() if not name.startswith("process_")}
    assert shown == {family.name: family.documentation for family in families}


def test_every_alert_is_documented_with_its_severity() -> None:
    groups = yaml.safe_load((ROOT / "docker" / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    severities = {
        rule["alert"]: rule["labels"]["severity"] for group in groups for rule in group["rules"] if "alert" in rule
    }
    rows = [line.split("|") for line in OPERATIONS.splitlines() if re.match(r"\| (critical|warning)\b", line)]
    shown = {name: row[1].strip().split(",")[0] for row in rows for name in re.findall(r"`(Etegrec\w+)`", row[3])}
    assert shown == severities


def test_every_variable_of_the_feed_is_documented_with_its_default() -> None:
    commands = (ingest.from_kafka, ingest.from_files, ingest.from_standard_input)
    found = {}
    for command in commands:
        hints = get_type_hints(command, include_extras=True)
        for name, parameter in signature(command).parameters.items():
            option = get_args(hints[name])[1]
            if isinstance(option, OptionInfo) and option.envvar:
                default = "" if parameter.default is None else f"`{parameter.default}`"
                flag = next(iter(option.param_decls or ()), f"--{name.replace('_', '-')}")
                found[str(option.envvar)] = (f"`{flag}`", default)

    rows = [line.split("|") for line in OPERATIONS.splitlines() if line.startswith("| `ETEGREC_INGEST_")]
    assert {row[1].strip(" `"): (row[2].strip(), row[3].strip()) for row in rows} == found


def test_every_problem_is_documented() -> None:
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, RequestError)]
    missing = [each.slug for each in kinds if each is not RequestError and f"`{each.slug}` | {each.status}" not in API]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("maker", ["make_map.py", "make_settings.py"])
def test_generated_pages_are_fresh(maker: str) -> None:
    command = [sys.executable, str(ROOT / "docs" / maker), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_key_of_the_configuration_is_listed() -> None:
    page = (ROOT / "docs" / "SETTINGS.md").read_text()
    assert [setting.key for setting in settings() if f"| `{setting.key}` |" not in page] == []


def test_an_old_python_is_told_what_is_needed(tmp_path: Path) -> None:
    old = tmp_path / "python3.10"
    old.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'import sys; sys.version_info = (3, 10, 4); exec(sys.argv[1])' \"$2\"\n"
    )
    old.chmod(0o755)
    command = ["make", "test", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "is Python 3.10; 3.11, 3.12 or 3.13 is needed" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_the_command_takes_its_options_from_the_settings() -> None:
    assert set(serve.__annotations__) - {"return", "context"} <= set(Settings.model_fields)


def test_the_environment_is_read_and_mistakes_name_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETEGREC_MAX_BATCH", "7")
    assert Settings.load().max_batch == 7
    assert Settings.load(max_batch=3).max_batch == 3
    monkeypatch.setenv("ETEGREC_MAX_BATCH", "0")
    with pytest.raises(ConfigError, match="ETEGREC_MAX_BATCH"):
        Settings.load()
