"""Metrics of the newest pass of retraining, in a file that Prometheus' node exporter reads (textfile collector)."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from training.retraining.gate import GATE_METRIC
from training.retraining.pass_report import RetrainReport

METRICS = "metrics.prom"
"""File of the metrics, in the work folder."""


class RetrainMetrics:
    """All metrics of a pass. docs/OPERATIONS.md lists every one (a test compares them)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.finished = self._gauge(
            "etegrec_retrain_finished_timestamp_seconds", "Unix time at which the newest pass of retraining ended."
        )
        self.promoted = self._gauge("etegrec_retrain_promoted", "1 if that pass made a new version live, else 0.")
        self.held_back = self._gauge("etegrec_retrain_held_back", "1 if that pass held a version back, else 0.")
        self.events = self._gauge("etegrec_retrain_events", "Recorded events among the data of that pass.")
        self.ndcg = self._gauge(
            "etegrec_retrain_ndcg", "Test NDCG@10 of that pass, of the candidate and of the live version.", "model"
        )
        self.limits = self._gauge(
            "etegrec_retrain_limits",
            "Limits of the gate in that pass by result (pass, hold back, drop, not judged).",
            "result",
        )
        self.drift_psi = self._gauge(
            "etegrec_retrain_drift_psi",
            "Population stability index of what came since the live version was trained (of codes, items, scores).",
            "of",
        )
        self.drift_limit = self._gauge(
            "etegrec_retrain_drift_limit",
            "Largest index that chance gives, or that does not matter; above it there is a shift.",
            "of",
        )

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(name, meaning, labels, registry=self.registry)


def write_metrics(report: RetrainReport, path: Path) -> None:
    """Replace the file by the metrics of a pass; what it did not measure is left out."""
    metrics = RetrainMetrics()
    metrics.finished.set(time.time())
    metrics.promoted.set(report.promoted)
    metrics.held_back.set(report.held_back is not None)
    metrics.events.set(report.events)

    for model, values in (("candidate", report.candidate), ("live", report.incumbent)):
        if values:
            metrics.ndcg.labels(model).set(values[GATE_METRIC])
    for result, count in Counter(check["result"] for check in report.gate.get("checks", [])).items():
        metrics.limits.labels(result).set(count)
    for name, shift in report.drift.get("shifts", {}).items():
        metrics.drift_psi.labels(name).set(shift["psi"])
        metrics.drift_limit.labels(name).set(shift["limit"])
    write_to_textfile(str(path), metrics.registry)
