"""The live store on Redis, shared by all replicas. Key schema, packing and eviction: :mod:`model_store.live`.

Two clients: requests wait milliseconds, never retry, and stop asking while Redis is down (circuit breaker); snapshots
and the change stream move megabytes in the background and wait seconds.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from model_store import live
from model_store.errors import ConfigError, LiveCorrupt, LiveUnavailable
from model_store.events import Event
from model_store.redis_errors import OUTAGES, RAISED_BY_CLIENT, live_error, redis_place
from service.live import scripts
from service.live.base import ChangeKind, ItemChange, LiveStore, Recorded, Snapshot
from service.live.guard import CircuitBreaker, CircuitOpen

_EVENTS_PER_CALL = 256  # one script run blocks Redis for everyone: about a millisecond
_LOAD_ATTEMPTS = 3
Arg = bytes | bytearray | memoryview | str | int | float
_KINDS: dict[bytes, ChangeKind] = {b"put": "put", b"delete": "delete"}


class RedisLive(LiveStore):
    """See :class:`LiveStore`.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, with credentials if needed.
        prefix: In front of every key.
        history_cap: Item ids kept per user.
        timeout_ms: Longest wait for a socket, on the request path.
        background_timeout_s: The same for snapshots and the change stream.
        max_connections: Connections of the request path; further calls wait for one. Few: opening many at once takes
            longer than ``timeout_ms``.
        record_timeout_s: Longest wait to record events, which nobody can answer without.
        breaker_failures: Failures in a row after which calls fail at once.
        breaker_pause_s: Seconds between probes while they do.
        lock_ttl_s: After this long a crashed snapshot writer no longer blocks others.
        grace_s: How long the chunks of a replaced snapshot stay for readers that are in the middle of them.

    Raises:
        ConfigError: The URL is none that the client takes.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = live.DEFAULT_PREFIX,
        history_cap: int = live.HISTORY_CAP,
        timeout_ms: float = 50,
        background_timeout_s: float = 10,
        max_connections: int = 16,
        record_timeout_s: float = 1.0,
        breaker_failures: int = 3,
        breaker_pause_s: float = 1.0,
        lock_ttl_s: float = 60,
        grace_s: float = 60,
    ) -> None:
        self._keys = live.Keys(prefix)
        self._history_cap = history_cap
        # connecting, authenticating and asking are one wait each
        self._deadline_s = 3 * timeout_ms / 1000
        self._record_timeout_s = record_timeout_s
        self._background_timeout_s = background_timeout_s
        self._lock_ttl_s = lock_ttl_s
        self._grace_s = grace_s
        self._fast = _client(url, timeout_ms / 1000, max_connections)
        self._slow = _client(url, background_timeout_s, 4)
        self._place = redis_place(url)  # only now is it known to be a URL
        self._breaker = CircuitBreaker(OUTAGES, breaker_failures, breaker_pause_s)
        self._record = self._fast.register_script(scripts.RECORD)
        self._append_change = self._fast.register_script(scripts.APPEND_CHANGE)
        self._publish = self._slow.register_script(scripts.PUBLISH_SNAPSHOT)
        self._unlock = self._slow.register_script(scripts.UNLOCK)

    @property
    def is_down(self) -> bool:
        """Whether calls of the request path fail at once for now."""
        return self._breaker.is_open

    async def ping(self) -> None:
        """Return if Redis answers."""
        await self._ask(lambda: self._fast.ping())

    async def history(self, user_id: str) -> list[str]:
        """Oldest first. Entries that do not decode are skipped and counted: the rest of a history is still useful."""
        raw = await self._ask(lambda: self._fast.lrange(self._keys.history(user_id), 0, -1))
        item_ids = []
        for entry in raw:
            try:
                item_ids.append(live.decode_item_id(entry))
            except LiveCorrupt:
                self.corrupt_values += 1
        return item_ids[-self._history_cap :]

    async def record(self, events: Sequence[Event]) -> Recorded:
        """One script per 256 events: each script is atomic, a batch across scripts is not."""
        accepted = 0
        for at in range(0, len(events), _EVENTS_PER_CALL):
            part = events[at : at + _EVENTS_PER_CALL]
            keys = [self._keys.events, self._keys.seen, *(self._keys.history(event.user_id) for event in part)]
            args: list[Arg] = [self._history_cap, live.SEEN_WINDOW_S]
            for event in part:
                args += [event.event_id, event.item_id, live.encode_event(event)]
            accepted += await self._ask(partial(self._record, keys, args), self._record_timeout_s)
        return Recorded(accepted, len(events) - accepted)

    async def forget(self, user_id: str) -> None:
        """Drop the history of a user."""
        await self._ask(lambda: self._fast.delete(self._keys.history(user_id)))

    async def append_change(self, version: str, item_id: str, kind: ChangeKind, payload: bytes) -> int:
        """One script reads the last revision and appends the next."""
        keys = [self._keys.changes(version)]
        args: list[Arg] = [item_id, kind, payload]
        return int(await self._ask(lambda: self._append_change(keys, args)))

    async def changes(self, version: str, after: int, limit: int = 1000) -> list[ItemChange]:
        """Read from the stream; entry ids are revisions."""
        async with self._background():
            answer = await self._slow.xrange(self._keys.changes(version), min=f"{after + 1}-0", count=limit)
        entries = cast(list[tuple[bytes, dict[bytes, bytes]]], answer)
        found = [_change(entry_id, fields) for entry_id, fields in entries]
        if [change.revision for change in found] != list(range(after + 1, after + 1 + len(found))):
            raise LiveCorrupt(f"the changes after revision {after} of {version} have a gap", "load a newer snapshot")
        return found

    async def cache_get(self, key: str) -> bytes | None:
        """A cached result that fails its checksum is a miss, and counted."""
        try:
            raw = await self._ask(lambda: self._fast.get(self._keys.cache(key)))
            return None if raw is None else live.open_cached(raw)
        except LiveCorrupt:
            self.corrupt_values += 1
            return None

    async def cache_put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Store with an expiry in milliseconds."""
        sealed = live.seal_cached(value)
        await self._ask(lambda: self._fast.set(self._keys.cache(key), sealed, px=max(1, round(ttl_s * 1000))))

    async def load_snapshot(self, version: str) -> Snapshot | None:
        """Follow the head to its chunks; again if the head moved and the chunks expired meanwhile."""
        head = await self._head(version)
        for _ in range(_LOAD_ATTEMPTS):
            if head is None:
                return None
            chunks = await self._chunks(version, head)
            if chunks is not None:
                block = await asyncio.to_thread(live.join_chunks, head, chunks)
                return Snapshot(head.revision, await asyncio.to_thread(live.unpack_arrays, block))
            latest = await self._head(version)
            if latest == head:
                break
            head = latest
        raise LiveCorrupt(
            f"the catalogue snapshot of {version} lacks chunks", "delete its head key: a replica writes it again"
        )

    async def save_snapshot(self, version: str, snapshot: Snapshot, *, replace: bool = False) -> bool:
        """Chunks first, with an expiry; then one script makes them permanent, moves the head, retires the old ones."""
        lock, token = self._keys.lock(version), uuid.uuid4().hex
        async with self._background():
            if not await self._slow.set(lock, token, nx=True, px=round(self._lock_ttl_s * 1000)):
                return False
        try:
            old = await self._head_or_none(version)
            if old is not None and old.revision >= snapshot.revision and not replace:
                return False
            return await self._write(version, token, snapshot, old)
        finally:
            with suppress(LiveUnavailable):  # then the lock expires by itself
                await asyncio.shield(self._release(lock, token))

    async def close(self) -> None:
        """Disconnect."""
        await self._fast.aclose()
        await self._slow.aclose()

    async def _write(self, version: str, token: str, snapshot: Snapshot, old: live.SnapshotHead | None) -> bool:
        block = await asyncio.to_thread(live.pack_arrays, snapshot.arrays)
        head = await asyncio.to_thread(live.SnapshotHead.of, block, snapshot.revision)
        chunk_keys = self._chunk_keys(version, head)
        for key, piece in zip(chunk_keys, live.split_chunks(block), strict=True):
            async with self._background():
                # twice the lock's life: chunks of a writer that crashed vanish by themselves
                await self._slow.set(key, piece, px=round(2000 * self._lock_ttl_s))
        old_keys = [] if old is None else self._chunk_keys(version, old)
        keys = [self._keys.lock(version), self._keys.head(version), *chunk_keys, *old_keys]
        args: list[Arg] = [token, head.encode(), len(chunk_keys), round(self._grace_s * 1000)]
        async with self._background():
            outcome = await self._publish(keys, args)
        return _published(outcome, version)

    def _chunk_keys(self, version: str, head: live.SnapshotHead) -> list[str]:
        return [self._keys.chunk(version, head.snapshot_id, number) for number in range(head.chunks)]

    async def _release(self, lock: str, token: str) -> None:
        async with self._background():
            await self._unlock([lock], [token])

    async def _head(self, version: str) -> live.SnapshotHead | None:
        async with self._background():
            raw = await self._slow.get(self._keys.head(version))
        return None if raw is None else live.SnapshotHead.decode(cast(bytes, raw))

    async def _head_or_none(self, version: str) -> live.SnapshotHead | None:
        try:
            return await self._head(version)
        except LiveCorrupt:
            self.corrupt_values += 1  # it names no chunks, so there is nothing to keep: the next head replaces it
            return None

    async def _chunks(self, version: str, head: live.SnapshotHead) -> list[bytes] | None:
        chunks = []
        for key in self._chunk_keys(version, head):
            async with self._background():
                raw = await self._slow.get(key)
            if raw is None:
                return None
            chunks.append(cast(bytes, raw))
        return chunks

    async def _ask(self, call: Callable[[], Any], timeout_s: float | None = None) -> Any:
        """Await one call of the request path: guarded, within its deadline, errors translated."""
        try:
            with self._breaker.watch():
                async with asyncio.timeout(timeout_s or self._deadline_s):
                    return await call()
        except CircuitOpen as cause:
            raise LiveUnavailable(
                f"Redis at {self._place} failed repeatedly and is not asked for now", "it is tried again by itself"
            ) from cause
        except RAISED_BY_CLIENT as cause:
            raise live_error(cause, self._place) from cause

    @asynccontextmanager
    async def _background(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(3 * self._background_timeout_s):
                yield
        except RAISED_BY_CLIENT as cause:
            raise live_error(cause, self._place) from cause


def _client(url: str, timeout_s: float, max_connections: int) -> Redis:
    """A client that waits ``timeout_s`` per socket operation, once; the defaults are 5 s and 10 retries."""
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=max_connections,
            timeout=None,  # waiting for a connection is no outage; the deadline of the call ends it
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
            protocol=2,
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
    except ValueError as cause:
        raise ConfigError("ETEGREC_REDIS_URL is no Redis URL", "write redis://[:password@]host:6379/0") from cause
    return Redis.from_pool(pool)


def _published(outcome: bytes, version: str) -> bool:
    if outcome == b"expired":
        raise LiveUnavailable(
            f"writing the snapshot of {version} took longer than its lock lasts",
            "raise lock_ttl_s, or check the network",
        )
    if outcome == b"evicted":
        raise LiveUnavailable(f"Redis evicted chunks of the snapshot of {version} at once", "raise maxmemory")
    return outcome == b"published"


def _change(entry_id: bytes, fields: dict[bytes, bytes]) -> ItemChange:
    revision = live.decode_revision(entry_id)
    try:
        kind = _KINDS[fields[b"kind"]]
        return ItemChange(revision, live.decode_item_id(fields[b"item"]), kind, fields[b"payload"])
    except KeyError as cause:
        raise LiveCorrupt(f"the catalogue change of revision {revision} does not decode", "load a snapshot") from cause
