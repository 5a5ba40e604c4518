"""Catalogue snapshots in Redis: chunks of a packed block, a head that names them, and a lock for the writer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from model_store.errors import StoreCorrupt, StoreUnavailable
from model_store.replication import redis_keys
from model_store.replication.snapshots import ChunkJoiner, SnapshotHead, split_chunks
from service.store import redis_scripts
from service.store.change_stream import Snapshot
from service.store.packed_snapshots import pack_snapshot, unpack_snapshot
from service.store.redis_client import Arg, Script
from service.store.redis_connection import Connection
from service.store.redis_lock import RedisLocks

_LOAD_ATTEMPTS = 3


class RedisSnapshots:
    """Snapshots of all versions; :class:`~service.store.change_stream.ChangeStore` describes the methods.

    Args:
        connection: Connection to Redis.
        keys: Names of the keys.
        lock_ttl_s: Seconds after which a crashed writer no longer blocks others.
        grace_s: How long the chunks of a replaced snapshot stay for those who are reading them.
    """

    def __init__(self, connection: Connection, keys: redis_keys.Keys, lock_ttl_s: float, grace_s: float) -> None:
        self._connection = connection
        self._keys = keys
        self._locks = RedisLocks(connection, lock_ttl_s)
        self._grace_ms = round(grace_s * 1000)
        self._publish = Script(connection.slow, redis_scripts.PUBLISH_SNAPSHOT)

    async def exists(self, version: str) -> bool:
        """Look for the snapshot's head."""
        async with self._connection.background() as redis:
            return bool(await redis.exists(self._keys.head(version)))

    async def load(self, version: str) -> Snapshot | None:
        """Follow the head to its chunks. Try again if a new head replaced it and the chunks expired meanwhile."""
        head = await self._read_head(version)
        for _ in range(_LOAD_ATTEMPTS):
            if head is None:
                return None

            joiner = await self._join_chunks(version, head)
            if joiner is not None:
                return await asyncio.to_thread(unpack_snapshot, head, joiner)

            newer = await self._read_head(version)
            if newer == head:
                break
            head = newer

        raise StoreCorrupt(
            f"the catalogue snapshot of {version} lacks chunks", "delete its head key: a replica writes it again"
        )

    async def save(self, version: str, make: Callable[[], Awaitable[Snapshot | None]]) -> Snapshot | None:
        """Make and publish a snapshot under the version's lock."""
        async with self._locks.hold(self._keys.lock(version)) as token:
            if token is None:
                return None

            snapshot = await make()
            if snapshot is None or not await self._write(version, token, snapshot):
                return None
            return snapshot

    async def _write(self, version: str, token: str, snapshot: Snapshot) -> bool:
        """Write chunks with an expiry; then one script keeps them, replaces the head and retires the old chunks.

        Returns ``False`` if another replica took the lock over meanwhile.
        """
        old_head = await self._read_old_head(version)
        head, block = await asyncio.to_thread(pack_snapshot, snapshot)

        chunk_keys = self._chunk_keys(version, head)
        for key, piece in zip(chunk_keys, split_chunks(block), strict=True):
            async with self._connection.background() as redis:
                # twice the lock's life: chunks of a writer that crashed vanish by themselves
                await redis.set(key, piece, px=2 * self._locks.ttl_ms)

        old_keys = [] if old_head is None else self._chunk_keys(version, old_head)
        keys = [self._keys.lock(version), self._keys.head(version), *chunk_keys, *old_keys]
        args: list[Arg] = [token, head.encode(), len(chunk_keys), self._grace_ms]
        async with self._connection.background():
            outcome = await self._publish(keys, args)
        return _is_published(outcome, version)

    def _chunk_keys(self, version: str, head: SnapshotHead) -> list[str]:
        return [self._keys.chunk(version, head.snapshot_id, number) for number in range(head.chunks)]

    async def _join_chunks(self, version: str, head: SnapshotHead) -> ChunkJoiner | None:
        """Read all chunks and hash each one while the next is on its way; ``None`` if one is missing."""
        joiner = ChunkJoiner(head)
        adding: asyncio.Future[None] | None = None

        for key in self._chunk_keys(version, head):
            async with self._connection.background() as redis:
                raw = await redis.get(key)
            if adding is not None:
                await adding
            if raw is None:
                return None
            adding = asyncio.ensure_future(asyncio.to_thread(joiner.add, cast(bytes, raw)))

        if adding is not None:
            await adding
        return joiner

    async def _read_head(self, version: str) -> SnapshotHead | None:
        async with self._connection.background() as redis:
            raw = await redis.get(self._keys.head(version))
        return None if raw is None else SnapshotHead.decode(cast(bytes, raw))

    async def _read_old_head(self, version: str) -> SnapshotHead | None:
        """Read the head that is about to be replaced; a damaged one names no chunks to retire, so it counts as none."""
        try:
            return await self._read_head(version)
        except StoreCorrupt:
            return None


def _is_published(outcome: bytes, version: str) -> bool:
    """Read the answer of the script that publishes; ``False`` if another replica holds the lock."""
    if outcome == b"expired":
        raise StoreUnavailable(
            f"writing the snapshot of {version} took longer than its lock lasts",
            "raise lock_ttl_s, or check the network",
        )
    if outcome == b"evicted":
        raise StoreUnavailable(
            f"Redis evicted chunks of the snapshot of {version} before it was complete", "raise maxmemory"
        )
    return outcome == b"published"
