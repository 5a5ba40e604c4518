"""Metrics of the data of a replica: catalogue, events, histories, and the store."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.telemetry.buckets import LATENCY_S


class DataMetrics:
    """Metrics of the data of a replica: catalogue, events, histories, and the store."""

    def _add_catalogue_metrics(self, registry: CollectorRegistry) -> None:
        self.snapshots = Counter(
            "etegrec_snapshots_total",
            "Catalogue snapshots, by result (loaded, saved, kept, refused, unavailable).",
            ("result",),
            registry=registry,
        )

        self.catalogue_revision = Gauge(
            "etegrec_catalogue_revision", "Changes that this replica's catalogue contains.", registry=registry
        )
        self.catalogue_items = Gauge(
            "etegrec_catalogue_items",
            "Items of this replica's catalogue, by state (trained, new: not hidden; hidden).",
            ("state",),
            registry=registry,
        )
        self.catalogue_lag = Gauge(
            "etegrec_catalogue_lag",
            "Changes in the store that this replica's catalogue still lacks.",
            registry=registry,
        )
        self.catalogue_changes = Counter(
            "etegrec_catalogue_changes_total",
            "Changes read from the stream, by result (applied, refused by this version).",
            ("result",),
            registry=registry,
        )
        self.catalogue_step = Histogram(
            "etegrec_catalogue_step_seconds",
            "Time to compute a new catalogue from a batch of changes.",
            buckets=LATENCY_S,
            registry=registry,
        )

    def _add_event_metrics(self, registry: CollectorRegistry) -> None:
        self.events = Counter(
            "etegrec_events_total",
            "Events sent to POST /events, by result (accepted, duplicate).",
            ("result",),
            registry=registry,
        )
        self.events_rejected = Counter(
            "etegrec_event_requests_rejected_total",
            "Requests to POST /events that were refused, by the last part of the problem type.",
            ("slug",),
            registry=registry,
        )

        self.attributions = Counter(
            "etegrec_attributions_total",
            "Attributions of events, by result (valid, other_item, malformed, forged, expired).",
            ("result",),
            registry=registry,
        )
        self.attributed_events = Counter(
            "etegrec_attributed_events_total",
            "Events with an attribution that verifies, by type"
            " (view, click, cart, purchase, rating, impression, dislike, hide, own).",
            ("type",),
            registry=registry,
        )

        self.events_dropped = Counter(
            "etegrec_events_dropped_total",
            "Events dropped before training drained them, because too many waited.",
            registry=registry,
        )
        self.event_stream_length = Gauge(
            "etegrec_event_stream_length", "Recorded events that training has not drained.", registry=registry
        )
        self.event_stream_limit = Gauge(
            "etegrec_event_stream_limit",
            "Events that may wait for training before the oldest are dropped, 0 for any number.",
            registry=registry,
        )
        self.event_stream_lag = Gauge(
            "etegrec_event_stream_lag_seconds",
            "Age of the oldest event that training has not drained, 0 if there is none.",
            registry=registry,
        )

    def _add_import_metrics(self, registry: CollectorRegistry) -> None:
        self.history_import_users = Counter(
            "etegrec_history_import_users_total",
            "Users of training data that this replica imported, by result (written, unchanged).",
            ("result",),
            registry=registry,
        )
        self.history_import_progress = Gauge(
            "etegrec_history_import_progress",
            "Share of the answering version's users that are imported, as far as this replica knows; 1 if all are.",
            registry=registry,
        )

    def show_waiting(self, events: int, since: float | None) -> None:
        """Show how many events wait for training, and since when (Unix seconds)."""
        self.event_stream_length.set(events)
        self.event_stream_lag.set(0 if since is None else max(0.0, time.time() - since))

    def show_items(self, is_hidden: npt.NDArray[np.bool_], trained: int) -> None:
        """Show how many items the catalogue has.

        Args:
            is_hidden: [items], whether each is hidden.
            trained: Rows below it were trained, the others are new items.
        """
        hidden_trained = int(np.count_nonzero(is_hidden[:trained]))
        hidden_new = int(np.count_nonzero(is_hidden[trained:]))
        self.catalogue_items.labels("trained").set(trained - hidden_trained)
        self.catalogue_items.labels("new").set(len(is_hidden) - trained - hidden_new)
        self.catalogue_items.labels("hidden").set(hidden_trained + hidden_new)
