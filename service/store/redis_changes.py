"""Change stream in Redis. :mod:`model_store.replication.redis_keys` names the keys."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from redis.asyncio import Redis

from model_store.errors import StoreCorrupt, StoreReadOnly
from model_store.replication import redis_keys, redis_values
from model_store.replication.snapshots import SnapshotHead
from service.store import redis_change_scripts
from service.store.change_stream import (
    APPEND_LIMIT,
    READ_LIMIT,
    ChangeKind,
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
from service.store.packed_snapshots import summarise_head
from service.store.redis_client import Arg, Script
from service.store.redis_connection import Connection
from service.store.redis_snapshots import RedisSnapshots

_SCAN_COUNT = 1000
_KINDS: dict[bytes, ChangeKind] = {b"put": "put", b"delete": "delete", b"restart": "restart"}
_RELOAD = "load a snapshot instead"


class RedisChanges(ChangeStore):
    """Change stream in Redis; see :class:`ChangeStore`.

    Args:
        connection: Connection to Redis.
        keys: Names of the keys.
        snapshots: Snapshots in the same Redis.
    """

    def __init__(
        self,
        connection: Connection,
        keys: redis_keys.Keys,
        snapshots: RedisSnapshots,
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._snapshots = snapshots

        slow = connection.slow
        self._append = Script(slow, redis_change_scripts.APPEND_CHANGES)
        self._append_deletions = Script(slow, redis_change_scripts.APPEND_DELETIONS)
        self._read = Script(slow, redis_change_scripts.READ_CHANGES)
        self._last_id = Script(slow, redis_change_scripts.LAST_CHANGE)
        self._restart = Script(slow, redis_change_scripts.RESTART_CHANGES)

    async def append(self, changes: Sequence[RawChange], known: int = 0) -> Position:
        """Run one script per 256 changes.

        A single change comes from a request that waits for it, so it fails at once while Redis is down. Deletions are
        appended although Redis is out of memory.
        """
        entry_id = b""
        for at in range(0, len(changes), APPEND_LIMIT):
            part = changes[at : at + APPEND_LIMIT]
            args: list[Arg] = [secrets.randbits(53), known]
            for change in part:
                args += change

            try:
                entry_id = await self._run(self._append, args, is_awaited=len(changes) == 1)
            except StoreReadOnly:
                if any(change.kind != "delete" for change in part):
                    raise
                entry_id = await self._run(self._append_deletions, args, is_awaited=len(changes) == 1)
            if not entry_id:
                raise lost_changes()

        return Position(*redis_values.decode_entry_id(entry_id))

    async def _run(self, script: Script, args: Sequence[Arg], *, is_awaited: bool) -> bytes:
        """Run a script that appends; in the background unless a request waits for it."""
        keys = [self._keys.changes, self._keys.items]

        async def call(client: Redis) -> Any:
            return await script(keys, args, client)

        if is_awaited:
            return cast(bytes, await self._connection.ask(call, writes=True))
        async with self._connection.background() as redis:
            return cast(bytes, await call(redis))

    async def read_tail(self, version: str, after: Position, limit: int = READ_LIMIT) -> Tail:
        """Read the entry at ``after``, too: it tells whether this is still the same stream."""
        keys = [self._keys.changes, self._keys.head(version)]
        is_start = after.revision == 0
        first = "-" if is_start else f"{after.revision}-{after.nonce}"
        count = limit if is_start else limit + 1
        async with self._connection.background():
            last_id, entries, head = await self._read(keys, [first, count])

        found = [_decode_change(entry_id, fields) for entry_id, fields in entries]
        has_place = is_start or (bool(found) and found[0].at == after)
        later = found if is_start else found[1:]

        # the revisions must follow each other; if there are none, the reader's place must be the end
        latest_revision = int(last_id.partition(b"-")[0])
        wanted = list(range(after.revision + 1, after.revision + 1 + len(later)))
        has_no_gap = [change.at.revision for change in later] == wanted
        reaches_end = bool(later) or latest_revision == after.revision
        is_unbroken = has_place and has_no_gap and reaches_end
        return Tail(latest_revision, is_unbroken, later if is_unbroken else [], self._decode_head(head))

    async def read_latest(self) -> LatestChanges:
        """Scan the hash in pieces, after asking for the newest change: entries may be newer than that, never older."""
        async with self._connection.background():
            last_id = await self._last_id([self._keys.changes])
        revision, _, nonce = last_id.partition(b"-")

        found: dict[bytes, redis_values.LatestEntry] = {}
        cursor = 0
        while True:
            async with self._connection.background() as redis:
                cursor, part = await redis.hscan(self._keys.items, cursor, count=_SCAN_COUNT)
            self._collect_latest(cast(dict[bytes, bytes], part), found)
            if not cursor:
                break

        ordered = sorted(found.items(), key=lambda each: (each[1].first, each[0]))
        changes = [
            ItemChange(Position(entry.revision, entry.nonce), item_id.decode(), _KINDS[entry.kind], entry.payload)
            for item_id, entry in ordered
        ]
        return LatestChanges(Position(int(revision), int(nonce)), changes)

    async def trim(self, before: int) -> None:
        """Trim the stream, but keep its newest entry, so that its revision is known."""
        if before < 1:
            return

        async with self._connection.background() as redis:
            last_id = await self._last_id([self._keys.changes])
            keep_from = min(before, int(last_id.partition(b"-")[0]))
            await redis.xtrim(self._keys.changes, minid=f"{keep_from}-0", approximate=False)

    async def restart(self, after: int, changes: Sequence[RawChange]) -> Position | None:
        """Write the latest changes first, then the stream.

        A crash in between leaves the stream behind, so that some replica starts it anew once more.
        """
        at = Position(after + 1, secrets.randbits(53))
        numbered = list(enumerate(changes, start=1))
        for start in range(0, len(numbered), APPEND_LIMIT):
            async with self._connection.background() as redis:
                pipe = redis.pipeline(transaction=False)
                for first, change in numbered[start : start + APPEND_LIMIT]:
                    entry = redis_values.LatestEntry(first, first, at.nonce, change.kind.encode(), change.payload)
                    pipe.hsetnx(self._keys.items, change.item_id, redis_values.encode_latest(entry))
                await pipe.execute()

        async with self._connection.background():
            is_mine = await self._restart([self._keys.changes], [after, f"{at.revision}-{at.nonce}"])
        return at if is_mine else None

    async def has_snapshot(self, version: str) -> bool:
        """Look for the snapshot's head."""
        return await self._snapshots.exists(version)

    async def load_snapshot(self, version: str) -> Snapshot | None:
        """Load all chunks that the head names."""
        return await self._snapshots.load(version)

    async def save_snapshot(self, version: str, make: Callable[[], Awaitable[Snapshot | None]]) -> Snapshot | None:
        """Write chunks first, then replace the head."""
        return await self._snapshots.save(version, make)

    def _decode_head(self, raw: bytes | None) -> Head | None:
        """Decode the head of the newest snapshot. A damaged one counts as none: a replica replaces it."""
        if raw is None:
            return None
        try:
            return summarise_head(SnapshotHead.decode(raw))
        except StoreCorrupt:
            self.corrupt_values += 1
            return None

    def _collect_latest(self, part: dict[bytes, bytes], found: dict[bytes, redis_values.LatestEntry]) -> None:
        for item_id, raw in part.items():
            try:
                entry = redis_values.decode_latest(raw)
                redis_values.decode_item_id(item_id)
                if entry.kind not in _KINDS:
                    raise StoreCorrupt("the latest change of an item is of no known kind")
            except StoreCorrupt:
                self.corrupt_values += 1
            else:
                found[item_id] = entry


def _decode_change(entry_id: bytes, fields: list[bytes]) -> ItemChange:
    at = Position(*redis_values.decode_entry_id(entry_id))
    named = dict(zip(fields[::2], fields[1::2], strict=True))
    try:
        return ItemChange(at, redis_values.decode_item_id(named[b"item"]), _KINDS[named[b"kind"]], named[b"payload"])
    except KeyError as cause:
        raise StoreCorrupt(f"the catalogue change of revision {at.revision} does not decode", _RELOAD) from cause
