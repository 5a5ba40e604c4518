"""Store of a single process, without Redis: state in memory, every change first in a log on disk.

Catalogue snapshots are files beside the log.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from model_store.errors import StoreError, StoreUnavailable
from model_store.events import event_log
from model_store.events.counts import NO_COUNTS, Counts
from model_store.events.disk_reserve import disk_error
from model_store.events.erasure import erase_from_state, erase_user
from model_store.events.event import Event
from model_store.events.event_log import EventLine, ForgetLine, ImportedLine, ImportLine
from model_store.events.event_queue import BacklogCounter, EventBacklog
from model_store.events.history_entry import UserInteractions
from model_store.events.log_writer import SEGMENT_BYTES, LogWriter
from model_store.replication.redis_values import HistoryEntry
from service.store.base import (
    HISTORY_CAP,
    NOT_IMPORTED,
    Forgotten,
    History,
    Imported,
    ImportProgress,
    Recorded,
    Store,
)
from service.store.counter_store import CounterStore
from service.store.embedded_changes import EmbeddedChanges
from service.store.embedded_counters import EmbeddedCounters
from service.store.embedded_documents import EmbeddedDocuments
from service.store.embedded_shown import ShownLists
from service.store.embedded_state import Batch, EmbeddedState, Step
from service.store.embedded_subjects import EmbeddedSubjects
from service.store.embedded_writer import EmbeddedWriter
from service.store.shown_answers import ShownAnswer, Subject
from service.store.subject_store import SubjectStore
from service.store.user_history import UserHistory


class EmbeddedStore(Store):
    """Store in the memory of one process; see :class:`Store`.

    The constructor reads the newest state and all segments after it, and blocks meanwhile. On a full or read-only disk
    the store can be read, and says so in :meth:`check`; on a full one users can be forgotten and items hidden.

    Args:
        events_folder: Folder of the log; created if missing.
        history_cap: Interactions kept per user.
        half_lives_s: Half-lives of the decayed counts of events, in seconds, each once.
        user_ttl_s: Seconds without an event after which a user is forgotten: at the next start, or when a state is
            written; 0 for never.
        max_undrained_events: Number of waiting events above which the oldest are dropped when a state is written, whole
            segments at a time; 0 for none.
        segment_bytes: Size at which a segment is closed and the state written.
        clock: Returns Unix seconds.
        open_log: Opens the log of a folder, given its segment size.

    Raises:
        LockHeld: Another process has this folder open.
        StoreReadOnly: The folder cannot be used at all.
    """

    system = "embedded"

    def __init__(
        self,
        events_folder: Path,
        *,
        history_cap: int = HISTORY_CAP,
        half_lives_s: Sequence[int] = (),
        user_ttl_s: int = 0,
        max_undrained_events: int = 0,
        segment_bytes: int = SEGMENT_BYTES,
        clock: Callable[[], float] = time.time,
        open_log: Callable[[Path, int], LogWriter] = LogWriter,
    ) -> None:
        self._clock = clock
        self.log = open_log(events_folder, segment_bytes)
        self._state = EmbeddedState(history_cap, half_lives_s, user_ttl_s)
        self._backlog = BacklogCounter(events_folder)
        self._writer = EmbeddedWriter(self.log, self._state, self._backlog, max_undrained_events, clock)
        self._erasing = asyncio.Lock()  # two at once would undo each other's work on a segment
        self._is_closed = False
        self._corrupt_lines = 0

        self._replay(events_folder)
        self._changes = EmbeddedChanges(events_folder, self._state.changes, self._commit)
        self._counters = EmbeddedCounters(events_folder, self._state.counters, self._commit)
        self._placements = EmbeddedDocuments(self._state.placements, self._commit)
        self._experiments = EmbeddedDocuments(self._state.experiments, self._commit)
        self._canaries = EmbeddedDocuments(self._state.canaries, self._commit)
        self._subjects = EmbeddedSubjects(self._state.subjects, self._commit)
        self._shown = ShownLists(clock)

    @property
    def corrupt_values(self) -> int:
        """Lines of the log that were skipped at the start."""
        return self._corrupt_lines

    @property
    def dropped_events(self) -> int:
        """Events dropped since start, whole segments at a time."""
        return self._writer.dropped_events

    @property
    def catalogue(self) -> EmbeddedChanges:
        """Catalogue changes and snapshots."""
        return self._changes

    @property
    def counters(self) -> CounterStore:
        """Counters of what answers led to."""
        return self._counters

    @property
    def placements(self) -> EmbeddedDocuments:
        """Placements."""
        return self._placements

    @property
    def experiments(self) -> EmbeddedDocuments:
        """Experiments."""
        return self._experiments

    @property
    def canaries(self) -> EmbeddedDocuments:
        """Canaries that were rolled back."""
        return self._canaries

    @property
    def subjects(self) -> SubjectStore:
        """Users and sessions in experiments."""
        return self._subjects

    async def ping(self) -> None:
        """Return unless closed."""
        self._check_open()

    async def check(self) -> None:
        """Write to the disk, unless something else was written since the last check."""
        self._check_open()
        await self._writer.probe()

    async def history(self, user_id: str) -> History:
        """Read from memory."""
        self._check_open()
        stored = self._state.histories.get(user_id, UserHistory())
        return History(list(stored.item_ids), bytes(stored.letters))

    async def entries(self, user_id: str) -> list[HistoryEntry]:
        """Read from memory."""
        self._check_open()
        stored = self._state.histories.get(user_id, UserHistory())
        return [HistoryEntry(ord(each.letter), each.timestamp, each.item_id) for each in stored.interactions()]

    async def record(self, events: Sequence[Event], traceparent: str = "", counts: Sequence[Counts] = ()) -> Recorded:
        """Record events and return after fsync."""
        now = int(self._clock())
        trace = traceparent or None
        lines = [
            EventLine(recorded_at=now, event=event, traceparent=trace, counts=added if added.amounts else None)
            for event, added in zip(events, counts or [NO_COUNTS] * len(events), strict=True)
        ]
        accepted = await self._commit(lambda batch: sum(map(batch.add_event, lines)), is_deletion=False)
        return Recorded(accepted, len(events) - accepted)

    async def forget(self, user_id: str) -> Forgotten:
        """Log that the user is forgotten, so that a restart does not bring the history back; then rewrite segments."""
        line = ForgetLine(user_id=user_id, erased_at=int(self._clock()))
        async with self._erasing:
            history = await self._commit(lambda batch: batch.add_forget(line), is_deletion=True)
            self._shown.forget(Subject("user", user_id))
            erased = await asyncio.to_thread(self._erase, user_id)
        return Forgotten(history, erased)

    async def shown(self, subjects: Sequence[Subject]) -> list[list[ShownAnswer] | StoreError]:
        """Read from memory."""
        self._check_open()
        return [self._shown.of(subject) for subject in subjects]

    async def note_shown(self, answers: Sequence[ShownAnswer]) -> None:
        """Keep them in memory: a restart forgets what was shown."""
        self._check_open()
        for answer in answers:
            self._shown.add(answer)

    async def import_histories(self, histories: Sequence[UserInteractions]) -> Imported:
        """Log what changes a history, and return after fsync."""
        now = int(self._clock())
        lines = [
            ImportLine(
                recorded_at=now,
                user_id=each.user_id,
                item_ids=tuple(each.item_ids),
                timestamps=tuple(each.timestamps),
                letters=each.letters,
            )
            for each in histories
        ]
        came: list[int] = []

        def step(batch: Batch) -> int:
            came.extend(map(batch.add_import, lines))
            return sum(came)

        interactions = await self._commit(step, is_deletion=False)
        return Imported(sum(count > 0 for count in came), interactions)

    async def import_progress(self, version: str) -> ImportProgress:
        """Read from memory."""
        self._check_open()
        return self._state.imports.get(version, NOT_IMPORTED)

    async def save_import_progress(self, version: str, progress: ImportProgress) -> None:
        """Log the progress."""
        line = ImportedLine(version=version, users=progress.users, is_complete=progress.is_complete)
        await self._commit(lambda batch: batch.add_progress(line), is_deletion=False)

    @asynccontextmanager
    async def importing(self) -> AsyncIterator[bool]:
        """Yield ``True``: no other process has this store open."""
        self._check_open()
        yield True

    async def backlog(self) -> EventBacklog:
        """Read the log after the place up to which training has drained it."""
        self._check_open()
        return await asyncio.to_thread(self._backlog.count)

    async def counts(self, half_life_s: int) -> dict[str, float]:
        """Read from memory."""
        self._check_open()
        counts = self._state.counts.get(half_life_s)
        return {} if counts is None else counts.at(self._clock())

    async def close(self) -> None:
        """Finish what is being written, then let another process open the folder. It may be closed twice."""
        if self._is_closed:
            return

        self._is_closed = True
        await self._writer.close()

    def _replay(self, folder: Path) -> None:
        base = event_log.newest_state(folder)
        later = [number for number in event_log.segment_numbers(folder) if number > base]
        paths = [event_log.state_path(folder, base), *(event_log.segment_path(folder, number) for number in later)]

        for path in paths:
            content = event_log.read_lines(path)
            self._corrupt_lines += len(content.rejected)
            for line in content.lines:
                self._state.apply(line)

        now = int(self._clock())
        self._state.expire(now)
        if self._state.forget_idle(now) or later:
            self._writer.compact()

    def _erase(self, user_id: str) -> int:
        """Erase a user from the files. Blocks. Returns the number of events that training has not drained."""
        try:
            if self._writer.is_state_stale:
                erase_from_state(self.log.folder, user_id)
            return erase_user(self.log.folder, user_id, self._writer.closed_segment)
        except OSError as cause:
            raise disk_error(cause) from cause

    async def _commit(self, step: Step, is_deletion: bool) -> int:
        """Write an operation; see :meth:`EmbeddedWriter.commit`."""
        self._check_open()
        return await self._writer.commit(step, is_deletion)

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreUnavailable("the embedded store is closed", "the service is shutting down")
