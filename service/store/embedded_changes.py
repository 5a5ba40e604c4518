"""Change stream and snapshots of a single process: changes in the event log, one snapshot file per version."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from model_store.durable_files import write_durably
from model_store.errors import StoreCorrupt, StoreReadOnly, StoreUnavailable
from model_store.replication.snapshots import BLOCK_MAGIC, ChunkJoiner, SnapshotHead
from service.store.change_stream import (
    APPEND_LIMIT,
    READ_LIMIT,
    ChangeStore,
    Head,
    ItemChange,
    LatestChanges,
    Position,
    RawChange,
    Snapshot,
    Tail,
    lost_changes,
)
from service.store.embedded_change_state import ChangeState, change_line
from service.store.embedded_state import Batch, Step
from service.store.packed_snapshots import pack_snapshot, summarise_head, unpack_snapshot

SNAPSHOTS_KEPT = 2
"""Number of snapshot files that stay: of the promoted version and of the one before it, for a rollback."""
_SUFFIX = ".snapshot"


class EmbeddedChanges(ChangeStore):
    """Change stream in the event log of one process; see :class:`ChangeStore`.

    Args:
        folder: Folder of the event log; snapshots lie beside it.
        state: Changes so far; only committed steps change it.
        commit: Writes the lines of a step to disk, applies them and returns the step's answer. Its second argument says
            whether the step only takes data away.
    """

    def __init__(self, folder: Path, state: ChangeState, commit: Callable[[Step, bool], Awaitable[int]]) -> None:
        self._folder = folder
        self._state = state
        self._commit = commit
        self._heads: dict[str, Head | None] = {}
        self._writing: set[str] = set()

    async def append(self, changes: Sequence[RawChange], known: int = 0) -> Position:
        """Append all changes in one step, however many, and return after fsync."""
        if self._state.revision < known:
            raise lost_changes()

        lines = [change_line(ItemChange(Position(1), *change)) for change in changes]  # numbered by the batch

        def step(batch: Batch) -> int:
            for line in lines:
                batch.add_change(line)
            return batch.revision

        is_deletion = all(change.kind == "delete" for change in changes)
        return Position(await self._commit(step, is_deletion))

    async def read_tail(self, version: str, after: Position, limit: int = READ_LIMIT) -> Tail:
        """Read from memory, except for the first look at a version's snapshot."""
        if version not in self._heads:
            found = await asyncio.to_thread(self._read_head, version)
            self._heads.setdefault(version, found)

        changes = self._state.after(after.revision, limit)
        return Tail(self._state.revision, changes is not None, changes or [], self._heads[version])

    async def read_latest(self) -> LatestChanges:
        """Read from memory."""
        entries = sorted(self._state.latest.items(), key=lambda each: (each[1][0], each[0]))
        return LatestChanges(Position(self._state.revision), [change for _, (_, change) in entries])

    async def trim(self, before: int) -> None:
        """Trim the stream in memory; the log follows when its state is written next."""
        self._state.trim(before)

    async def restart(self, after: int, changes: Sequence[RawChange]) -> Position | None:
        """Start anew; needed if the log was deleted or damaged, and snapshots were not."""
        if self._state.revision >= after:
            return None

        missing = [change for change in changes if change.item_id not in self._state.latest]
        for start in range(0, len(missing), APPEND_LIMIT):
            await self.append(missing[start : start + APPEND_LIMIT])

        line = change_line(ItemChange(Position(after + 1), "-", "restart", b""))
        return Position(await self._commit(lambda batch: batch.add_restart(line), False))

    async def has_snapshot(self, version: str) -> bool:
        """Look for the snapshot's file."""
        return await asyncio.to_thread(self._path(version).exists)

    async def load_snapshot(self, version: str) -> Snapshot | None:
        """Load the snapshot from its file."""
        return await asyncio.to_thread(self._load, version)

    async def save_snapshot(self, version: str, make: Callable[[], Awaitable[Snapshot | None]]) -> Snapshot | None:
        """Replace the snapshot's file atomically. The lock holds within this process."""
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
        head, block = pack_snapshot(snapshot)
        try:
            write_durably(self._path(version), head.encode().encode() + b"\n" + block)
            self._remove_old_snapshots(self._path(version))
        except OSError as cause:
            raise StoreReadOnly(
                f"a catalogue snapshot cannot be written: {cause.strerror}",
                "free disk space, or check the rights on ETEGREC_STORE",
            ) from cause

    def _remove_old_snapshots(self, newest: Path) -> None:
        """Keep the one just written, whatever its time: the clock may have been put back."""
        others = [path for path in self._folder.glob(f"*{_SUFFIX}") if path != newest]
        others.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in others[SNAPSHOTS_KEPT - 1 :]:
            path.unlink(missing_ok=True)

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
        joiner = ChunkJoiner(head)
        joiner.add(block)
        return unpack_snapshot(head, joiner)

    def _read_head(self, version: str) -> Head | None:
        try:
            with self._path(version).open("rb") as file:
                head = SnapshotHead.decode(file.readline().rstrip(b"\n"))
                has_our_format = file.read(len(BLOCK_MAGIC)) == BLOCK_MAGIC
        except (OSError, StoreCorrupt):
            return None  # as good as none: the next snapshot replaces the file
        return summarise_head(head) if has_our_format else None
