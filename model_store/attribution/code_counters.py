"""Counters of what answers showed, and what was clicked, by the first code of the items.

They are kept beside the other counters of a day (:func:`model_store.events.counts.codes_of_day`), as
``c|<version>.<code>|<what>``. ``<what>`` is ``#shown`` or ``click``, as it is there. A code means nothing outside of
its version. Clicks on items whose code is not known to whoever records them count under the code ``?``. There are no
counters of longer prefixes: with 256 codes a level there may be 65,536 of two codes, on each day.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from model_store.attribution.counters import BAR, SHOWN
from model_store.attribution.names import hash_of, label_of
from model_store.attribution.token import Attribution
from model_store.events.counts import BY_CODE
from model_store.events.event import IMPRESSION, Event

CLICK = "click"
UNKNOWN = "?"


@dataclass
class CodeTally:
    """What was shown and clicked of a version's items.

    Attributes:
        shown: Items shown by first code.
        clicks: Clicks by first code.
        unplaced: Clicks on items whose code was not known.
    """

    shown: dict[int, int] = field(default_factory=dict)
    clicks: dict[int, int] = field(default_factory=dict)
    unplaced: int = 0


def amounts_of_codes(version: str, shown: Mapping[int, int]) -> dict[str, float]:
    """Return what the items of answers add, by name of counter.

    Args:
        version: Version of the model.
        shown: Number of items shown by first code.
    """
    label = label_of(hash_of(version))
    return {f"{BY_CODE}{label}.{code}{BAR}{SHOWN}": float(count) for code, count in shown.items() if count}


def is_counted(event: Event, attribution: Attribution) -> bool:
    """Tell whether an event on an item of its answer counts by code."""
    return event.type == CLICK or (event.type == IMPRESSION and not attribution.is_implicit)


def amounts_of_event_by_code(event: Event, attribution: Attribution, code: int | None) -> dict[str, float]:
    """Return what an event that counts adds, by name of counter.

    Args:
        event: The event, see :func:`is_counted`.
        attribution: Its answer.
        code: First code of its item in the version that answered; ``None`` if it is not known.
    """
    what = CLICK if event.type == CLICK else SHOWN
    return {f"{BY_CODE}{label_of(attribution.version)}.{UNKNOWN if code is None else code}{BAR}{what}": 1.0}


def tally_codes(days: Iterable[Mapping[str, float]], version: str) -> CodeTally:
    """Return what the counters of days say of a version, added up.

    Args:
        days: Counters of each day by name.
        version: Version of the model.
    """
    beginning = f"{BY_CODE}{label_of(hash_of(version))}."
    found = CodeTally()
    for amounts in days:
        for name, amount in amounts.items():
            if name.startswith(beginning):
                code, _, what = name.removeprefix(beginning).partition(BAR)
                _add(found, code, what, round(amount))
    return found


def _add(found: CodeTally, code: str, what: str, count: int) -> None:
    if code == UNKNOWN:
        found.unplaced += count if what == CLICK else 0
        return
    sums = found.clicks if what == CLICK else found.shown
    sums[int(code)] = sums.get(int(code), 0) + count
