"""The live store: everything that changes while a model version serves, shared by all replicas.

Two implementations with one contract (``tests/service/store/test_store.py`` runs on both): Redis, and an in-process
one for a single replica. All methods raise :class:`StoreUnavailable` when the store cannot be reached in time, and
never hang: the caller decides whether to answer degraded. Nothing here computes with a model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from model_store.errors import StoreCorrupt
from model_store.events.event import Event
from model_store.events.event_queue import EventBacklog
from service.store.change_stream import ChangeStore


class Recorded(NamedTuple):
    """What became of a batch of events."""

    accepted: int
    duplicates: int


class Forgotten(NamedTuple):
    """What was erased of a user."""

    history: int  # item ids
    events: int  # entries of the event stream


class Store(ABC):
    """Histories, events, cached results; catalogue changes and snapshots are its part :attr:`catalogue`.

    Attributes:
        corrupt_values: Values skipped since start because they do not decode: history entries, cached results,
            lines of the embedded log. Raised as :class:`StoreCorrupt` instead where skipping would lose meaning.
    """

    corrupt_values: int = 0

    @property
    @abstractmethod
    def catalogue(self) -> ChangeStore:
        """Catalogue changes and snapshots. Closed together with this store."""

    @abstractmethod
    async def ping(self) -> None:
        """Return if the store answers."""

    async def check(self) -> None:
        """Return if the store answers and takes writes: one that only reads lets histories and catalogue grow old."""
        await self.ping()

    @abstractmethod
    async def history(self, user_id: str) -> list[str]:
        """Item ids of a user, oldest first, at most the configured cap; empty for an unknown user."""

    async def histories(self, user_ids: Sequence[str]) -> list[list[str] | StoreCorrupt]:
        """:meth:`history` of several users, in the given order; what one of them raises as corrupt stands in its place.

        An implementation for which each call is a round trip makes it one for all.
        """
        found: list[list[str] | StoreCorrupt] = []
        for user_id in user_ids:
            try:
                found.append(await self.history(user_id))
            except StoreCorrupt as failure:
                found.append(failure)
        return found

    @abstractmethod
    async def newest_event(self, user_id: str) -> int | None:
        """Unix time of the newest event of a user, by its timestamp; ``None`` for an unknown user."""

    @abstractmethod
    async def record(self, events: Sequence[Event]) -> Recorded:
        """Append events to the event log and to their users' histories, each in one atomic step.

        Idempotent by ``event_id`` for at least a day. After it returns, :meth:`history` shows them and a crash of the
        service loses none (a crash of Redis at most what its ``appendfsync`` allows, a second by default). After
        :class:`StoreUnavailable` some may have been recorded: repeat the call with the same events.
        """

    @abstractmethod
    async def forget(self, user_id: str) -> Forgotten:
        """Erase the history of a user, and the user's events that training has not drained: it will not see them.

        Events recorded while this runs may stay. Ids of erased events stay known as long as others, so that a client
        that repeats them does not bring them back; counts of items stay, they name nobody. After
        :class:`StoreUnavailable` some may be left: call it again. Takes seconds where millions of events wait.
        """

    @abstractmethod
    async def waiting(self) -> EventBacklog:
        """How many recorded events training has not drained, and since when."""

    @abstractmethod
    async def counts(self, half_life_s: int) -> dict[str, float]:
        """Events by item id, each counting half after a half-life, of the items with the highest counts.

        An event counts from its timestamp on, or from when it was recorded if that was earlier.

        Args:
            half_life_s: One of those that the store was opened with; nothing was counted for others.
        """

    @abstractmethod
    async def cache_get(self, key: str) -> bytes | None:
        """A cached result, ``None`` when absent or expired."""

    @abstractmethod
    async def cache_put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Cache a result. Of what this interface stores, only these and counts ever expire or are evicted."""

    @abstractmethod
    async def close(self) -> None:
        """Flush and disconnect."""
