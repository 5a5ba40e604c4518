"""Amounts that an event adds to the counters of a day, and its mark in an experiment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from model_store.events.marks import Mark


class Counts(NamedTuple):
    """Amounts by name of counter, the UTC day that they belong to, written like 2026-01-05, and the event's mark."""

    day: str
    amounts: Mapping[str, float]
    mark: Mark | None = None  # only of an answer in an experiment


NO_COUNTS = Counts("", {})
"""Counts of an event that adds to no counter."""


def add_all(totals: dict[str, float], amounts: Mapping[str, float]) -> None:
    """Add amounts to totals, in place."""
    for name, amount in amounts.items():
        totals[name] = totals.get(name, 0.0) + amount


def by_day(counts: Iterable[Counts]) -> dict[str, dict[str, float]]:
    """Return the sums of counts by day."""
    totals: dict[str, dict[str, float]] = {}
    for each in counts:
        if each.amounts:
            add_all(totals.setdefault(each.day, {}), each.amounts)
    return totals
