"""Interface of the store: histories, events, catalogue changes and placements, which all replicas share.

There are two implementations of one contract (``tests/service/store/test_store.py`` runs on both): Redis, and an
embedded store for a single process. All methods raise :class:`StoreUnavailable` when the store cannot be reached in
time, and never hang: the caller decides whether to answer degraded. A store that is full raises :class:`StoreReadOnly`
for writes, but still hides items and forgets users. Nothing here computes with a model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

from model_store.errors import StoreCorrupt, StoreError
from model_store.events.counts import Counts
from model_store.events.event import Event
from model_store.events.event_queue import EventBacklog
from model_store.events.history_entry import UNKNOWN, UserInteractions
from model_store.replication.redis_values import HistoryEntry
from service.settings import Settings
from service.store.change_stream import ChangeStore
from service.store.counter_store import CounterStore
from service.store.document_store import DocumentStore
from service.store.shown_answers import ShownAnswer, Subject
from service.store.subject_store import SubjectStore

HISTORY_CAP: int = Settings.model_fields["history_cap"].default
"""Interactions kept per user unless configured otherwise: the default of ``ETEGREC_HISTORY_CAP``."""


class History(NamedTuple):
    """History of a user as requests need it, oldest first, by the events' timestamps."""

    item_ids: list[str]  # [n]
    letters: bytes  # [n], types, see model_store/events/history_entry.py

    @classmethod
    def untyped(cls, item_ids: list[str]) -> History:
        """Return a history of which nothing but the items is known."""
        return cls(item_ids, UNKNOWN.encode() * len(item_ids))


class Recorded(NamedTuple):
    """Result of recording a batch of events."""

    accepted: int
    duplicates: int


class Forgotten(NamedTuple):
    """Amount of data that was erased of a user."""

    history: int  # interactions
    events: int  # entries of the event stream


class Imported(NamedTuple):
    """Result of importing interactions."""

    users: int  # whose history changed
    interactions: int  # that came


class ImportProgress(NamedTuple):
    """How far the histories of a version are imported."""

    users: int  # done, from the first one in its file on
    is_complete: bool


NOT_IMPORTED = ImportProgress(0, is_complete=False)
"""Progress of a version of which nothing is imported."""


class Store(ABC):
    """Histories, events and what was shown; :attr:`catalogue` and :attr:`placements` hold the rest.

    Attributes:
        system: Name of the database system in traces.
    """

    system: str

    @property
    @abstractmethod
    def corrupt_values(self) -> int:
        """Values skipped since start because they do not decode: history entries, lines of the embedded log.

        Where skipping would change the meaning, :class:`StoreCorrupt` is raised instead.
        """

    @property
    @abstractmethod
    def dropped_events(self) -> int:
        """Events that this process dropped since start before training drained them, because too many waited."""

    @property
    @abstractmethod
    def catalogue(self) -> ChangeStore:
        """Catalogue changes and snapshots. Closed together with this store."""

    @property
    @abstractmethod
    def counters(self) -> CounterStore:
        """Counters of what answers led to. Closed together with this store."""

    @property
    @abstractmethod
    def placements(self) -> DocumentStore:
        """Placements. Closed together with this store."""

    @property
    @abstractmethod
    def experiments(self) -> DocumentStore:
        """Experiments. Closed together with this store."""

    @property
    @abstractmethod
    def canaries(self) -> DocumentStore:
        """Canaries that were rolled back. Closed together with this store."""

    @property
    @abstractmethod
    def subjects(self) -> SubjectStore:
        """Users and sessions in experiments. Closed together with this store."""

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
    async def history(self, user_id: str) -> History:
        """Return the newest interactions of a user, at most the configured cap; empty for an unknown user.

        They are ordered by the events' timestamps; at equal times they stay in the order in which they came. Entries
        that an earlier release stored have no times: they count as old as the user's newest event was then.
        """

    async def histories(self, user_ids: Sequence[str]) -> list[History | StoreError]:
        """Return the :meth:`history` of several users, in the given order, with errors in the place of some.

        A corrupt history has one, and that of a user whose part of the store is away while others answer.

        An implementation for which each call is a round trip reads all of them in one.
        """
        found: list[History | StoreError] = []
        for user_id in user_ids:
            try:
                found.append(await self.history(user_id))
            except StoreCorrupt as failure:
                found.append(failure)
        return found

    @abstractmethod
    async def entries(self, user_id: str) -> list[HistoryEntry]:
        """Return the same as :meth:`history`, with all that is stored of each interaction."""

    @abstractmethod
    async def record(self, events: Sequence[Event], traceparent: str = "", counts: Sequence[Counts] = ()) -> Recorded:
        """Append events to the event log and to their users' histories, each in one atomic step.

        An impression goes to the log only. What speaks against an item goes to the history, but counts for no trend.

        Idempotent by ``event_id`` for at least a day. After it returns, :meth:`history` shows the events, and a crash
        of the service loses none of them (a crash of Redis loses at most what its ``appendfsync`` allows, a second by
        default). After :class:`StoreUnavailable` some may have been recorded: repeat the call with the same events.

        If more events wait for training than the store was opened for, the oldest of them are dropped: they stay in
        histories and counts, but training never sees them.

        Args:
            events: The events.
            traceparent: Span that they came with, which is kept beside them until training drains them; empty for none.
            counts: Amounts that each event adds to :attr:`counters` in the same step, if it is new, with what it says
                about a user or session in an experiment (:attr:`subjects`); empty: none does.
        """

    @abstractmethod
    async def forget(self, user_id: str) -> Forgotten:
        """Erase the history of a user, what the user was shown, and events that training has not drained yet.

        A tombstone stays, a hash of the user's id with the time: :meth:`import_histories` leaves out interactions up
        to it, for good. Later events count as usual.

        Events recorded while this runs may stay. Ids of erased events stay known as long as others, so that a client
        that repeats them does not bring them back. Counts of items stay: they name nobody. After
        :class:`StoreUnavailable` some events may be left: call it again. Takes seconds where millions of events wait.
        """

    @abstractmethod
    async def shown(self, subjects: Sequence[Subject]) -> list[list[ShownAnswer] | StoreError]:
        """Return the newest answers to each of these users or sessions, oldest first; none for an unknown one.

        They hold at most :data:`~service.store.shown_answers.SHOWN_ITEMS` items together. Errors stand in the place of
        some, as in :meth:`histories`. An implementation for which each call is a round trip reads all of them in one.
        """

    @abstractmethod
    async def note_shown(self, answers: Sequence[ShownAnswer]) -> None:
        """Append answers to the lists of those who got them; each list expires after the newest one.

        A store may lose them sooner: the embedded one keeps them in memory, a Redis that is short of memory drops them.
        After :class:`StoreUnavailable` some may be stored: to repeat the call does no harm.

        Raises:
            StoreReadOnly: The store is full, or about to be: these lists leave room for events.
        """

    @abstractmethod
    async def import_histories(self, histories: Sequence[UserInteractions]) -> Imported:
        """Add interactions from elsewhere to histories, each user's in one atomic step; they are no events.

        A user's history becomes the newest of the stored and the given interactions. Given ones are left out if the
        history has the same item at the same time, so repeating the call changes nothing; so are those of an item that
        an earlier release stored without a time, and those up to the user's erasure. At equal times given ones come
        first. Users whose newest interaction is older than idle users are kept are left out.

        Raises:
            StoreReadOnly: The store takes no events, or is about to: imports leave room for them.
        """

    @abstractmethod
    async def import_progress(self, version: str) -> ImportProgress:
        """Return how far the histories of a version are imported."""

    @abstractmethod
    async def save_import_progress(self, version: str, progress: ImportProgress) -> None:
        """Remember how far the histories of a version are imported."""

    @abstractmethod
    def importing(self) -> AbstractAsyncContextManager[bool]:
        """Yield whether this process is the one that may import now; the others wait until the block ends."""

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
