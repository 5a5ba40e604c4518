"""Interface of the store: histories, events and catalogue changes, which all replicas share.

There are two implementations of one contract (``tests/service/store/test_store.py`` runs on both): Redis, and an
embedded store for a single process. All methods raise :class:`StoreUnavailable` when the store cannot be reached in
time, and never hang: the caller decides whether to answer degraded. A store that is full raises :class:`StoreReadOnly`
for writes, but still hides items and forgets users. Nothing here computes with a model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from model_store.errors import StoreCorrupt
from model_store.events.event import Event
from model_store.events.event_queue import EventBacklog
from service.settings import Settings
from service.store.change_stream import ChangeStore

HISTORY_CAP: int = Settings.model_fields["history_cap"].default
"""Item ids kept per user unless configured otherwise: the default of ``ETEGREC_HISTORY_CAP``."""


class Recorded(NamedTuple):
    """Result of recording a batch of events."""

    accepted: int
    duplicates: int


class Forgotten(NamedTuple):
    """Amount of data that was erased of a user."""

    history: int  # item ids
    events: int  # entries of the event stream


class Store(ABC):
    """Histories and events; :attr:`catalogue` holds catalogue changes and snapshots.

    Attributes:
        corrupt_values: Values skipped since start because they do not decode: history entries, lines of the embedded
            log. Where skipping would change the meaning, :class:`StoreCorrupt` is raised instead.
    """

    corrupt_values: int = 0

    @property
    @abstractmethod
    def dropped_events(self) -> int:
        """Events that this process dropped since start before training drained them, because too many waited."""

    @property
    @abstractmethod
    def catalogue(self) -> ChangeStore:
        """Catalogue changes and snapshots. Closed together with this store."""

    @abstractmethod
    async def ping(self) -> None:
        """Return if the store answers."""

    async def check(self) -> None:
        """Return if the store answers and takes writes, which is tried: without writes, histories grow old.

        Raises:
            StoreReadOnly: It answers, but takes none.
        """
        await self.ping()

    @abstractmethod
    async def history(self, user_id: str) -> list[str]:
        """Return the item ids of a user, oldest first, at most the configured cap; empty for an unknown user."""

    async def histories(self, user_ids: Sequence[str]) -> list[list[str] | StoreCorrupt]:
        """Return the :meth:`history` of several users, in the given order, with errors in the place of corrupt ones.

        An implementation for which each call is a round trip reads all of them in one.
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
        """Return the Unix time of a user's newest event, by its timestamp; ``None`` for an unknown user."""

    @abstractmethod
    async def record(self, events: Sequence[Event]) -> Recorded:
        """Append events to the event log and to their users' histories, each in one atomic step.

        Idempotent by ``event_id`` for at least a day. After it returns, :meth:`history` shows the events, and a crash
        of the service loses none of them (a crash of Redis loses at most what its ``appendfsync`` allows, a second by
        default). After :class:`StoreUnavailable` some may have been recorded: repeat the call with the same events.

        If more events wait for training than the store was opened for, the oldest of them are dropped: they stay in
        histories and counts, but training never sees them.
        """

    @abstractmethod
    async def forget(self, user_id: str) -> Forgotten:
        """Erase the history of a user and the user's events that training has not drained yet.

        Events recorded while this runs may stay. Ids of erased events stay known as long as others, so that a client
        that repeats them does not bring them back. Counts of items stay: they name nobody. After
        :class:`StoreUnavailable` some events may be left: call it again. Takes seconds where millions of events wait.
        """

    @abstractmethod
    async def backlog(self) -> EventBacklog:
        """Return the number of recorded events that training has not drained, and the time of the oldest."""

    @abstractmethod
    async def counts(self, half_life_s: int) -> dict[str, float]:
        """Return decayed counts of events by item id, for the items with the highest counts.

        An event counts half after each half-life. It counts from its timestamp on, or from when it was recorded if
        that was earlier.

        Args:
            half_life_s: One of the half-lives that the store was opened with; others have no counts.
        """

    @abstractmethod
    async def close(self) -> None:
        """Flush and disconnect."""
