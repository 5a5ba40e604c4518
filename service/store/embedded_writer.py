"""Writer of the embedded store: operations that come together share one fsync; deletions work on a full disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import structlog

from model_store.errors import StoreError, StoreReadOnly
from model_store.events.event_log import ForgetLine, LogLine
from model_store.events.event_queue import BacklogCounter
from model_store.events.log_writer import LogWriter
from service.store.embedded_state import Batch, EmbeddedState, Step

log = structlog.get_logger()


class _Operation(NamedTuple):
    """Operation that waits to be written."""

    step: Step
    is_deletion: bool
    done: asyncio.Future[int]


class EmbeddedWriter:
    """Writer of the log and of the state that it results in. Used from one event loop; writes run in threads.

    Args:
        log: The log.
        state: The state, which only written operations change.
        backlog: Counter of the events that wait for training.
        max_undrained_events: Number of waiting events above which the oldest are dropped, 0 for none.
        clock: Returns Unix seconds.

    Attributes:
        closed_segment: This segment and those before it are never written again.
        is_state_stale: True if the newest state on disk still holds users that were forgotten since.
        dropped_events: Events dropped since start.
    """

    def __init__(
        self,
        log: LogWriter,
        state: EmbeddedState,
        backlog: BacklogCounter,
        max_undrained_events: int,
        clock: Callable[[], float],
    ) -> None:
        self.closed_segment = 0
        self.is_state_stale = False
        self.dropped_events = 0
        self._log = log
        self._state = state
        self._backlog = backlog
        self._max_undrained_events = max_undrained_events
        self._clock = clock
        self._queue: list[_Operation] = []
        self._flusher: asyncio.Task[None] | None = None
        self._probing: asyncio.Task[None] | None = None
        self._disk = asyncio.Lock()  # the log takes one call at a time

    async def commit(self, step: Step, is_deletion: bool) -> int:
        """Wait until the lines of an operation are on disk and applied, and return the operation's answer.

        A cancelled caller stops waiting, but its operation is written nevertheless.

        Args:
            step: The operation.
            is_deletion: True if it only takes data away, so that it is written on a full disk, too.

        Raises:
            StoreReadOnly: The disk refused; nothing of the operation is stored.
        """
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._queue.append(_Operation(step, is_deletion, done))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        return await done

    async def probe(self) -> None:
        """Return if the disk takes writes; see :meth:`~model_store.events.log_writer.LogWriter.probe`."""
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._probe())
        await asyncio.shield(self._probing)  # a thread cannot be cancelled, and close() must wait for it

    def compact(self) -> bool:
        """Forget idle users, save the state and drop the oldest events beyond the limit. Blocks.

        Nothing else may change the state meanwhile. Returns ``False`` if the disk refused: the old state and the
        segments after it stay, and the next full segment is another occasion.
        """
        self._state.forget_idle(int(self._clock()))
        try:
            self._log.save_state(self._state.lines())
            self.is_state_stale = False
        except StoreReadOnly as refusal:
            log.warning("compaction_postponed", cause=str(refusal), hint=refusal.hint)
            return False

        try:
            self._drop_oldest_events()
        except OSError as failure:
            log.warning("events_not_dropped", cause=failure.strerror)
        return True

    async def close(self) -> None:
        """Finish what is being written, then let another process open the folder."""
        under_way = [task for task in (self._flusher, self._probing) if task is not None]
        await asyncio.gather(*under_way, return_exceptions=True)
        self._log.close()

    def _drop_oldest_events(self) -> None:
        if self._max_undrained_events:
            self.dropped_events += self._backlog.drop_oldest(self._max_undrained_events, self._log.segment)

    async def _probe(self) -> None:
        async with self._disk:
            await asyncio.to_thread(self._log.probe)

    async def _flush(self) -> None:
        while self._queue:
            operations = self._queue
            self._queue = []
            async with self._disk:
                await self._write_all(operations)

    async def _write_all(self, operations: Sequence[_Operation]) -> None:
        """Write operations together; if the disk refuses them, write the deletions in the space reserved for them."""
        try:
            await self._write(operations, self._log.append)
            return
        except StoreError as failure:
            deletions = [each for each in operations if each.is_deletion]
            _refuse([each for each in operations if not each.is_deletion], failure)

        if deletions:
            try:
                await self._write(deletions, self._log.append_deletions)
            except StoreError as failure:
                _refuse(deletions, failure)

    async def _write(self, operations: Sequence[_Operation], append: Callable[[Iterable[LogLine]], None]) -> None:
        batch = Batch(self._state)
        answers = [each.step(batch) for each in operations]

        if self._log.is_full and self._log.refusal is None:
            # nothing else changes the state while this coroutine waits, so the thread may read it
            await asyncio.to_thread(self.compact)
        if batch.lines:
            await asyncio.to_thread(append, batch.lines)

        for line in batch.lines:
            self._state.apply(line)
        self._state.expire(int(self._clock()))
        if any(isinstance(line, ForgetLine) for line in batch.lines):
            await self._prepare_erasing()

        for operation, answer in zip(operations, answers, strict=True):
            if not operation.done.done():  # else its caller was cancelled
                operation.done.set_result(answer)

    async def _prepare_erasing(self) -> None:
        """Replace the state on disk, which still holds the history, and close the segment: only then it is rewritten.

        On a full disk the old state stays, and the history is overwritten in it.
        """
        is_saved = self._log.refusal is None and await asyncio.to_thread(self.compact)
        self._log.close_segment()
        self.is_state_stale = not is_saved
        self.closed_segment = self._log.segment


def _refuse(operations: Sequence[_Operation], failure: StoreError) -> None:
    for operation in operations:
        if not operation.done.done():
            operation.done.set_exception(failure)
