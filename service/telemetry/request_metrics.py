"""Metrics of requests, batches and API keys."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.telemetry.buckets import BATCH, LATENCY_S, STAGE_S


class RequestMetrics:
    """Metrics of requests, batches and API keys."""

    def _add_request_metrics(self, registry: CollectorRegistry) -> None:
        self.requests = Histogram(
            "etegrec_request_seconds",
            "Time from the first byte of a request to its answer, by endpoint and HTTP status.",
            ("endpoint", "status"),
            buckets=LATENCY_S,
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
        self.explored_answers = Counter(
            "etegrec_explored_answers_total",
            "Recommendations with places that chance filled, whose attribution holds the probabilities.",
            registry=registry,
        )
        self.explored_places = Counter(
            "etegrec_explored_places_total", "Places of recommendations that chance filled.", registry=registry
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

    def _add_batch_metrics(self, registry: CollectorRegistry) -> None:
        self.queue_wait = Histogram(
            "etegrec_queue_wait_seconds", "Time a request waited for its batch.", buckets=STAGE_S, registry=registry
        )
        self.queue_length = Gauge("etegrec_queue_length", "Requests waiting for a batch now.", registry=registry)
        self.batch_size = Histogram(
            "etegrec_batch_size", "Requests computed together.", buckets=BATCH, registry=registry
        )

        self.stage = Histogram(
            "etegrec_stage_seconds",
            "Time of one batch in each stage (prepare, compute, finish).",
            ("stage",),
            buckets=STAGE_S,
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

    def _add_key_metrics(self, registry: CollectorRegistry) -> None:
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

    def forget_key(self, name: str) -> None:
        """Show an API key no more."""
        self.key_requests.remove(name)
        self.key_last_use.remove(name)
        for limit in ("requests_per_s", "concurrent", "bulk_bytes_per_min"):
            self.key_refusals.remove(name, limit)
