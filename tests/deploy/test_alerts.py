"""Alerts and recorded rules are about metrics, labels, problems and pages that exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.alerts import metric_names, metrics_in, rules_of, unknown_metrics
from deploy.make_prometheus_rule import SOURCE
from service import errors
from service.errors import RequestError
from service.http.routes import ENDPOINTS
from service.telemetry.telemetry import Telemetry

ROOT = Path(__file__).parents[2]
RULES = rules_of({"spec": yaml.safe_load(SOURCE.read_text(encoding="utf-8"))})
ALERTS: list[dict[str, Any]] = [dict(rule) for rule in RULES if "alert" in rule]
EXPRESSIONS = "\n".join(rule["expr"] for rule in RULES)


def values_of(label: str) -> set[str]:
    """The values of a label that alerts name, by ``=`` or ``=~``."""
    given = re.findall(rf'\b{label}=~?"([^"]+)"', EXPRESSIONS)
    return {value for each in given for value in each.split("|")}


def test_every_metric_of_a_rule_is_there() -> None:
    assert len(ALERTS) > 25
    assert list(unknown_metrics(RULES)) == []
    assert all(metrics_in(rule["expr"]) for rule in RULES)


def test_every_problem_that_an_alert_counts_is_one() -> None:
    known = {each.slug for each in vars(errors).values() if isinstance(each, type) and issubclass(each, RequestError)}
    assert values_of("slug") == {"internal", "queue-full", "deadline-missed"}
    assert values_of("slug") - {"internal"} <= known


def test_every_endpoint_that_an_alert_counts_is_one() -> None:
    assert values_of("endpoint") == {"/recommend", "/events"}
    assert values_of("endpoint") <= {each.path for each in ENDPOINTS}


@pytest.mark.parametrize("label", ["reason", "at", "result", "served_by"])
def test_every_label_that_an_alert_counts_is_documented(label: str) -> None:
    page = (ROOT / "docs" / "OPERATIONS.md").read_text(encoding="utf-8")
    rows = "\n".join(line for line in page.splitlines() if line.startswith("| `etegrec_"))
    named = values_of(label) - {"ok"}
    assert named
    assert [value for value in named if not re.search(rf"[(,] ?{value}\b", rows)] == []


@pytest.mark.parametrize("alert", ALERTS, ids=[alert["alert"] for alert in ALERTS])
def test_an_alert_says_what_is_wrong_what_to_do_and_where_more_is_written(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert set(alert["annotations"]) == {"summary", "description", "page"}
    assert 20 < len(alert["annotations"]["summary"]) < 130
    assert len(alert["annotations"]["description"]) > 80

    page, heading = alert["annotations"]["page"].split(", ")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert heading.strip('"') in headings


def test_counters_whose_first_increase_matters_begin_at_zero() -> None:
    samples = [sample for family in Telemetry().registry.collect() for sample in family.samples]
    counted = re.findall(r"increase\((\w+)(?:\{(.*?)\})?\[", EXPRESSIONS)
    assert len(counted) > 5
    for name, selector in counted:
        here = [sample for sample in samples if sample.name == name]
        assert here, name
        for label, operator, value in re.findall(r'(\w+)(=~|=|!=)"([^"]+)"', selector):
            values = {sample.labels[label] for sample in here}
            assert values - {value} if operator == "!=" else set(value.split("|")) <= values, (name, label)


def test_no_alert_is_there_twice() -> None:
    names = [alert["alert"] for alert in ALERTS]
    assert len(names) == len(set(names))


def test_a_metric_that_is_not_there_is_found() -> None:
    rules = [
        {"record": "etegrec:waits:mean", "expr": "avg(etegrec_queue_wait_seconds_sum)"},
        {"alert": "Known", "expr": 'etegrec:waits:mean{part="etegrec_no_metric"} > 0 * up'},
        {"alert": "Mistyped", "expr": "rate(etegrec_queue_waits_seconds_sum[5m]) > etegrec_live_up"},
        {"alert": "Half", "expr": "etegrec_queue_wait_seconds > 1"},
        {"alert": "Process", "expr": "process_started > 1"},
    ]
    assert list(unknown_metrics(rules)) == [
        "Mistyped uses etegrec_queue_waits_seconds_sum, which no part of the product has",
        "Half uses etegrec_queue_wait_seconds, which no part of the product has",
        "Process uses process_started, which no part of the product has",
    ]
    assert rules_of({"spec": {"groups": [{"rules": rules[:1]}, {"rules": rules[1:]}]}}) == rules


@pytest.mark.parametrize(
    "name",
    [
        "etegrec_events_total",
        "etegrec_live_up",
        "etegrec_request_seconds_count",
        "etegrec_batch_size_bucket",
        "etegrec_ingest_stalled",
        "etegrec_retrain_held_back",
        "process_resident_memory_bytes",
    ],
)
def test_names_are_those_of_time_series(name: str) -> None:
    assert name in metric_names()
    assert name.removesuffix("_total") + "_other" not in metric_names()
