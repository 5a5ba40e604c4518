"""Catalogue changes and snapshots of a single process: changes in the event log, one snapshot file a version."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from model_store.durable_files import write_durably
from model_store.errors import StoreCorrupt, StoreUnavailable
from model_store.replication.snapshots import Joining, SnapshotHead, pack_arrays, unpack_arrays
from service.store.change_stream import (
    APPEND_LIMIT,
    LOST,
    READ_LIMIT,
    REFILLED,
    ChangeStore,
    Head,
    ItemChange,
    Latest,
    Position,
    RawChange,
    Snapshot,
    Tail,
)
from service.store.embedded_state import Batch, ChangeState, Step, change_line

SNAPSHOTS_KEPT = 2
"""Snapshot files that stay: of the live version and of the one before, should someone roll back."""
_SUFFIX = ".snapshot"


class EmbeddedChanges(ChangeStore):
    """See :class:`ChangeStore`.

    Args:
        folder: Of the event log; snapshots lie beside it.
        state: Changed by committed steps only.
        commit: Writes a step's lines to disk, applies them and returns its answer.
    """

    def __init__(self, folder: Path, state: ChangeState, commit: Callable[[Step], Awaitable[int]]) -> None:
        self._folder = folder
        self._state = state
        self._commit = commit
        self._heads: dict[str, Head | None] = {}
        self._writing: set[str] = set()

    async def append(self, changes: Sequence[RawChange], known: int = 0) -> Position:
        """Returns after fsync. All changes are one step, however many."""
        if self._state.revision < known:
            raise StoreUnavailable(LOST, REFILLED)
        lines = [change_line(ItemChange(Position(1), *change)) for change in changes]  # numbered by the batch

        def step(batch: Batch) -> int:
            for line in lines:
                batch.add_change(line)
            return batch.revision

        return Position(await self._commit(step))

    async def read(self, version: str, after: Position, limit: int = READ_LIMIT) -> Tail:
        """From memory, but for the first look at a version's snapshot."""
        if version not in self._heads:
            found = await asyncio.to_thread(self._read_head, version)
            self._heads.setdefault(version, found)
        changes = self._state.after(after.revision, limit)
        return Tail(self._state.revision, changes is not None, changes or [], self._heads[version])

    async def latest(self) -> Latest:
        """From memory."""
        entries = sorted(self._state.latest.items(), key=lambda each: (each[1][0], each[0]))
        return Latest(Position(self._state.revision), [change for _, (_, change) in entries])

    async def trim(self, before: int) -> None:
        """In memory; the log follows when its state is written next."""
        self._state.trim(before)

    async def restart(self, after: int, changes: Sequence[RawChange]) -> Position | None:
        """Happens if the log was deleted or damaged, and snapshots were not."""
        if self._state.revision >= after:
            return None
        missing = [change for change in changes if change.item_id not in self._state.latest]
        for start in range(0, len(missing), APPEND_LIMIT):
            await self.append(missing[start : start + APPEND_LIMIT])
        line = change_line(ItemChange(Position(after + 1), "-", "restart", b""))
        return Position(await self._commit(lambda batch: batch.add_restart(line)))

    async def has_snapshot(self, version: str) -> bool:
        """By its file."""
        return await asyncio.to_thread(self._path(version).exists)

    async def load_snapshot(self, version: str) -> Snapshot | None:
        """From its file."""
        return await asyncio.to_thread(self._load, version)

    async def save_snapshot(self, version: str, make: Callable[[], Awaitable[Snapshot | None]]) -> Snapshot | None:
        """To its file, replaced atomically; the lock is of this process."""
        if version in self._writing:
            return None
        self._writing.add(version)
        try:
            snapshot = await make()
            if snapshot is not None:
                await asyncio.to_thread(self._save, version, snapshot)
                self._heads[version] = snapshot.head
            return snapshot
        finally:
            self._writing.discard(version)

    def _path(self, version: str) -> Path:
        return self._folder / f"{version}{_SUFFIX}"

    def _save(self, version: str, snapshot: Snapshot) -> None:
        block = pack_arrays(snapshot.arrays)
        head = SnapshotHead.of(block, *snapshot.at, snapshot.lineage, snapshot.origin)
        try:
            write_durably(self._path(version), head.encode().encode() + b"\n" + block)
            files = sorted(self._folder.glob(f"*{_SUFFIX}"), key=lambda path: path.stat().st_mtime_ns)
            for path in files[:-SNAPSHOTS_KEPT]:
                path.unlink(missing_ok=True)
        except OSError as cause:
            raise StoreUnavailable(
                f"a catalogue snapshot cannot be written: {cause.strerror}",
                "free disk space, or check the rights on ETEGREC_STORE",
            ) from cause

    def _load(self, version: str) -> Snapshot | None:
        try:
            data = self._path(version).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as cause:
            raise StoreUnavailable(
                f"a catalogue snapshot cannot be read: {cause.strerror}", "check the rights on ETEGREC_STORE"
            ) from cause
        line, _, block = data.partition(b"\n")
        head = SnapshotHead.decode(line)
        joining = Joining(head)
        joining.add(block)
        arrays = unpack_arrays(joining.block())
        return Snapshot(Position(head.revision, head.nonce), head.lineage, head.origin, arrays)

    def _read_head(self, version: str) -> Head | None:
        try:
            with self._path(version).open("rb") as file:
                head = SnapshotHead.decode(file.readline().rstrip(b"\n"))
        except (OSError, StoreCorrupt):
            return None  # as good as none: the catalogue in memory is written again
        return Head(Position(head.revision, head.nonce), head.lineage)
