"""The live store of a single process, without Redis: state in memory, every change first in a log on disk.

Catalogue snapshots are files beside the log; cached results live in memory only.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

from model_store.errors import StoreError, StoreUnavailable
from model_store.events import event_log
from model_store.events.event import Event
from model_store.events.event_log import EventLine, ForgetLine, LogLine, LogWriter, disk_error
from model_store.events.event_queue import BacklogCounter, EventBacklog, erase_user
from model_store.replication import redis_schema
from service.store.base import Forgotten, Recorded, Store
from service.store.embedded_changes import EmbeddedChanges
from service.store.embedded_state import Batch, LiveState, Step

CACHED_RESULTS = 10_000
"""Cached results kept; beyond, the least recently used go."""


class EmbeddedStore(Store):
    """See :class:`Store`. Concurrent writes share one fsync (group commit), which runs in a thread.

    Opening reads the newest state and all segments after it, and blocks meanwhile.

    Args:
        events_folder: Where the log lives; created if missing.
        history_cap: Item ids kept per user.
        half_lives_s: Of the fading counts of events, in seconds, each once.
        segment_bytes: Size from which on a segment is closed, and the state written.
        clock: Unix seconds.
        open_log: Opens the log of a folder, given its segment size.

    Raises:
        LockHeld: Another process has this folder open.
        StoreUnavailable: The folder cannot be written.
    """

    def __init__(
        self,
        events_folder: Path,
        *,
        history_cap: int = redis_schema.HISTORY_CAP,
        half_lives_s: Sequence[int] = (),
        segment_bytes: int = event_log.SEGMENT_BYTES,
        clock: Callable[[], float] = time.time,
        open_log: Callable[[Path, int], LogWriter] = LogWriter,
    ) -> None:
        self._clock = clock
        self.log = open_log(events_folder, segment_bytes)
        self._state = LiveState(history_cap, half_lives_s)
        self._backlog = BacklogCounter(events_folder)
        self._erasing = asyncio.Lock()  # two at once would undo each other's work on a segment
        self._closed_segment = 0  # neither it nor any before it will be written again
        self._cache: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._waiting: list[tuple[Step, asyncio.Future[int]]] = []
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
        """Oldest first."""
        self._check_open()
        return list(self._state.histories.get(user_id, ()))

    async def newest_event(self, user_id: str) -> int | None:
        """From memory."""
        self._check_open()
        return self._state.newest.get(user_id)

    async def record(self, events: Sequence[Event]) -> Recorded:
        """Returns after fsync."""
        now = int(self._clock())
        lines = [EventLine(recorded_at=now, event=event) for event in events]
        accepted = await self._commit(lambda batch: sum(map(batch.add_event, lines)))
        return Recorded(accepted, len(events) - accepted)

    async def forget(self, user_id: str) -> Forgotten:
        """Logged like an event, so that a restart does not bring the history back; then segments are rewritten."""
        line = ForgetLine(user_id=user_id)
        async with self._erasing:
            history = await self._commit(lambda batch: batch.add_forget(line))
            try:
                erased = await asyncio.to_thread(erase_user, self.log.folder, user_id, self._closed_segment)
            except OSError as cause:
                raise disk_error(cause) from cause
        return Forgotten(history, erased)

    async def waiting(self) -> EventBacklog:
        """From the log, behind the place up to which training has drained it."""
        self._check_open()
        return await asyncio.to_thread(self._backlog.count)

    async def counts(self, half_life_s: int) -> dict[str, float]:
        """From memory."""
        self._check_open()
        return self._state.counts[half_life_s].at(self._clock()) if half_life_s in self._state.counts else {}

    async def cache_get(self, key: str) -> bytes | None:
        """From memory."""
        self._check_open()
        expires_at, value = self._cache.get(key, (0.0, b""))
        if expires_at <= time.monotonic():
            self._cache.pop(key, None)
            return None
        self._cache.move_to_end(key)
        return value

    async def cache_put(self, key: str, value: bytes, ttl_s: float) -> None:
        """In memory."""
        self._check_open()
        self._cache[key] = (time.monotonic() + ttl_s, value)
        self._cache.move_to_end(key)
        while len(self._cache) > CACHED_RESULTS:
            self._cache.popitem(last=False)

    async def close(self) -> None:
        """Finish what is being written, then let another process open the folder. Closing twice is fine."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._flusher is not None:
            await self._flusher
        self.log.close()

    def _replay(self, folder: Path) -> None:
        base = event_log.newest_state(folder)
        later = [number for number in event_log.segment_numbers(folder) if number > base]
        for path in [event_log.state_path(folder, base), *(event_log.segment_path(folder, n) for n in later)]:
            content = event_log.read_lines(path)
            self.corrupt_values += len(content.rejected)
            for line in content.lines:
                self._state.apply(line)
        self._state.expire(int(self._clock()))
        if later:
            self.log.save_state(self._state.lines())

    async def _commit(self, step: Step) -> int:
        """Hand an operation to the flusher and wait until its lines are on disk and applied.

        A caller that is cancelled stops waiting; what it asked for is written nevertheless.
        """
        self._check_open()
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((step, done))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        return await done

    async def _flush(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            batch = Batch(self._state)
            answers = [step(batch) for step, _ in waiting]
            failure: StoreError | None = None
            try:
                await self._write(batch.lines)
            except StoreError as cause:
                failure = cause
            for (_, done), answer in zip(waiting, answers, strict=True):
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
            # the old state holds the history; and a closed segment can be rewritten
            await asyncio.to_thread(self.log.save_state, self._state.lines())
            self._closed_segment = self.log.segment

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreUnavailable("the embedded live store is closed", "the service is shutting down")
