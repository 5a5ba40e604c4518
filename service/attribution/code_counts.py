"""Counts of the items that answers showed by their first codes, added up off the path of the answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.attribution.code_counters import amounts_of_codes
from model_store.attribution.counters import day_of
from model_store.events.counts import Counts

SEND_S = 30.0
"""Seconds between two sendings: there are up to 256 counters for each version, too many for every second."""

MOST_WAITING = 1024
"""Answers that wait to be added up; so many take less than a millisecond."""


class _Shown(NamedTuple):
    """Items of an answer that count as shown."""

    seconds: int
    version: str
    codes: npt.NDArray[np.int16]  # [items, L] of the catalogue
    rows: npt.NDArray[np.int64]  # [n]


class CodeCounts:
    """Counts that the store does not have yet. Used from one event loop.

    An answer only leaves its rows here, which costs less than a microsecond.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next = clock() + SEND_S
        self._waiting: list[_Shown] = []
        self._shown: dict[tuple[str, str], dict[int, int]] = {}  # by day and version, then by code

    @property
    def is_due(self) -> bool:
        """Whether there is something to send, and it is time."""
        return bool(self._waiting or self._shown) and self._clock() >= self._next

    def note(self, seconds: int, version: str, codes: npt.NDArray[np.int16], rows: npt.NDArray[np.int64]) -> None:
        """Count the items of an answer as shown.

        Args:
            seconds: Its Unix time.
            version: Version of the model.
            codes: Codes of the catalogue that the rows are of, ``[items, L]``.
            rows: Rows of the items, ``[n]``.
        """
        self._waiting.append(_Shown(seconds, version, codes, rows))
        if len(self._waiting) >= MOST_WAITING:
            self.add_up()

    def hurry(self) -> None:
        """Make what waits due: the service ends, or a test looks."""
        self._next = self._clock()

    def take_counts(self) -> list[Counts]:
        """Return what waits, by day, and begin anew; nothing before it is due."""
        if not self.is_due:
            return []
        self.add_up()
        self._next = self._clock() + SEND_S
        taken, self._shown = self._shown, {}
        return [Counts(day, amounts_of_codes(version, shown)) for (day, version), shown in taken.items()]

    def add_up(self) -> None:
        """Add up the answers that wait. Until then they keep the codes of their catalogue, which may have changed."""
        waiting, self._waiting = self._waiting, []
        rows: dict[tuple[str, str, int], list[npt.NDArray[np.int64]]] = {}
        codes_of: dict[int, npt.NDArray[np.int16]] = {}
        for each in waiting:
            codes_of[id(each.codes)] = each.codes
            rows.setdefault((day_of(each.seconds), each.version, id(each.codes)), []).append(each.rows)

        for (day, version, identity), parts in rows.items():
            shown = self._shown.setdefault((day, version), {})
            counts = np.bincount(codes_of[identity][np.concatenate(parts), 0])
            for code in np.flatnonzero(counts).tolist():
                shown[code] = shown.get(code, 0) + int(counts[code])
