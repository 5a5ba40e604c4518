"""Counters of what answers led to, by day, model version, placement, and variant of an experiment.

A counter's name has parts between bars:

    v|<version>|<what>       v|2f1a09c4|click
    p|<placement>|<what>     p|77aa01de|purchase|EUR
    x|<experiment>.<variant>|<what>, see :mod:`model_store.attribution.experiment_counters`
    c|<version>.<code>|<what>, kept apart, see :mod:`model_store.attribution.code_counters`

Versions and placements stand for themselves as hashes (:mod:`model_store.attribution.names`): a name may hold anything,
and whoever counts an event need not know it. ``<what>`` is one of

    #answers                 answers that were given
    #shown                   items that were shown
    <type>                   events of a type: click, purchase, an own one
    <type>|<currency>        sum of their values; ``-`` stands for none

The day is that of the *answer*, in UTC, which its token says: so the clicks of a day are those on its answers, however
late they come, and no client can write into another day.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from functools import lru_cache
from typing import NamedTuple

from model_store.attribution.names import NO_NAME, hash_of, label_of
from model_store.attribution.token import Attribution
from model_store.events.counts import Counts
from model_store.events.event import IMPRESSION, Event

ANSWERS = "#answers"
SHOWN = "#shown"
"""Counters that no type of event can be called like."""

NO_CURRENCY = "-"
BAR = "|"

VERSION = "v"
PLACEMENT = "p"
EXPERIMENT = "x"
"""First part of the names of counters."""


_FIRST_DAY = date(1970, 1, 1)


def day_of(seconds: int) -> str:
    """Return the UTC day of a Unix time, such as 2026-01-05."""
    return _day(seconds // 86_400)


@lru_cache(maxsize=1024)
def _day(number: int) -> str:
    return (_FIRST_DAY + timedelta(days=number)).isoformat()


def days_until(seconds: int, count: int) -> list[str]:
    """Return the newest ``count`` days at a Unix time, oldest first."""
    return [day_of(seconds - 86_400 * back) for back in range(count - 1, -1, -1)]


def amounts_of_answers(version: str, placement: str | None, answers: int, shown: int) -> dict[str, float]:
    """Return what answers of one version and placement add, by name of counter.

    Args:
        version: Version of the model.
        placement: Name of the placement, if there was one.
        answers: Number of answers.
        shown: Number of their items that count as shown.
    """
    amounts: dict[str, float] = {}
    for group in _groups(hash_of(version), hash_of(placement)):
        amounts[f"{group}{BAR}{ANSWERS}"] = answers
        if shown:
            amounts[f"{group}{BAR}{SHOWN}"] = shown
    return amounts


def counts_of_event(event: Event, attribution: Attribution) -> Counts:
    """Return what an event adds that an answer led to."""
    amounts: dict[str, float] = {}
    groups = _groups(attribution.version, attribution.placement)
    if attribution.experiment != NO_NAME:
        groups.append(f"{EXPERIMENT}{BAR}{label_of(attribution.experiment)}.{attribution.variant}")

    for group in groups:
        amounts[f"{group}{BAR}{event.type}"] = 1
        if event.type == IMPRESSION and not attribution.is_implicit:
            amounts[f"{group}{BAR}{SHOWN}"] = 1
        if event.value is not None:
            amounts[f"{group}{BAR}{event.type}{BAR}{event.currency or NO_CURRENCY}"] = event.value
    return Counts(day_of(attribution.seconds), amounts)


class Row(NamedTuple):
    """What the answers of one version or placement led to, on one day."""

    kind: str  # VERSION or PLACEMENT
    label: str  # of its hash
    answers: int
    shown: int
    events: dict[str, int]  # by type
    values: dict[str, dict[str, float]]  # by type and currency

    @property
    def clicks(self) -> int:
        """Events of the type click."""
        return self.events.get("click", 0)

    @property
    def click_through(self) -> float | None:
        """Clicks for each item shown; ``None`` if none was."""
        return self.clicks / self.shown if self.shown else None


def rows_of(amounts: Mapping[str, float], kinds: Iterable[str] = (VERSION, PLACEMENT)) -> list[Row]:
    """Return the counters of a day by version and placement, in order. Counters of other kinds are left out."""
    found: dict[tuple[str, str], Row] = {}
    for name, amount in sorted(amounts.items()):
        kind, label, *what = name.split(BAR)
        if kind in kinds and what:
            empty = Row(kind, label, 0, 0, {}, {})
            found[kind, label] = _with_amount(found.get((kind, label), empty), what, amount)
    return list(found.values())


def _with_amount(row: Row, what: list[str], amount: float) -> Row:
    match what:
        case ["#answers"]:
            return row._replace(answers=round(amount))

        case ["#shown"]:
            return row._replace(shown=round(amount))

        case [kind]:
            return row._replace(events={**row.events, kind: round(amount)})

        case [kind, currency]:
            values = {**row.values.get(kind, {}), currency: amount}
            return row._replace(values={**row.values, kind: values})

        case _:
            return row


def _groups(version: int, placement: int) -> list[str]:
    """Return the beginnings of the names of all counters that an answer counts in."""
    groups = [f"{VERSION}{BAR}{label_of(version)}"]
    if placement != NO_NAME:
        groups.append(f"{PLACEMENT}{BAR}{label_of(placement)}")
    return groups
