"""Report of what answers led to, computed again from drained events, without the service and its store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from model_store.attribution.counters import VERSION, Row, counts_of_event, rows_of
from model_store.attribution.experiment_counters import mark_of_event, variant_of_days
from model_store.attribution.keys import STORED_NAME, AttributionKeys
from model_store.attribution.token import Refusal, verify
from model_store.errors import ConfigError
from model_store.events.counts import Counts, by_day
from model_store.events.event import Event
from model_store.events.marks import ACTIVE, BAR, SubjectCounts, values_in
from model_store.replication import redis_keys
from model_store.replication.redis_address import TlsFiles
from model_store.replication.redis_reader import reading_redis

NOT_IN_THE_LOG = (
    "answers",
    "impressions of answers that count as shown",
    "click_through",
    "users and sessions of experiments who did nothing",
    "latency, errors and empty answers of experiments",
)
"""What the event log does not tell: answers are counted where they are given, and are no events."""

_ANY_AGE_S = 1 << 40
"""The service recorded attributions that were valid then: here their age plays no part."""

_KEY_HINT = "set ETEGREC_ATTRIBUTION_KEYS as the service has it, or name its store: --redis-url, --store or --log"


class AttributionReport(NamedTuple):
    """What answers led to.

    Attributes:
        counters: Counters by day and name, see :mod:`model_store.attribution.counters`.
        attributed: Events that count in them.
        unverified: Events whose attribution none of the keys signed.
        sums: Sums over the users and sessions of each experiment, see :mod:`model_store.events.marks`.
    """

    counters: dict[str, dict[str, float]]
    attributed: int
    unverified: int
    sums: dict[str, dict[str, float]]

    def as_dict(self, names: Mapping[str, str]) -> dict[str, Any]:
        """Return plain values; ``names`` are those of versions and placements by their hash."""
        days = [{"day": day, **_day(rows_of(amounts), names)} for day, amounts in sorted(self.counters.items())]
        return {
            "days": days,
            "experiments": {label: self._experiment(label) for label in sorted(self.sums)},
            "attributed_events": self.attributed,
            "unverified_events": self.unverified,
            "not_in_the_log": list(NOT_IN_THE_LOG),
        }

    def _experiment(self, label: str) -> list[dict[str, Any]]:
        """Return what each variant of an experiment led to, of those with events."""
        places = sorted({int(name.partition(BAR)[0]) for name in self.sums[label]})
        return [{"variant": place, **self._variant(label, place)} for place in places]

    def _variant(self, label: str, place: int) -> dict[str, Any]:
        found = variant_of_days(self.counters.values(), label, place)
        own = self.sums[label]
        return {
            "events": dict(sorted(found.events.items())),
            "active": {kind: round(own.get(f"{place}{BAR}{kind}{BAR}{ACTIVE}", 0)) for kind in sorted(found.events)},
            "values": {
                kind: {
                    currency: {"payers": payers, "total": total, "squares": squares}
                    for currency, payers, total, squares in values_in(own, place, kind)
                }
                for kind in sorted(found.values)
            },
        }


def attribution_report(events: pl.DataFrame, keys: AttributionKeys) -> AttributionReport:
    """Count events as the service did when it recorded them.

    Args:
        events: Drained events, see :data:`training.retraining.drain_events.SCHEMA`.
        keys: Keys of the service.
    """
    counts: list[Counts] = []
    subjects: dict[str, SubjectCounts] = {}
    unverified = 0
    for values in events.filter(pl.col("attribution").is_not_null()).iter_rows(named=True):
        event = Event.model_validate(values)
        found = verify(event.attribution or "", keys, _ANY_AGE_S, event.timestamp)
        if isinstance(found, Refusal):
            unverified += 1
        else:
            counts.append(counts_of_event(event, found))
            mark = mark_of_event(event, found, is_asker=True)
            if mark is not None:
                subjects.setdefault(mark.experiment, SubjectCounts()).add(mark)
    sums = {label: each.sums for label, each in subjects.items()}
    return AttributionReport(by_day(counts), len(counts), unverified, sums)


def stored_keys(source: str | Path, namespace: str, tls: TlsFiles) -> AttributionKeys:
    """Return the key that a store keeps for its service.

    Args:
        source: URL of a Redis, or the folder of an embedded event log.
        namespace: Name of the shop.
        tls: Files of a TLS connection to Redis.

    Raises:
        ConfigError: The store keeps none.
        StoreUnavailable: Redis cannot be used.
    """
    secret = _read_file(source) if isinstance(source, Path) else _read_redis(source, namespace, tls)
    if not secret:
        raise ConfigError("the key that signed the attributions is not known: the store keeps none", _KEY_HINT)
    return AttributionKeys.of([secret], namespace)


def _read_file(folder: Path) -> bytes:
    path = folder / STORED_NAME
    return path.read_bytes() if path.is_file() else b""


def _read_redis(url: str, namespace: str, tls: TlsFiles) -> bytes:
    keys = redis_keys.keys_at(url, redis_keys.prefix_of(namespace))
    with reading_redis(url, tls) as client:
        found: Any = client.get(keys.attribution_key)
    return bytes(found or b"")


def _day(rows: list[Row], names: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    shown: dict[str, list[dict[str, Any]]] = {"versions": [], "placements": []}
    for row in rows:
        group = "versions" if row.kind == VERSION else "placements"
        shown[group].append(
            {"name": names.get(row.label, row.label), "clicks": row.clicks, "events": row.events, "values": row.values}
        )
    return shown
