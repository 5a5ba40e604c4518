"""Write the rules of the Helm chart from those of the compose stack, ``docker/prometheus/alerts.yml``.

``python -m deploy.make_prometheus_rule`` rewrites the template; ``--check`` fails if it is stale. In a cluster, other
releases have the same metrics, and replicas are pods. So each metric is narrowed to the release, and what is grouped by
``instance`` there is grouped by ``pod`` here.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from deploy.alerts import narrowed

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "docker" / "prometheus" / "alerts.yml"
TEMPLATE = ROOT / "deploy" / "helm" / "etegrec" / "templates" / "prometheus-rule.yaml"

JOBS = '{job=~"etegrec.*"}'
"""Selector in the source that stands for the jobs that scrape the service; the release's own takes its place."""

STALE_EVENTS = "48 * 3600"
"""Number of seconds in the source that the chart's value ``staleEventsHours`` replaces."""

LEFT_OUT = ("etegrec-retraining",)
"""Groups of the source about metrics that nothing reads in a cluster: those in the trainer's files."""

GROUPED = re.compile(r"\bby \(([^)]*)\)")

HEAD = """{{- /* Written from docker/prometheus/alerts.yml by `python -m deploy.make_prometheus_rule`. */ -}}
{{- with .Values.monitoring.rules }}
{{- if .enabled }}
{{- $scope := dict "root" $ "part" "service" }}
{{- $name := include "etegrec.fullname" $ }}
{{- $service := printf "namespace=%q,job=%q" $.Release.Namespace $name }}
{{- $ingest := printf "namespace=%q,job=\\"%s/%s-ingest\\"" $.Release.Namespace $.Release.Namespace $name }}
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: {{ $name }}
  labels:
    {{- include "etegrec.labels" $scope | nindent 4 }}
    {{- with .labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  groups:
"""
TAIL = """{{- end }}
{{- end }}
"""


class RuleError(Exception):
    """A rule of the source cannot be written as one of the chart."""


def main() -> int:
    """Write or check the template; return the exit code."""
    try:
        wanted = template_of(SOURCE.read_text(encoding="utf-8"))
    except (RuleError, yaml.YAMLError) as broken:
        sys.stderr.write(f"error: {SOURCE.relative_to(ROOT)}: {broken}\n")
        return 1

    if "--check" not in sys.argv:
        TEMPLATE.write_text(wanted, encoding="utf-8")
        return 0
    if TEMPLATE.read_text(encoding="utf-8") != wanted:
        sys.stderr.write(f"error: {TEMPLATE.relative_to(ROOT)} is stale; run python -m deploy.make_prometheus_rule\n")
        return 1
    return 0


def template_of(source: str) -> str:
    """Return the chart's template for a file of Prometheus rules.

    Raises:
        RuleError: The file does not hold :data:`STALE_EVENTS` just once.
    """
    if source.count(STALE_EVENTS) != 1:
        raise RuleError(f"{STALE_EVENTS!r}, which staleEventsHours replaces, must be there once")
    groups = yaml.safe_load(source)["groups"]
    lines = [line for group in groups if group["name"] not in LEFT_OUT for line in _group_lines(group)]
    return HEAD + "".join(f"{line}\n" for line in lines) + TAIL


def _group_lines(group: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of one group of rules."""
    yield f"    - name: {group['name']}"
    yield "      rules:"
    for rule in group["rules"]:
        kind = "record" if "record" in rule else "alert"
        yield f"        - {kind}: {rule[kind]}"
        yield "          expr: |"
        yield from (f"            {line}" for line in scoped(rule["expr"].strip()).splitlines())
        if "for" in rule:
            yield f"          for: {rule['for']}"
        if "labels" in rule:
            yield f"          labels: {json.dumps(rule['labels'])}"
        if "annotations" in rule:
            yield "          annotations:"
            yield from (f"            {name}: {_literal(text)}" for name, text in rule["annotations"].items())


def scoped(expression: str) -> str:
    """Return an expression about this release alone, grouped by pods, as the template writes it."""
    text = narrowed(expression.replace(JOBS, ""), _scope_of)
    text = GROUPED.sub(lambda found: found[0].replace("instance", "namespace, job, pod"), text)
    return text.replace(STALE_EVENTS, "{{ .staleEventsHours }} * 3600")


def _scope_of(metric: str) -> str:
    """Return the selector of the part of the release that has a metric."""
    return "{{ $ingest }}" if metric.startswith("etegrec_ingest_") else "{{ $service }}"


def _literal(text: str) -> str:
    """Return a text that Helm leaves as it is, with the replica named by its pod."""
    quoted = json.dumps(" ".join(text.split()).replace("$labels.instance", "$labels.pod"), ensure_ascii=False)
    return quoted.replace("{{", '{{ "{{" }}')


if __name__ == "__main__":
    sys.exit(main())
