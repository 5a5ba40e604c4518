"""Metrics and traces for operators: one Prometheus registry and one tracing per app."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from model_store.bundle.aliases import ALIAS_NAMES
from model_store.experiments.canary import CANARY_FIGURES
from model_store.tracing.interface import NO_TRACING, Tracing
from service.telemetry.data_metrics import DataMetrics
from service.telemetry.model_metrics import ModelMetrics
from service.telemetry.request_metrics import RequestMetrics


class Telemetry(RequestMetrics, ModelMetrics, DataMetrics):
    """All metrics of one app, and its tracing. docs/OPERATIONS.md lists every metric (a test compares them).

    Args:
        tracing: Keeps the spans of requests.
    """

    def __init__(self, tracing: Tracing = NO_TRACING) -> None:
        self.tracing = tracing
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, CPU time, open files, start; nothing where there is no /proc

        self._add_request_metrics(self.registry)
        self._add_batch_metrics(self.registry)
        self._add_model_metrics(self.registry)
        self._add_alias_metrics(self.registry)
        self._add_catalogue_metrics(self.registry)
        self._add_event_metrics(self.registry)
        self._add_import_metrics(self.registry)
        self._add_key_metrics(self.registry)
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Create the counters of trouble before there is any.

        From no number to 1, Prometheus sees no increase, so an alert would miss the first time.
        """
        self.rejected.labels("internal")
        for reason in ("above_limit", "above_address_limit"):
            self.dropped_connections.labels(reason)
        for result in ("refused", "timeout", "failed"):
            self.model_loads.labels(result)
        self.snapshots.labels("refused")
        for alias in ALIAS_NAMES:
            for result in ("refused", "timeout", "failed", "over_budget"):
                self.alias_loads.labels(alias, result)
        for figure in CANARY_FIGURES:
            self.canary_rollbacks.labels(figure)

    def render(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self.registry)
