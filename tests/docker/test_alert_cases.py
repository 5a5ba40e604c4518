"""Prometheus itself reads configuration and rules, and fires what it should in the cases of ``alert_cases*.yml``."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "docker" / "prometheus"
RULES = PROMETHEUS / "alerts.yml"
CASES = sorted(Path(__file__).parent.glob("alert_cases*.yml"))
PROMTOOL = shutil.which("promtool")

needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed (Debian: apt-get install prometheus)"
)


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    assert PROMTOOL is not None
    return subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False)


@needs_promtool
def test_promtool_reads_the_rules() -> None:
    done = promtool("check", "rules", RULES)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_reads_the_configuration(tmp_path: Path) -> None:
    for path in PROMETHEUS.iterdir():
        shutil.copy(path, tmp_path)
    done = promtool("check", "config", tmp_path / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 rule files found" in done.stdout


@needs_promtool
@pytest.mark.parametrize("cases", CASES, ids=[path.stem for path in CASES])
def test_every_case_fires_what_it_should_and_nothing_else(cases: Path) -> None:
    done = promtool("test", "rules", cases)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    fired = set()
    for case in [case for path in CASES for case in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]]:
        expected = [sample["labels"] for each in case.get("promql_expr_test", []) for sample in each["exp_samples"]]
        fired |= {name for name in alerts for labels in expected if f'"{name}"' in labels}
        fired |= {each["alertname"] for each in case.get("alert_rule_test", []) if each["exp_alerts"]}
    assert alerts - fired == set()
