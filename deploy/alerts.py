"""The metrics that expressions of rules and dashboards name, and those that there are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from service.ingest.metrics import IngestMetrics
from service.telemetry.telemetry import Telemetry

METRIC = re.compile(r"\b(etegrec[_:][a-zA-Z0-9_:]+|process_[a-z_]+|up)\b")
SELECTED = re.compile(METRIC.pattern + r"(\{)?")
QUOTED = re.compile(r'("(?:[^"\\]|\\.)*")')
"""Value of a label; what it holds is no metric."""

OF_PROMETHEUS = {"up"}
"""Metrics that Prometheus makes itself of each target."""


def metric_names() -> set[str]:
    """Return the names of all time series of service, feed and retraining, such as ``etegrec_batch_size_bucket``."""
    from training.retraining.metrics import RetrainMetrics  # torch comes with it, which takes seconds

    names = set(OF_PROMETHEUS)
    registries = [each.registry for each in (Telemetry(), IngestMetrics(), RetrainMetrics())]
    for family in [family for registry in registries for family in registry.collect()]:
        suffixes = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("_total",)}.get(family.type, ("",))
        names |= {family.name + suffix for suffix in suffixes}
    return names


def metrics_in(expression: str) -> set[str]:
    """Return the names of metrics, ours and recorded ones, in an expression; values of labels do not count."""
    return set(METRIC.findall(QUOTED.sub('""', expression)))


def narrowed(expression: str, selector_of: Callable[[str], str]) -> str:
    """Return an expression whose metrics are narrowed by a further selector.

    Args:
        expression: An expression that says nothing about jobs and replicas.
        selector_of: Returns the selector of a metric, such as ``job="a",instance="b"``, from its name.
    """

    def with_selector(found: re.Match[str]) -> str:
        # Blanks between braces: Helm, whose values a selector may hold, would take two of three for its own.
        selector = selector_of(found[1])
        return f"{found[1]}{{ {selector}," if found[2] else f"{found[1]}{{ {selector} }}"

    parts = QUOTED.split(expression)
    return "".join(part if part.startswith('"') else SELECTED.sub(with_selector, part) for part in parts)


def unknown_metrics(rules: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a sentence for each metric that no part of the product has and no rule records.

    Args:
        rules: Rules of a PrometheusRule: ``record`` or ``alert``, and ``expr``.
    """
    known = metric_names() | {rule["record"] for rule in rules if "record" in rule}
    for rule in rules:
        for name in sorted(metrics_in(rule["expr"]) - known):
            yield f"{rule.get('alert', rule.get('record'))} uses {name}, which no part of the product has"


def rules_of(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return all rules of a PrometheusRule."""
    return [rule for group in manifest["spec"]["groups"] for rule in group["rules"]]
