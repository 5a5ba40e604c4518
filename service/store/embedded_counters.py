"""Counters of the embedded store, in memory and in its log; and the file of the key that signs attributions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from model_store.attribution.keys import STORED_BYTES, STORED_NAME
from model_store.durable_files import write_durably
from model_store.errors import StoreCorrupt
from model_store.events.counts import Counts, by_day, codes_of_day
from model_store.events.disk_reserve import disk_error
from model_store.events.event_log import CounterLine, CounterNamesLine, DroppedCountersLine
from service.store.counter_store import Addition, CounterStore
from service.store.embedded_state import Batch, CounterState, Step

Commit = Callable[[Step, bool], Awaitable[int]]
"""Writes an operation, given it and whether it only takes data away."""


class EmbeddedCounters(CounterStore):
    """Counters of one process.

    Args:
        folder: Folder of the log.
        state: The counters, which only written operations change.
        commit: Writes an operation.
    """

    def __init__(self, folder: Path, state: CounterState, commit: Commit) -> None:
        self._folder = folder
        self._state = state
        self._commit = commit

    async def add(self, addition: Addition) -> None:
        """Log the amounts and return after fsync. An operation that failed is not stored, so it may be repeated."""
        lines: list[CounterLine | CounterNamesLine] = [
            CounterLine(counts=Counts(day, amounts)) for day, amounts in by_day(addition.counts).items()
        ]
        if addition.names:
            lines.append(CounterNamesLine(names=dict(addition.names)))
        await self._commit(lambda batch: sum(map(batch.add_line, lines)), False)

    async def read(self, days: Sequence[str]) -> list[dict[str, float]]:
        """Read from memory."""
        return [dict(self._state.days.get(day, {})) for day in days]

    async def names(self) -> dict[str, str]:
        """Read from memory."""
        return dict(self._state.names)

    async def delete(self, days: Sequence[str]) -> None:
        """Log the deletion of the days that have counters."""
        found = tuple(day for day in (*days, *map(codes_of_day, days)) if day in self._state.days)

        def step(batch: Batch) -> int:
            return batch.add_line(DroppedCountersLine(days=found))

        if found:
            await self._commit(step, True)

    async def key(self, proposed: bytes) -> bytes:
        """Read the file of the key; write it if there is none."""
        return await asyncio.to_thread(self._key, proposed)

    def _key(self, proposed: bytes) -> bytes:
        path = self._folder / STORED_NAME
        try:
            if not path.exists():
                write_durably(path, proposed, mode=0o600)
            found = path.read_bytes()
        except OSError as cause:
            raise disk_error(cause) from cause

        if len(found) != STORED_BYTES:
            raise StoreCorrupt(
                f"{STORED_NAME} has {len(found)} bytes instead of {STORED_BYTES}",
                "restore it, or delete it: a new one is made, and answers given before no longer count",
            )
        return found
