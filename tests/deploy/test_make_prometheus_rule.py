"""The chart's rules are those of the compose stack, each metric narrowed to the release."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deploy.alerts import metrics_in, rules_of
from deploy.make_prometheus_rule import LEFT_OUT, SOURCE, TEMPLATE, RuleError, scoped, template_of

GROUPS = [each for each in yaml.safe_load(SOURCE.read_text(encoding="utf-8"))["groups"] if each["name"] not in LEFT_OUT]
RULES = rules_of({"spec": {"groups": GROUPS}})


def test_the_template_is_fresh() -> None:
    command = [sys.executable, "-m", "deploy.make_prometheus_rule", "--check"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("up{job=~\"etegrec.*\"} == 0", "up{ {{ $service }} } == 0"),
        ("min(etegrec_live_up)", "min(etegrec_live_up{ {{ $service }} })"),
        ('rate(etegrec_answers_total{served_by="up"}[5m])',
         'rate(etegrec_answers_total{ {{ $service }},served_by="up"}[5m])'),
        ("max by (instance) (etegrec_ingest_stalled)",
         "max by (namespace, job, pod) (etegrec_ingest_stalled{ {{ $ingest }} })"),
        ("max(etegrec_event_stream_lag_seconds) > 48 * 3600",
         "max(etegrec_event_stream_lag_seconds{ {{ $service }} }) > {{ .staleEventsHours }} * 3600"),
    ],
)  # fmt: skip
def test_an_expression_is_narrowed_to_the_release(source: str, wanted: str) -> None:
    assert scoped(source) == wanted


@pytest.mark.parametrize("rule", RULES, ids=[rule.get("alert", rule.get("record")) for rule in RULES])
def test_no_metric_of_a_rule_means_other_releases(rule: dict[str, str]) -> None:
    text = scoped(rule["expr"])
    for metric in metrics_in(rule["expr"]):
        scope = "ingest" if metric.startswith("etegrec_ingest_") else "service"
        everywhere = re.findall(rf"\b{metric}\b(.{{0,16}})", text)
        assert everywhere
        assert all(after.startswith(f"{{ {{{{ ${scope} }}}}") for after in everywhere)
    assert "instance" not in re.sub(r"on \(instance\)", "", text)


def test_braces_of_alerts_are_left_to_prometheus_and_replicas_are_pods() -> None:
    text = TEMPLATE.read_text(encoding="utf-8")
    summaries = re.findall(r"summary: (.*)", text)
    assert len(summaries) == len([rule for rule in RULES if "alert" in rule])
    assert any('{{ "{{" }} $labels.pod }}' in each for each in summaries)
    assert "$labels.instance" not in text


def test_a_source_without_the_age_of_events_is_refused() -> None:
    source = SOURCE.read_text(encoding="utf-8")
    with pytest.raises(RuleError, match="staleEventsHours"):
        template_of(source.replace("48 * 3600", "172800"))
