"""Metrics of the models of a replica: the live one, those beside it, and the model store."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.telemetry.buckets import LATENCY_S, SHARES


class ModelMetrics:
    """Metrics of the models of a replica: the live one, those beside it, and the model store."""

    def _add_model_metrics(self, registry: CollectorRegistry) -> None:
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

    def _add_alias_metrics(self, registry: CollectorRegistry) -> None:
        self._shown_aliases: dict[str, str] = {}
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
        self.variant_fallbacks = Counter(
            "etegrec_variant_fallbacks_total",
            "Requests of variants with the candidate that the live model answered, by reason (absent, failed).",
            ("reason",),
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
            buckets=SHARES,
            registry=registry,
        )
        self.shadow_seconds = Histogram(
            "etegrec_shadow_seconds", "Time of a search by the shadow.", buckets=LATENCY_S, registry=registry
        )

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
