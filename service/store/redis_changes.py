"""Catalogue changes and snapshots in Redis. :mod:`model_store.replication.redis_schema` names the keys."""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import cast

from model_store.errors import StoreCorrupt, StoreUnavailable
from model_store.replication import redis_schema
from model_store.replication.snapshots import Joining, SnapshotHead, pack_arrays, split_chunks, unpack_arrays
from service.async_tasks import cancel_and_wait
from service.store import redis_scripts
from service.store.change_stream import (
    APPEND_LIMIT,
    LOST,
    READ_LIMIT,
    REFILLED,
    ChangeKind,
    ChangeStore,
    Head,
    ItemChange,
    Latest,
    Position,
    RawChange,
    Snapshot,
    Tail,
)
from service.store.redis_connection import Arg, Connection

_LOAD_ATTEMPTS = 3
_SCAN_COUNT = 1000
_KINDS: dict[bytes, ChangeKind] = {b"put": "put", b"delete": "delete", b"restart": "restart"}
_RELOAD = "load a snapshot instead"


class RedisChanges(ChangeStore):
    """See :class:`ChangeStore`.

    Attributes:
        corrupt_values: Values left out since start because they do not decode.
    """

    corrupt_values = 0

    def __init__(
        self,
        connection: Connection,
        keys: redis_schema.Keys,
        lock_ttl_s: float,
        grace_s: float,
        append_timeout_s: float,
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._lock_ttl_ms = round(lock_ttl_s * 1000)
        self._grace_ms = round(grace_s * 1000)
        self._append_timeout_s = append_timeout_s
        self._unneeded: dict[str, str] = {}  # locks by the token that they were taken with
        fast, slow = connection.fast, connection.slow
        self._append_one = fast.register_script(redis_scripts.APPEND_CHANGES)
        self._append_many = slow.register_script(redis_scripts.APPEND_CHANGES)
        self._read = slow.register_script(redis_scripts.READ_CHANGES)
        self._last = slow.register_script(redis_scripts.LAST_CHANGE)
        self._restart = slow.register_script(redis_scripts.RESTART_CHANGES)
        self._publish = slow.register_script(redis_scripts.PUBLISH_SNAPSHOT)
        self._unlock = slow.register_script(redis_scripts.UNLOCK)
        self._renew = slow.register_script(redis_scripts.RENEW)

    async def append(self, changes: Sequence[RawChange], known: int = 0) -> Position:
        """One script per 256 changes. A single change is a request's: it fails at once while Redis is down."""
        keys = [self._keys.changes, self._keys.items]
        entry_id = b""
        for at in range(0, len(changes), APPEND_LIMIT):
            args: list[Arg] = [secrets.randbits(53), known]
            for change in changes[at : at + APPEND_LIMIT]:
                args += change
            if len(changes) == 1:
                entry_id = await self._connection.ask(lambda: self._append_one(keys, args), self._append_timeout_s)  # noqa: B023  awaited here
            else:
                async with self._connection.background():
                    entry_id = await self._append_many(keys, args)
            if not entry_id:
                raise StoreUnavailable(LOST, REFILLED)
        return Position(*redis_schema.decode_entry_id(entry_id))

    async def read(self, version: str, after: Position, limit: int = READ_LIMIT) -> Tail:
        """The entry at ``after`` is read once more: it tells whether this is still the same stream."""
        keys = [self._keys.changes, self._keys.head(version)]
        first, count = (f"{after.revision}-{after.nonce}", limit + 1) if after.revision else ("-", limit)
        async with self._connection.background():
            last, entries, head = await self._read(keys, [first, count])
        found = [_change(entry_id, fields) for entry_id, fields in entries]
        has_place = bool(found) and found[0].at == after if after.revision else True
        later = found[1:] if after.revision else found
        wanted = list(range(after.revision + 1, after.revision + 1 + len(later)))
        latest = int(last.partition(b"-")[0])
        is_whole = [change.at.revision for change in later] == wanted and (bool(later) or latest == after.revision)
        is_unbroken = has_place and is_whole
        return Tail(latest, is_unbroken, later if is_unbroken else [], self._head_of(head))

    async def latest(self) -> Latest:
        """The hash is scanned in pieces, so it must be asked for the newest change first."""
        async with self._connection.background():
            last = await self._last([self._keys.changes])
        revision, _, nonce = last.partition(b"-")
        found: dict[bytes, redis_schema.LatestEntry] = {}
        cursor = 0
        while True:
            async with self._connection.background() as redis:
                cursor, part = await redis.hscan(self._keys.items, cursor, count=_SCAN_COUNT)
            self._take_latest(cast(dict[bytes, bytes], part), found)
            if not cursor:
                break
        ordered = sorted(found.items(), key=lambda each: (each[1].first, each[0]))
        changes = [
            ItemChange(Position(entry.revision, entry.nonce), item_id.decode(), _KINDS[entry.kind], entry.payload)
            for item_id, entry in ordered
        ]
        return Latest(Position(int(revision), int(nonce)), changes)

    async def trim(self, before: int) -> None:
        """The newest entry stays, so that its revision is known."""
        if before < 1:
            return
        async with self._connection.background() as redis:
            last = await self._last([self._keys.changes])
            keep_from = min(before, int(last.partition(b"-")[0]))
            await redis.xtrim(self._keys.changes, minid=f"{keep_from}-0", approximate=False)

    async def restart(self, after: int, changes: Sequence[RawChange]) -> Position | None:
        """First the latest changes, then the stream: a crash in between leaves it behind, so someone does it again."""
        at = Position(after + 1, secrets.randbits(53))
        numbered = list(enumerate(changes, start=1))
        for start in range(0, len(numbered), APPEND_LIMIT):
            async with self._connection.background() as redis:
                pipe = redis.pipeline(transaction=False)
                for first, change in numbered[start : start + APPEND_LIMIT]:
                    entry = redis_schema.LatestEntry(first, first, at.nonce, change.kind.encode(), change.payload)
                    pipe.hsetnx(self._keys.items, change.item_id, redis_schema.encode_latest(entry))
                await pipe.execute()
        async with self._connection.background():
            is_mine = await self._restart([self._keys.changes], [after, f"{at.revision}-{at.nonce}"])
        return at if is_mine else None

    async def has_snapshot(self, version: str) -> bool:
        """By its head."""
        async with self._connection.background() as redis:
            return bool(await redis.exists(self._keys.head(version)))

    async def load_snapshot(self, version: str) -> Snapshot | None:
        """Follow the head to its chunks; again if the head moved and the chunks expired meanwhile."""
        head = await self._head(version)
        for _ in range(_LOAD_ATTEMPTS):
            if head is None:
                return None
            joining = await self._joined(version, head)
            if joining is not None:
                arrays = await asyncio.to_thread(lambda: unpack_arrays(joining.block()))  # noqa: B023  awaited here
                return Snapshot(Position(head.revision, head.nonce), head.lineage, head.origin, arrays)
            latest = await self._head(version)
            if latest == head:
                break
            head = latest
        raise StoreCorrupt(
            f"the catalogue snapshot of {version} lacks chunks", "delete its head key: a replica writes it again"
        )

    async def save_snapshot(self, version: str, make: Callable[[], Awaitable[Snapshot | None]]) -> Snapshot | None:
        """Chunks first, with an expiry; then one script makes them permanent, moves the head, retires the old ones."""
        lock, token = self._keys.lock(version), uuid.uuid4().hex
        await self._release()
        try:
            async with self._connection.background() as redis:
                if not await redis.set(lock, token, nx=True, px=self._lock_ttl_ms):
                    return None
            async with self._kept(lock, token):
                snapshot = await make()
                if snapshot is None or not await self._write(version, token, snapshot):
                    return None
                return snapshot
        finally:
            self._unneeded[token] = lock
            with suppress(StoreUnavailable):  # then the next call does it, or the lock expires by itself
                await asyncio.shield(self._release())

    @asynccontextmanager
    async def _kept(self, lock: str, token: str) -> AsyncIterator[None]:
        """Renew the lock as long as its holder works: computing codes may take longer than a lock should last."""
        renewing = asyncio.create_task(self._renew_lock(lock, token))
        try:
            yield
        finally:
            await cancel_and_wait(renewing)

    async def _renew_lock(self, lock: str, token: str) -> None:
        while True:
            await asyncio.sleep(self._lock_ttl_ms / 3000)
            with suppress(StoreUnavailable):  # publishing finds out whether the lock survived
                async with self._connection.background():
                    await self._renew([lock], [token, self._lock_ttl_ms])

    async def _write(self, version: str, token: str, snapshot: Snapshot) -> bool:
        old = await self._head_or_none(version)
        block = await asyncio.to_thread(pack_arrays, snapshot.arrays)
        head = await asyncio.to_thread(SnapshotHead.of, block, *snapshot.at, snapshot.lineage, snapshot.origin)
        chunk_keys = self._chunk_keys(version, head)
        for key, piece in zip(chunk_keys, split_chunks(block), strict=True):
            async with self._connection.background() as redis:
                # twice the lock's life: chunks of a writer that crashed vanish by themselves
                await redis.set(key, piece, px=2 * self._lock_ttl_ms)
        old_keys = [] if old is None else self._chunk_keys(version, old)
        keys = [self._keys.lock(version), self._keys.head(version), *chunk_keys, *old_keys]
        args: list[Arg] = [token, head.encode(), len(chunk_keys), self._grace_ms]
        async with self._connection.background():
            outcome = await self._publish(keys, args)
        return _published(outcome, version)

    def _chunk_keys(self, version: str, head: SnapshotHead) -> list[str]:
        return [self._keys.chunk(version, head.snapshot_id, number) for number in range(head.chunks)]

    async def _release(self) -> None:
        """Let go of locks that are not needed any more, those of earlier calls included if Redis was away then."""
        for token, lock in list(self._unneeded.items()):
            async with self._connection.background():
                await self._unlock([lock], [token])
            self._unneeded.pop(token, None)

    async def _head(self, version: str) -> SnapshotHead | None:
        async with self._connection.background() as redis:
            raw = await redis.get(self._keys.head(version))
        return None if raw is None else SnapshotHead.decode(cast(bytes, raw))

    async def _head_or_none(self, version: str) -> SnapshotHead | None:
        try:
            return await self._head(version)
        except StoreCorrupt:
            self.corrupt_values += 1  # it names no chunks, so there is nothing to keep: the next head replaces it
            return None

    async def _joined(self, version: str, head: SnapshotHead) -> Joining | None:
        """All chunks, each hashed while the next one travels; ``None`` if one is missing."""
        joining, keys = Joining(head), self._chunk_keys(version, head)
        adding: asyncio.Future[None] | None = None
        for key in keys:
            async with self._connection.background() as redis:
                raw = await redis.get(key)
            if adding is not None:
                await adding
            if raw is None:
                return None
            adding = asyncio.ensure_future(asyncio.to_thread(joining.add, cast(bytes, raw)))
        if adding is not None:
            await adding
        return joining

    def _head_of(self, raw: bytes | None) -> Head | None:
        if raw is None:
            return None
        try:
            head = SnapshotHead.decode(raw)
        except StoreCorrupt:
            self.corrupt_values += 1  # as good as none: whoever holds a catalogue writes it again
            return None
        return Head(Position(head.revision, head.nonce), head.lineage)

    def _take_latest(self, part: dict[bytes, bytes], found: dict[bytes, redis_schema.LatestEntry]) -> None:
        for item_id, raw in part.items():
            try:
                entry = redis_schema.decode_latest(raw)
                redis_schema.decode_item_id(item_id)
                if entry.kind not in _KINDS:
                    raise StoreCorrupt("the latest change of an item is of no known kind")
            except StoreCorrupt:
                self.corrupt_values += 1
            else:
                found[item_id] = entry


def _published(outcome: bytes, version: str) -> bool:
    if outcome == b"expired":
        raise StoreUnavailable(
            f"writing the snapshot of {version} took longer than its lock lasts",
            "raise lock_ttl_s, or check the network",
        )
    if outcome == b"evicted":
        raise StoreUnavailable(f"Redis evicted chunks of the snapshot of {version} at once", "raise maxmemory")
    return outcome == b"published"


def _change(entry_id: bytes, fields: list[bytes]) -> ItemChange:
    at = Position(*redis_schema.decode_entry_id(entry_id))
    named = dict(zip(fields[::2], fields[1::2], strict=True))
    try:
        return ItemChange(at, redis_schema.decode_item_id(named[b"item"]), _KINDS[named[b"kind"]], named[b"payload"])
    except KeyError as cause:
        raise StoreCorrupt(f"the catalogue change of revision {at.revision} does not decode", _RELOAD) from cause
