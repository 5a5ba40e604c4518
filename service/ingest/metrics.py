"""Metrics of the feed, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from model_store.attribution.token import Refusal


class IngestMetrics:
    """All metrics of one feed. docs/OPERATIONS.md lists every one (a test compares them)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.records = Counter(
            "etegrec_ingest_records_total",
            "Records that etegrec-ingest read, by what became of them (accepted, duplicate, refused).",
            ("result",),
            registry=registry,
        )
        self.refused = Counter(
            "etegrec_ingest_refused_total",
            "Records that are no events, by the field that is wrong (other: one that events do not have; record: no"
            " JSON object, or too long).",
            ("field",),
            registry=registry,
        )
        self.dropped_fields = Counter(
            "etegrec_ingest_dropped_fields_total",
            "Fields of records that were left out, because events do not have them.",
            registry=registry,
        )
        self.attributions = Counter(
            "etegrec_ingest_attributions_total",
            "Attributions of recorded events, by result (valid, other_item, malformed, forged, expired).",
            ("result",),
            registry=registry,
        )
        for refusal in Refusal:  # from no number to 1, Prometheus sees no increase
            self.attributions.labels(refusal.value)
        self.lag_records = Gauge(
            "etegrec_ingest_lag_records", "Messages of Kafka that wait for this process.", registry=registry
        )
        self.lag_seconds = Gauge(
            "etegrec_ingest_lag_seconds",
            "Age of the newest message of Kafka that is recorded, 0 if none waits.",
            registry=registry,
        )
        self.files_waiting = Gauge(
            "etegrec_ingest_files_waiting",
            "Files of the folder or bucket that are not recorded yet.",
            registry=registry,
        )
        self.file_failures = Gauge(
            "etegrec_ingest_file_failures", "Attempts to read a file that failed, since the start.", registry=registry
        )
        self.is_stalled = Gauge(
            "etegrec_ingest_stalled", "1 while the store takes no events, so that the feed waits.", registry=registry
        )
        self.confirmed_at = Gauge(
            "etegrec_ingest_confirmed_at_seconds",
            "Unix time at which a batch was last recorded and confirmed to its source.",
            registry=registry,
        )
