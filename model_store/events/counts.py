"""Amounts that an event adds to the counters of a day, and its mark in an experiment.

Counters by code are many, up to 512 for each version, and few ask for them. So they are kept apart from the others of
their day, under :func:`codes_of_day`: whoever reads a day to see how a version does need not read them as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from model_store.events.marks import Mark


class Counts(NamedTuple):
    """Amounts by name of counter, the UTC day that they belong to, written like 2026-01-05, and the event's mark."""

    day: str
    amounts: Mapping[str, float]
    mark: Mark | None = None  # only of an answer in an experiment


BY_CODE = "c|"
"""Beginning of the names of counters by code, see :mod:`model_store.attribution.code_counters`."""

_CODES = ":codes"

NO_COUNTS = Counts("", {})
"""Counts of an event that adds to no counter."""


def add_all(totals: dict[str, float], amounts: Mapping[str, float]) -> None:
    """Add amounts to totals, in place."""
    for name, amount in amounts.items():
        totals[name] = totals.get(name, 0.0) + amount


def codes_of_day(day: str) -> str:
    """Return the name under which the counters by code of a day are kept."""
    return day if day.endswith(_CODES) else f"{day}{_CODES}"


def by_day(counts: Iterable[Counts]) -> dict[str, dict[str, float]]:
    """Return the sums of counts by the day under which they are kept."""
    totals: dict[str, dict[str, float]] = {}
    for each in counts:
        by_code = {name: amount for name, amount in each.amounts.items() if name.startswith(BY_CODE)}
        others = {name: amount for name, amount in each.amounts.items() if name not in by_code}
        for day, amounts in ((each.day, others), (codes_of_day(each.day), by_code)):
            if amounts:
                add_all(totals.setdefault(day, {}), amounts)
    return totals
