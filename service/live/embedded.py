"""The live store of a single process, without Redis: state in memory, every change first in a log on disk.

Snapshots and cached results live in memory only: the bundle and the logged changes rebuild them.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from model_store import event_log, live
from model_store.errors import LiveError, LiveUnavailable
from model_store.event_log import ChangeLine, EventLine, ForgetLine, HistoryLine, LogLine, LogWriter, SeenLine
from model_store.events import Event
from service.live.base import ChangeKind, ItemChange, LiveStore, Recorded, Snapshot

CACHED_RESULTS = 10_000
"""Cached results kept; beyond, the least recently used go."""


class LiveState:
    """What the lines of the log amount to. Changed by applying lines, and by nothing else."""

    def __init__(self, history_cap: int) -> None:
        self._history_cap = history_cap
        self.histories: dict[str, deque[str]] = {}
        self.seen: dict[str, int] = {}  # second of recording by event id, oldest first
        self.changes: dict[str, list[ItemChange]] = {}  # by version, revision i at index i - 1

    def apply(self, line: LogLine) -> None:
        """Take in one line; an event that was seen already changes nothing."""
        match line:
            case EventLine():
                if line.event.event_id not in self.seen:
                    self._history(line.event.user_id).append(line.event.item_id)
                    self.seen[line.event.event_id] = line.recorded_at
            case ForgetLine():
                self.histories.pop(line.user_id, None)
            case ChangeLine():
                of_version = self.changes.setdefault(line.version, [])
                if line.revision == len(of_version) + 1:
                    payload = line.payload.encode()
                    of_version.append(ItemChange(line.revision, line.item_id, line.change, payload))
            case HistoryLine():
                self._history(line.user_id).extend(line.item_ids)
            case SeenLine():
                self.seen[line.event_id] = line.recorded_at

    def expire(self, now: int) -> None:
        """Forget event ids recorded before the window."""
        for event_id, recorded_at in list(itertools.islice(self.seen.items(), 1000)):
            if recorded_at > now - live.SEEN_WINDOW_S:
                return
            del self.seen[event_id]

    def lines(self) -> Iterator[LogLine]:
        """Lines that amount to this state."""
        for user_id, item_ids in self.histories.items():
            yield HistoryLine(user_id=user_id, item_ids=tuple(item_ids))
        for event_id, recorded_at in self.seen.items():
            yield SeenLine(event_id=event_id, recorded_at=recorded_at)
        for version, of_version in self.changes.items():
            for change in of_version:
                yield _change_line(version, change)

    def _history(self, user_id: str) -> deque[str]:
        return self.histories.setdefault(user_id, deque(maxlen=self._history_cap))


class Batch:
    """Lines that will share one fsync, decided in order: each operation sees those before it."""

    def __init__(self, state: LiveState) -> None:
        self.lines: list[LogLine] = []
        self._state = state
        self._event_ids: set[str] = set()
        self._revisions: dict[str, int] = {}

    def add_event(self, line: EventLine) -> int:
        """Returns how many lines were added: none for a repeated event id."""
        event_id = line.event.event_id
        if event_id in self._state.seen or event_id in self._event_ids:
            return 0
        self._event_ids.add(event_id)
        self.lines.append(line)
        return 1

    def add_change(self, line: ChangeLine) -> int:
        """Returns the revision that the change got."""
        latest = self._revisions.get(line.version, len(self._state.changes.get(line.version, ())))
        self._revisions[line.version] = latest + 1
        self.lines.append(line.model_copy(update={"revision": latest + 1}))
        return latest + 1

    def add_forget(self, line: ForgetLine) -> int:
        """Returns 1."""
        self.lines.append(line)
        return 1


Step = Callable[[Batch], int]
"""One operation: adds its lines to a batch and says what it answers."""


class EmbeddedLive(LiveStore):
    """See :class:`LiveStore`. Concurrent writes share one fsync (group commit), which runs in a thread.

    Opening reads the newest state and all segments after it, and blocks meanwhile.

    Args:
        events_folder: Where the log lives; created if missing.
        history_cap: Item ids kept per user.
        segment_bytes: Size from which on a segment is closed, and the state written.
        clock: Unix seconds.
        open_log: Opens the log of a folder, given its segment size.

    Raises:
        StoreBusy: Another process has this folder open.
        LiveUnavailable: The folder cannot be written.
    """

    def __init__(
        self,
        events_folder: Path,
        *,
        history_cap: int = live.HISTORY_CAP,
        segment_bytes: int = event_log.SEGMENT_BYTES,
        clock: Callable[[], float] = time.time,
        open_log: Callable[[Path, int], LogWriter] = LogWriter,
    ) -> None:
        self._clock = clock
        self.log = open_log(events_folder, segment_bytes)
        self._state = LiveState(history_cap)
        self._snapshots: dict[str, Snapshot] = {}
        self._cache: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._waiting: list[tuple[Step, asyncio.Future[int]]] = []
        self._flusher: asyncio.Task[None] | None = None
        self._is_closed = False
        self._replay(events_folder)

    async def ping(self) -> None:
        """Return unless closed."""
        self._check_open()

    async def history(self, user_id: str) -> list[str]:
        """Oldest first."""
        self._check_open()
        return list(self._state.histories.get(user_id, ()))

    async def record(self, events: Sequence[Event]) -> Recorded:
        """Returns after fsync."""
        now = int(self._clock())
        lines = [EventLine(recorded_at=now, event=event) for event in events]
        accepted = await self._commit(lambda batch: sum(map(batch.add_event, lines)))
        return Recorded(accepted, len(events) - accepted)

    async def forget(self, user_id: str) -> None:
        """Logged like an event: a restart must not bring the history back."""
        line = ForgetLine(user_id=user_id)
        await self._commit(lambda batch: batch.add_forget(line))

    async def append_change(self, version: str, item_id: str, kind: ChangeKind, payload: bytes) -> int:
        """Returns after fsync."""
        line = _change_line(version, ItemChange(1, item_id, kind, payload))  # the batch gives it its revision
        return await self._commit(lambda batch: batch.add_change(line))

    async def changes(self, version: str, after: int, limit: int = 1000) -> list[ItemChange]:
        """From memory."""
        self._check_open()
        return self._state.changes.get(version, [])[after : after + limit]

    async def load_snapshot(self, version: str) -> Snapshot | None:
        """From memory."""
        self._check_open()
        return self._snapshots.get(version)

    async def save_snapshot(self, version: str, snapshot: Snapshot, *, replace: bool = False) -> bool:
        """In memory; one process needs no lock."""
        self._check_open()
        held = self._snapshots.get(version)
        if held is not None and held.revision >= snapshot.revision and not replace:
            return False
        views = {name: array.view() for name, array in snapshot.arrays.items()}
        for view in views.values():
            view.setflags(write=False)
        self._snapshots[version] = Snapshot(snapshot.revision, views)
        return True

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
            failure: LiveError | None = None
            try:
                await self._write(batch.lines)
            except LiveError as cause:
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

    def _check_open(self) -> None:
        if self._is_closed:
            raise LiveUnavailable("the embedded live store is closed", "the service is shutting down")


def _change_line(version: str, change: ItemChange) -> ChangeLine:
    return ChangeLine(
        version=version,
        revision=change.revision,
        item_id=change.item_id,
        change=change.kind,
        payload=change.payload.decode(),
    )
