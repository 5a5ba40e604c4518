"""Reading of the service's metrics: the figures that the overview shows, and rates between two readings."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

RECOMMEND = ("/recommend", "/recommend/batch")
"""Endpoints whose requests count as questions for recommendations."""


@dataclass(frozen=True)
class Reading:
    """Figures of the service at one moment. Counts run from the start of its process."""

    at: float  # seconds of a clock that never goes back
    requests: float = 0  # answered by POST /recommend and its batch
    failures: float = 0  # of them with a status of 500 or more
    buckets: Mapping[float, float] = field(default_factory=dict)  # requests by upper bound, seconds, cumulative
    answers: Mapping[str, float] = field(default_factory=dict)  # by what served them
    popular: Mapping[str, float] = field(default_factory=dict)  # popular answers by reason
    refusals: Mapping[str, float] = field(default_factory=dict)  # refused requests by kind of problem
    events: float = 0  # accepted
    waiting_events: float = 0  # recorded, not yet in training
    waiting_limit: float = 0  # 0: any number
    waiting_s: float = 0  # age of the oldest of them
    catalogue_lag: float = 0  # changes that this replica lacks
    degraded: float = 0  # answers without the store
    model_loads: Mapping[str, float] = field(default_factory=dict)  # by result


def read_metrics(text: str, at: float | None = None) -> Reading:
    """Return the figures in Prometheus' text format; those that the service does not have are 0."""
    sums = _Sums()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums.add(sample.name, sample.labels, sample.value)

    return Reading(
        at=time.monotonic() if at is None else at,
        requests=sums.requests,
        failures=sums.failures,
        buckets=dict(sorted(sums.buckets.items())),
        answers=sums.by_label("etegrec_answers_total", "served_by"),
        popular=sums.by_label("etegrec_popular_answers_total", "reason"),
        refusals=sums.that_happened("etegrec_rejected_total", "slug"),
        events=sums.by_label("etegrec_events_total", "result").get("accepted", 0),
        waiting_events=sums.one("etegrec_event_stream_length"),
        waiting_limit=sums.one("etegrec_event_stream_limit"),
        waiting_s=sums.one("etegrec_event_stream_lag_seconds"),
        catalogue_lag=sums.one("etegrec_catalogue_lag"),
        degraded=sums.one("etegrec_degraded_answers_total"),
        model_loads=sums.by_label("etegrec_model_loads_total", "result"),
    )


class _Sums:
    """Samples of one reading, by name and labels."""

    def __init__(self) -> None:
        self.requests = 0.0
        self.failures = 0.0
        self.buckets: dict[float, float] = {}
        self._samples: list[tuple[str, Mapping[str, str], float]] = []

    def add(self, name: str, labels: Mapping[str, str], value: float) -> None:
        """Take one sample in."""
        self._samples.append((name, labels, value))
        if labels.get("endpoint") not in RECOMMEND:
            return

        if name == "etegrec_request_seconds_count":
            self.requests += value
            self.failures += value if labels["status"].startswith("5") else 0
        elif name == "etegrec_request_seconds_bucket":
            bound = float(labels["le"])
            self.buckets[bound] = self.buckets.get(bound, 0) + value

    def one(self, name: str) -> float:
        """Return the value of a metric without labels; 0 if there is none."""
        return next((value for found, _, value in self._samples if found == name), 0.0)

    def by_label(self, name: str, label: str) -> dict[str, float]:
        """Return the values of a metric by one of its labels."""
        return {labels[label]: value for found, labels, value in self._samples if found == name}

    def that_happened(self, name: str, label: str) -> dict[str, float]:
        """Return the same without what never happened: some series begin at 0, so that alerts see the first time."""
        return {kind: value for kind, value in self.by_label(name, label).items() if value}


@dataclass(frozen=True)
class Rates:
    """What happened between two readings, or since the start if there is one only."""

    seconds: float  # between them; 0 if there is one only
    requests_per_s: float
    failures: float
    events_per_s: float
    median_ms: float | None  # None: nobody asked
    p95_ms: float | None
    answers: Mapping[str, float]  # by what served them


def rates_between(older: Reading | None, newer: Reading) -> Rates:
    """Return what happened between two readings.

    A service that was started again counts from 0: then, and without an older reading, what ``newer`` counts is all
    there is, and rates are 0 because nobody knows in which time it happened.
    """
    if older is None or newer.requests < older.requests or newer.events < older.events or newer.at <= older.at:
        older = Reading(at=newer.at)
    seconds = newer.at - older.at
    buckets = {bound: count - older.buckets.get(bound, 0) for bound, count in newer.buckets.items()}

    return Rates(
        seconds=seconds,
        requests_per_s=(newer.requests - older.requests) / seconds if seconds else 0,
        failures=newer.failures - older.failures,
        events_per_s=(newer.events - older.events) / seconds if seconds else 0,
        median_ms=_quantile_ms(buckets, 0.5),
        p95_ms=_quantile_ms(buckets, 0.95),
        answers={name: count - older.answers.get(name, 0) for name, count in newer.answers.items()},
    )


def _quantile_ms(buckets: Mapping[float, float], share: float) -> float | None:
    """Return a quantile in milliseconds, interpolated inside its bucket; ``None`` if nothing was counted."""
    total = max(buckets.values(), default=0)
    if total <= 0:
        return None

    wanted = share * total
    lower = 0.0
    below = 0.0
    for bound, count in sorted(buckets.items()):
        if count >= wanted:
            if math.isinf(bound):
                return lower * 1000
            return (lower + (bound - lower) * (wanted - below) / max(count - below, 1e-9)) * 1000
        lower = bound
        below = count
    return lower * 1000
