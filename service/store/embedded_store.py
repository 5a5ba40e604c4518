"""Store of a single process, without Redis: state in memory, every change first in a log on disk.

Catalogue snapshots are files beside the log.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from model_store.errors import StoreError, StoreUnavailable
from model_store.events import event_log
from model_store.events.event import Event
from model_store.events.event_log import EventLine, ForgetLine, LogLine, LogWriter, disk_error
from model_store.events.event_queue import BacklogCounter, EventBacklog, erase_user
from service.store.base import HISTORY_CAP, Forgotten, Recorded, Store
from service.store.embedded_changes import EmbeddedChanges
from service.store.embedded_state import Batch, EmbeddedState, Step


class EmbeddedStore(Store):
    """Store in the memory of one process; see :class:`Store`.

    Concurrent writes share one fsync (group commit), which runs in a thread. The constructor reads the newest state and
    all segments after it, and blocks meanwhile.

    Args:
        events_folder: Folder of the log; created if missing.
        history_cap: Item ids kept per user.
        half_lives_s: Half-lives of the decayed counts of events, in seconds, each once.
        segment_bytes: Size at which a segment is closed and the state written.
        clock: Returns Unix seconds.
        open_log: Opens the log of a folder, given its segment size.

    Raises:
        LockHeld: Another process has this folder open.
        StoreUnavailable: The folder cannot be written.
    """

    def __init__(
        self,
        events_folder: Path,
        *,
        history_cap: int = HISTORY_CAP,
        half_lives_s: Sequence[int] = (),
        segment_bytes: int = event_log.SEGMENT_BYTES,
        clock: Callable[[], float] = time.time,
        open_log: Callable[[Path, int], LogWriter] = LogWriter,
    ) -> None:
        self._clock = clock
        self.log = open_log(events_folder, segment_bytes)
        self._state = EmbeddedState(history_cap, half_lives_s)
        self._backlog = BacklogCounter(events_folder)
        self._erasing = asyncio.Lock()  # two at once would undo each other's work on a segment
        self._closed_segment = 0  # this segment and those before it are never written again
        self._queue: list[tuple[Step, asyncio.Future[int]]] = []
        self._flusher: asyncio.Task[None] | None = None
        self._is_closed = False

        self._replay(events_folder)
        self._changes = EmbeddedChanges(events_folder, self._state.changes, self._commit)

    @property
    def catalogue(self) -> EmbeddedChanges:
        """Catalogue changes and snapshots."""
        return self._changes

    async def ping(self) -> None:
        """Return unless closed."""
        self._check_open()

    async def history(self, user_id: str) -> list[str]:
        """Read from memory."""
        self._check_open()
        return list(self._state.histories.get(user_id, ()))

    async def newest_event(self, user_id: str) -> int | None:
        """Read from memory."""
        self._check_open()
        return self._state.newest.get(user_id)

    async def record(self, events: Sequence[Event]) -> Recorded:
        """Record events and return after fsync."""
        now = int(self._clock())
        lines = [EventLine(recorded_at=now, event=event) for event in events]
        accepted = await self._commit(lambda batch: sum(map(batch.add_event, lines)))
        return Recorded(accepted, len(events) - accepted)

    async def forget(self, user_id: str) -> Forgotten:
        """Log that the user is forgotten, so that a restart does not bring the history back; then rewrite segments."""
        line = ForgetLine(user_id=user_id)
        async with self._erasing:
            history = await self._commit(lambda batch: batch.add_forget(line))
            try:
                erased = await asyncio.to_thread(erase_user, self.log.folder, user_id, self._closed_segment)
            except OSError as cause:
                raise disk_error(cause) from cause
        return Forgotten(history, erased)

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
        if self._flusher is not None:
            await self._flusher
        self.log.close()

    def _replay(self, folder: Path) -> None:
        base = event_log.newest_state(folder)
        later = [number for number in event_log.segment_numbers(folder) if number > base]
        paths = [event_log.state_path(folder, base), *(event_log.segment_path(folder, number) for number in later)]

        for path in paths:
            content = event_log.read_lines(path)
            self.corrupt_values += len(content.rejected)
            for line in content.lines:
                self._state.apply(line)

        self._state.expire(int(self._clock()))
        if later:
            self.log.save_state(self._state.lines())

    async def _commit(self, step: Step) -> int:
        """Hand an operation to the flusher and wait until its lines are on disk and applied.

        A cancelled caller stops waiting, but its operation is written nevertheless.
        """
        self._check_open()
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._queue.append((step, done))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        return await done

    async def _flush(self) -> None:
        while self._queue:
            queue = self._queue
            self._queue = []
            batch = Batch(self._state)
            answers = [step(batch) for step, _ in queue]

            failure: StoreError | None = None
            try:
                await self._write(batch.lines)
            except StoreError as cause:
                failure = cause

            for (_, done), answer in zip(queue, answers, strict=True):
                if done.done():  # its caller was cancelled
                    continue
                if failure is None:
                    done.set_result(answer)
                else:
                    done.set_exception(failure)

    async def _write(self, lines: list[LogLine]) -> None:
        if self.log.is_full:
            # nothing else changes the state while this coroutine waits, so the thread may read it
            await asyncio.to_thread(self.log.save_state, self._state.lines())
        if lines:
            await asyncio.to_thread(self.log.append, lines)

        for line in lines:
            self._state.apply(line)
        self._state.expire(int(self._clock()))

        if any(isinstance(line, ForgetLine) for line in lines):
            # the state on disk still holds the history; and only a closed segment can be rewritten
            await asyncio.to_thread(self.log.save_state, self._state.lines())
            self._closed_segment = self.log.segment

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreUnavailable("the embedded store is closed", "the service is shutting down")
