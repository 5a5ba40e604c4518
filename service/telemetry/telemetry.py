"""Metrics, traces and logs for operators: Prometheus metrics (one registry per app), spans, JSON logs."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from model_store.bundle.aliases import ALIAS_NAMES
from model_store.experiments.canary import CANARY_FIGURES
from model_store.tracing.interface import NO_TRACING, Tracing

_LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_STAGE_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1.0)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

# Local variables hold histories and keys, which must not be logged.
_WITHOUT_LOCALS = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)


class Telemetry:
    """All metrics of one app, and its tracing. docs/OPERATIONS.md lists every metric (a test compares them).

    Args:
        tracing: Keeps the spans of requests.
    """

    def __init__(self, tracing: Tracing = NO_TRACING) -> None:
        self.tracing = tracing
        self.registry = CollectorRegistry()
        self._shown_aliases: dict[str, str] = {}
        ProcessCollector(registry=self.registry)  # memory, CPU time, open files, start; nothing where there is no /proc
        self._add_request_metrics()
        self._add_batch_metrics()
        self._add_model_metrics()
        self._add_alias_metrics()
        self._add_catalogue_metrics()
        self._add_event_metrics()
        self._add_import_metrics()
        self._add_key_metrics()
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

    def _add_request_metrics(self) -> None:
        registry = self.registry
        self.requests = Histogram(
            "etegrec_request_seconds",
            "Time from the first byte of a request to its answer, by endpoint and HTTP status.",
            ("endpoint", "status"),
            buckets=_LATENCY_S,
            registry=registry,
        )
        self.answers = Counter(
            "etegrec_answers_total",
            "Recommendations, by what served them (model, cache, popular).",
            ("served_by",),
            registry=registry,
        )
        self.popular_answers = Counter(
            "etegrec_popular_answers_total",
            "Recommendations that popular items answered, by reason"
            " (no_history, unknown_items, budget, empty_rule, store_away).",
            ("reason",),
            registry=registry,
        )
        self.degraded = Counter(
            "etegrec_degraded_answers_total", "Recommendations made while the store did not answer.", registry=registry
        )
        self.shown_dropped = Counter(
            "etegrec_shown_dropped_total",
            "Answers that exclude_shown will not remember, because too many waited while the store was away.",
            registry=registry,
        )
        self.rejected = Counter(
            "etegrec_rejected_total",
            "Requests refused, by the last part of the problem type.",
            ("slug",),
            registry=registry,
        )
        self.connections = Gauge("etegrec_connections", "Connections that are open now.", registry=registry)
        self.dropped_connections = Counter(
            "etegrec_connections_dropped_total",
            "Connections given up or only open to probes, by reason"
            " (above_limit, above_address_limit, made_room, head_too_slow, answer_unread).",
            ("reason",),
            registry=registry,
        )

    def _add_batch_metrics(self) -> None:
        registry = self.registry
        self.queue_wait = Histogram(
            "etegrec_queue_wait_seconds", "Time a request waited for its batch.", buckets=_STAGE_S, registry=registry
        )
        self.queue_length = Gauge("etegrec_queue_length", "Requests waiting for a batch now.", registry=registry)
        self.batch_size = Histogram(
            "etegrec_batch_size", "Requests computed together.", buckets=_BATCH, registry=registry
        )

        self.stage = Histogram(
            "etegrec_stage_seconds",
            "Time of one batch in each stage (prepare, compute, finish).",
            ("stage",),
            buckets=_STAGE_S,
            registry=registry,
        )
        self.stage_cpu = Counter(
            "etegrec_stage_cpu_seconds_total",
            "CPU time of the threads of batches in each stage, including those of the onnx engine.",
            ("stage",),
            registry=registry,
        )

        self.deadline_misses = Counter(
            "etegrec_deadline_misses_total",
            "Requests whose time budget was too short, by where that showed (admission, queue, compute).",
            ("at",),
            registry=registry,
        )
        self.narrowed = Counter(
            "etegrec_narrowed_total",
            "Requests searched with fewer beams because their time budget was tight, by beam width.",
            ("beam_width",),
            registry=registry,
        )

        self.cache_lookups = Counter(
            "etegrec_result_cache_lookups_total",
            "Lookups in the result cache, by result (hit, miss).",
            ("result",),
            registry=registry,
        )
        self.dropped = Counter(
            "etegrec_dropped_before_compute_total",
            "Requests that left the queue because their time was up or their client had gone.",
            registry=registry,
        )

    def _add_model_metrics(self) -> None:
        registry = self.registry
        self.model = Gauge(
            "etegrec_model_info", "1 for the model version that answers.", ("version", "engine"), registry=registry
        )
        self.model_loads = Counter(
            "etegrec_model_loads_total",
            "Loads of models, by result (ok, refused, timeout, failed).",
            ("result",),
            registry=registry,
        )
        self.refused_parts = Gauge(
            "etegrec_model_part_refused",
            "1 for a part of the answering model that this machine refuses (item_encoder, reduced_precision).",
            ("part",),
            registry=registry,
        )
        self.store_failures = Counter(
            "etegrec_store_check_failures_total", "Polls of the model store that failed.", registry=registry
        )
        self.store_up = Gauge(
            "etegrec_live_up", "1 while the store answers and takes writes, else 0.", registry=registry
        )
        self.store_read_only = Gauge(
            "etegrec_live_read_only", "1 while the store answers but refuses writes, else 0.", registry=registry
        )
        self.corrupt_values = Counter(
            "etegrec_corrupt_values_total",
            "Values of the store left out because they do not decode.",
            registry=registry,
        )

    def _add_alias_metrics(self) -> None:
        registry = self.registry
        self.alias = Gauge(
            "etegrec_alias_info",
            "1 for the version that is loaded for an alias (candidate, shadow).",
            ("alias", "version"),
            registry=registry,
        )
        self.alias_memory = Gauge(
            "etegrec_alias_memory_bytes",
            "Memory that loading the model of an alias took at most, 0 while none is loaded.",
            ("alias",),
            registry=registry,
        )
        self.alias_loads = Counter(
            "etegrec_alias_loads_total",
            "Loads of models for an alias, by result (ok, refused, timeout, failed, over_budget).",
            ("alias", "result"),
            registry=registry,
        )
        self.canary_requests = Counter(
            "etegrec_canary_requests_total",
            "Requests of a canary's users, by model (live, candidate) and result (answered, empty, error).",
            ("model", "result"),
            registry=registry,
        )
        self.canary_rollbacks = Counter(
            "etegrec_canary_rollbacks_total",
            "Canaries that this replica rolled back, by what was worse"
            " (latency_p99_ms, error_share, empty_share, clicked).",
            ("figure",),
            registry=registry,
        )

        self.shadow_requests = Counter(
            "etegrec_shadow_requests_total",
            "Requests sampled for the shadow, by result (compared, empty, failed, dropped).",
            ("result",),
            registry=registry,
        )
        self.shadow_overlap = Histogram(
            "etegrec_shadow_overlap",
            "Share of the items of an answer that the shadow finds as well.",
            buckets=_SHARES,
            registry=registry,
        )
        self.shadow_seconds = Histogram(
            "etegrec_shadow_seconds", "Time of a search by the shadow.", buckets=_LATENCY_S, registry=registry
        )

    def _add_catalogue_metrics(self) -> None:
        registry = self.registry
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
            buckets=_LATENCY_S,
            registry=registry,
        )

    def _add_event_metrics(self) -> None:
        registry = self.registry
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

    def _add_import_metrics(self) -> None:
        self.history_import_users = Counter(
            "etegrec_history_import_users_total",
            "Users of training data that this replica imported, by result (written, unchanged).",
            ("result",),
            registry=self.registry,
        )
        self.history_import_progress = Gauge(
            "etegrec_history_import_progress",
            "Share of the answering version's users that are imported, as far as this replica knows; 1 if all are.",
            registry=self.registry,
        )

    def _add_key_metrics(self) -> None:
        registry = self.registry
        self.key_requests = Counter(
            "etegrec_key_requests_total",
            "Requests that sent a valid API key, by its name.",
            ("key",),
            registry=registry,
        )
        self.key_last_use = Gauge(
            "etegrec_key_last_use_seconds",
            "Unix time of an API key's last request, by its name; 0 if there was none since the start.",
            ("key",),
            registry=registry,
        )
        self.key_refusals = Counter(
            "etegrec_key_refusals_total",
            "Requests that a limit of their API key refused, by its name and the limit"
            " (requests_per_s, concurrent, bulk_bytes_per_min).",
            ("key", "limit"),
            registry=registry,
        )
        self.wrong_keys = Counter(
            "etegrec_wrong_keys_total", "Requests with an API key that is unknown or has expired.", registry=registry
        )
        self.keys_file_ok = Gauge(
            "etegrec_keys_file_ok",
            "1 if all is well with the keys file, or there is none; 0 while keys read before are used instead.",
            registry=registry,
        )

    def render(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def show_waiting(self, events: int, since: float | None) -> None:
        """Show how many events wait for training, and since when (Unix seconds)."""
        self.event_stream_length.set(events)
        self.event_stream_lag.set(0 if since is None else max(0.0, time.time() - since))

    def show_model(self, version: str, engine: str, refused_parts: Mapping[str, bool]) -> None:
        """Give this version the value 1, and no other; show which of its parts are refused."""
        self.model.clear()
        self.model.labels(version, engine).set(1)
        for part, is_refused in refused_parts.items():
            self.refused_parts.labels(part).set(is_refused)

    def show_alias(self, alias: str, version: str | None, memory_bytes: int) -> None:
        """Show the version that is loaded for an alias, if one is, and its memory."""
        before = self._shown_aliases.pop(alias, None)
        if before is not None:
            self.alias.remove(alias, before)
        if version is not None:
            self._shown_aliases[alias] = version
            self.alias.labels(alias, version).set(1)
        self.alias_memory.labels(alias).set(memory_bytes)

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

    def forget_key(self, name: str) -> None:
        """Show an API key no more."""
        self.key_requests.remove(name)
        self.key_last_use.remove(name)
        for limit in ("requests_per_s", "concurrent", "bulk_bytes_per_min"):
            self.key_refusals.remove(name, limit)


def set_up_logs(level: str) -> None:
    """Write one JSON object a line to standard error, for our own and the server's messages."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(_WITHOUT_LOCALS),
    ]
    number = logging.getLevelNamesMapping()[level.upper()]

    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(level=number, handlers=[handler], force=True)
