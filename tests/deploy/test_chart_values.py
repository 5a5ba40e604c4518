"""The chart agrees with the code: settings, paths, commands, images, and the schema of its values."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import typer
import yaml

from deploy.check_chart import CHART, KUBERNETES, merged
from deploy.make_settings_schema import SET_BY_CHART, own_variables, shared_settings
from deploy.refused_values import MINIMAL, REFUSED, Refused
from model_store.bundle.signature import SIGNING_ENV, TRUSTED_ENV
from model_store.namespace import NAMESPACE_ENV
from service.batch.cli import app as batch_app
from service.http.routes import ENDPOINTS
from service.settings import ENV_PREFIX, Settings
from training.cli import app as train_app
from training.config import PRESETS, GateConfig
from training.retraining.schedule import parse_cron

ROOT = Path(__file__).parents[2]
VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
CHART_FILE = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
SETS = sorted((CHART / "ci").glob("*-values.yaml"))
TEMPLATES = {path.name: path.read_text(encoding="utf-8") for path in sorted((CHART / "templates").iterdir())}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CHECKED_BY_A_TEMPLATE = "minReplicas is larger"


def with_defaults(values: str) -> dict[str, Any]:
    return merged(VALUES, merged(yaml.safe_load(MINIMAL), yaml.safe_load(values) or {}))


@pytest.fixture(scope="module")
def validator() -> Any:
    return jsonschema_rs.validator_for(SCHEMA)


@pytest.mark.parametrize("path", SETS, ids=[path.stem for path in SETS])
def test_the_schema_takes_every_set_of_values(validator: Any, path: Path) -> None:
    values = merged(VALUES, yaml.safe_load(path.read_text(encoding="utf-8")))
    assert [error.message for error in validator.iter_errors(values)] == []


@pytest.mark.parametrize("case", REFUSED, ids=[case.why for case in REFUSED])
def test_the_schema_refuses_wrong_values(validator: Any, case: Refused) -> None:
    is_valid = validator.is_valid(with_defaults(case.values))
    assert is_valid == (CHECKED_BY_A_TEMPLATE in case.says)  # a schema cannot compare two values


def test_the_defaults_alone_are_refused_because_secrets_have_none(validator: Any) -> None:
    places = {tuple(error.instance_path) for error in validator.iter_errors(VALUES)}
    assert places == {("redis", "existingSecret"), ("apiKeys",)}


def test_every_default_is_described_by_the_schema() -> None:
    def undescribed(values: dict[str, Any], schema: dict[str, Any], path: str) -> list[str]:
        if "$ref" in schema:
            schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
        if "allOf" in schema:
            schema = SCHEMA["$defs"]["image"]
        known = schema.get("properties", {})
        if not known and "additionalProperties" in schema:
            return []
        found = [f"{path}{name}" for name in values if name not in known]
        for name, value in values.items():
            if isinstance(value, dict) and name in known:
                found += undescribed(value, known[name], f"{path}{name}.")
        return found

    assert undescribed(VALUES, SCHEMA, "") == []


def test_every_value_is_used_by_a_template() -> None:
    text = "\n".join(TEMPLATES.values())

    def leaves(values: dict[str, Any]) -> list[str]:
        found: list[str] = []
        for name, value in values.items():
            found += leaves(value) if isinstance(value, dict) and value else [name]
        return found

    kinds = {
        "cpu",
        "memory",
        "limits",
        "requests",
        "maxSurge",
        "annotations",
        "k8s-app",
    }  # copied as a whole, with what is around
    unused = {name for name in leaves(VALUES) if not re.search(rf"\.{re.escape(name)}\b", text)} - kinds
    assert unused == set()


def test_variables_are_settings() -> None:
    names = set(re.findall(r"ETEGREC_[A-Z0-9_]+", "\n".join(TEMPLATES.values())))
    names |= {name for path in SETS for name in re.findall(r"\bETEGREC_[A-Z0-9_]+", path.read_text(encoding="utf-8"))}
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields} | {SIGNING_ENV, TRUSTED_ENV}
    known |= {"ETEGREC_BATCH_PROCESSES"}
    assert names
    assert names <= known


def test_the_refused_settings_are_those_that_the_chart_sets_and_the_secret_ones() -> None:
    settings = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    fixed = set(re.findall(r'name"?:? "?(ETEGREC_[A-Z0-9_]+)\b', "\n".join(TEMPLATES.values())))
    secret = {f"{ENV_PREFIX}{name.upper()}" for name, field in Settings.model_fields.items() if "Secret" in str(field)}
    assert len(secret) == 5
    assert fixed - settings == {SIGNING_ENV, "ETEGREC_BATCH_PROCESSES"}
    assert fixed & settings == SET_BY_CHART
    assert settings - set(shared_settings()) == SET_BY_CHART | secret


def test_a_part_may_have_any_setting_of_its_own_but_the_namespace() -> None:
    assert set(shared_settings()) - set(own_variables()) == {NAMESPACE_ENV}
    assert not set(own_variables()) & (SET_BY_CHART - {"ETEGREC_TRACING"})


def test_the_default_of_every_setting_is_a_value_that_the_schema_takes(validator: Any) -> None:
    defaults = {f"{ENV_PREFIX}{name.upper()}": field.default for name, field in Settings.model_fields.items()}
    texts = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in defaults.items()
        if name in shared_settings() and value is not None
    }
    values = with_defaults(yaml.safe_dump({"settings": texts}))
    assert [error.message for error in validator.iter_errors(values)] == []


def test_the_settings_in_the_schema_are_fresh() -> None:
    command = [sys.executable, "-m", "deploy.make_settings_schema", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_probes_and_metrics_ask_paths_that_are_open() -> None:
    asked = set(re.findall(r"\bpath: (/[\w/]+), (?:port|interval)", "\n".join(TEMPLATES.values())))
    open_paths = {each.path for each in ENDPOINTS if each.access == "open" and each.method == "GET"}
    assert asked == {"/health/live", "/health/ready", "/metrics"}
    assert asked <= open_paths


def test_pods_run_as_the_user_of_the_images_from_their_folders() -> None:
    for name in ("service", "trainer"):
        dockerfile = (ROOT / "docker" / f"{name}.Dockerfile").read_text(encoding="utf-8")
        assert "USER 10001:10001" in dockerfile
        assert "ETEGREC_STORE=/models" in dockerfile
        assert VALUES["images"][name]["repository"] == f"etegrec-{name}"
    helpers = TEMPLATES["_helpers.tpl"]
    assert re.findall(r"(?:runAsUser|runAsGroup|fsGroup): (\d+)", helpers) == ["10001"] * 3
    assert 'default "/models"' in helpers


def test_commands_are_in_the_images_that_run_them() -> None:
    scripts = set(PYPROJECT["project"]["scripts"])
    removed = {
        name: re.findall(r'rm "\$\(command -v ([\w-]+)\)"', (ROOT / "docker" / f"{name}.Dockerfile").read_text())
        for name in ("service", "trainer")
    }
    for name in ("service", "trainer"):
        command = re.findall(r"command: \[([\w-]+)", TEMPLATES[f"{name}.yaml"])[0]
        assert command in scripts
        assert command not in removed[name]


def test_the_trainer_command_is_one_that_etegrec_train_takes() -> None:
    trainer = VALUES["trainer"]
    text = re.search(r"args:\n(.*?)\{\{- range", TEMPLATES["trainer.yaml"], re.DOTALL)
    assert text is not None
    given = {
        ".Values.trainer.data": trainer["data"],
        ".Values.trainer.preset": trainer["preset"],
        'include "etegrec.store" .': "/models",
        ".Values.trainer.maxGain": str(trainer["maxGain"]),
        ".Values.trainer.plausibleGain": str(trainer["plausibleGain"]),
    }
    written = re.findall(r"- (?:\{\{ (.*?) \| quote \}\}|(\S+))", text[1])
    arguments = [given[template] if template else literal for template, literal in written]

    _, subcommand = re.findall(r"command: \[([\w-]+), ([\w-]+)\]", TEMPLATES["trainer.yaml"])[0]
    group = typer.main.get_command(train_app)
    parsed = group.commands[subcommand].make_context(subcommand, arguments).params  # type: ignore[attr-defined]
    assert (parsed["store"], str(parsed["work"]), parsed["once"]) == ("/models", "/runs", True)
    assert (parsed["max_gain"], parsed["plausible_gain"]) == (GateConfig().max_gain, GateConfig().plausible_gain)
    assert f"install --directory --owner=10001 --group=10001 /models {parsed['work']}" in (
        ROOT / "docker" / "trainer.Dockerfile"
    ).read_text(encoding="utf-8")
    assert SCHEMA["properties"]["trainer"]["properties"]["preset"]["enum"] == sorted(PRESETS, key=list(PRESETS).index)
    parse_cron(trainer["schedule"])


def test_the_number_of_processes_reaches_every_command_of_a_batch() -> None:
    group = typer.main.get_command(batch_app)
    options = {name: {each.name: each.envvar for each in command.params} for name, command in group.commands.items()}  # type: ignore[attr-defined]
    assert {found["processes"] for found in options.values() if "processes" in found} == {"ETEGREC_BATCH_PROCESSES"}
    assert "processes" in options["recommend"]
    assert "- name: ETEGREC_BATCH_PROCESSES" in TEMPLATES["batch.yaml"]


def test_files_of_secrets_are_named_as_settings_that_are_secret() -> None:
    assert VALUES["redis"]["key"] == "etegrec_redis_url"
    assert "path: etegrec_redis_url}" in TEMPLATES["_helpers.tpl"]
    comment = (CHART / "values.yaml").read_text(encoding="utf-8")
    named = set(re.findall(r"\betegrec_(\w+_keys)\b", comment))
    assert named == {"read_keys", "write_keys", "admin_keys", "attribution_keys"}
    assert named <= set(Settings.model_fields)


def test_the_chart_has_the_version_of_the_package_and_the_oldest_kubernetes_that_is_checked() -> None:
    version = PYPROJECT["project"]["version"]
    assert (CHART_FILE["version"], CHART_FILE["appVersion"]) == (version, version)
    assert CHART_FILE["kubeVersion"] == f">={KUBERNETES[0]}.0-0"


def test_the_page_says_what_was_checked_and_what_the_autoscaler_reads() -> None:
    operations = (ROOT / "docs" / "OPERATIONS.md").read_text(encoding="utf-8")
    assert "rendered and schema-checked" in operations
    assert VALUES["autoscaling"]["queueWait"]["metric"] in operations
