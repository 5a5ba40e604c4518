"""Interface of the counters: sums by day that events and answers add to, and the key that signs attributions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from model_store.events.counts import Counts


class Addition(NamedTuple):
    """Amounts that a replica adds beside those of events, such as answers that it gave.

    ``number`` differs from that of the replica's addition before: an addition that is repeated, because nobody knows
    whether it came through, counts once.
    """

    replica: str
    number: int
    counts: Sequence[Counts]
    names: Mapping[str, str]  # by the hash that stands for them in counters


class CounterStore(ABC):
    """Counters of each UTC day. What events add comes with the event, see :meth:`service.store.base.Store.record`."""

    @abstractmethod
    async def add(self, addition: Addition) -> None:
        """Add amounts, all of them or none.

        Raises:
            StoreUnavailable: Perhaps it was added; repeat it as it is.
        """

    @abstractmethod
    async def read(self, days: Sequence[str]) -> list[dict[str, float]]:
        """Return the counters of each day by name; empty for a day without any.

        Those by code are read under :func:`~model_store.events.counts.codes_of_day`.
        """

    @abstractmethod
    async def names(self) -> dict[str, str]:
        """Return all names that were added, by their hash."""

    @abstractmethod
    async def delete(self, days: Sequence[str]) -> None:
        """Delete the counters of days, those by code as well."""

    @abstractmethod
    async def key(self, proposed: bytes) -> bytes:
        """Return the key that signs attributions: the first that any replica proposed."""
