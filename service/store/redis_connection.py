"""Connection to Redis: three clients, deadlines, a circuit breaker, and errors translated into ours.

Requests wait milliseconds for a read and a second for a write, never retry, and do not ask while Redis is down.
Snapshots and the change stream move megabytes in the background and wait seconds.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any, cast

from redis.asyncio import Redis

from model_store.errors import StoreError, StoreUnavailable
from model_store.replication.redis_address import NO_TLS_FILES, TlsFiles, is_cluster, redis_place
from model_store.replication.redis_errors import OUTAGES, RAISED_BY_CLIENT, translate_redis_error
from service.store.circuit_breaker import CircuitBreaker, CircuitOpen
from service.store.redis_client import cluster_primaries, open_client, prepare


class Connection:
    """Three clients of one Redis: for reads of requests, for their writes, for background work.

    Args:
        url: Where Redis is, see :mod:`model_store.replication.redis_address`.
        tls: Files of a TLS connection.
        timeout_ms: Longest wait for a socket, for reads of the request path.
        write_timeout_s: Longest wait for a write that a request waits for, however many socket operations it takes.
        background_timeout_s: Longest wait for a socket, for snapshots and the change stream.
        max_connections: Connections of the request path; further calls wait for one.
        breaker_failures: Failures in a row after which calls fail at once.
        breaker_pause_s: Seconds between probes while they do.

    Raises:
        ConfigError: The client does not accept the URL or the files.
    """

    def __init__(
        self,
        url: str,
        *,
        tls: TlsFiles = NO_TLS_FILES,
        timeout_ms: float,
        write_timeout_s: float,
        background_timeout_s: float,
        max_connections: int,
        breaker_failures: int,
        breaker_pause_s: float,
    ) -> None:
        # connecting, authenticating and asking wait once each
        self._deadline_s = 3 * timeout_ms / 1000
        self._write_timeout_s = write_timeout_s
        self._background_timeout_s = background_timeout_s
        self._clients = [
            open_client(url, tls, timeout_ms / 1000, max_connections),
            open_client(url, tls, write_timeout_s, max_connections),
            open_client(url, tls, background_timeout_s, 4),
        ]
        self.fast, self.write, self.slow = (client.redis for client in self._clients)
        self.is_cluster = is_cluster(url)
        # the pool of a cluster's node raises when it is empty, others wait
        self._turns = asyncio.Semaphore(max_connections) if self.is_cluster else nullcontext()
        self._place = redis_place(url)  # after the clients, which check the URL
        self._breakers = defaultdict[str, CircuitBreaker](
            lambda: CircuitBreaker(OUTAGES, breaker_failures, breaker_pause_s)
        )

    @property
    def is_down(self) -> bool:
        """True while calls of the request path fail at once, of a cluster those of all partitions."""
        return bool(self._breakers) and all(breaker.is_open for breaker in self._breakers.values())

    async def ask(
        self, call: Callable[[Redis], Any], *, writes: bool = False, probes: bool = True, part: str = ""
    ) -> Any:
        """Await one call of the request path.

        The circuit breaker guards it, it has a deadline, and its errors are translated.

        Args:
            call: The call, given the client.
            writes: True for a write, which has more time than a read: a batch of events takes a while.
            probes: True if this call may test whether Redis is back, and so wait until its deadline.
            part: Prefix of the partition whose keys it uses. In a cluster each has a circuit breaker of its own, since
                each may be on another node.
        """
        client = self.write if writes else self.fast
        deadline_s = self._write_timeout_s if writes else self._deadline_s
        try:
            with self._breakers[part if self.is_cluster else ""].watch(probes=probes):
                async with asyncio.timeout(deadline_s), self._turns:
                    await prepare(client)
                    return await call(client)
        except CircuitOpen as cause:
            raise StoreUnavailable(
                f"Redis at {self._place} failed repeatedly and is not asked for now", "it is tried again automatically"
            ) from cause
        except RAISED_BY_CLIENT as cause:
            raise translate_redis_error(cause, self._place) from cause

    @asynccontextmanager
    async def background(self) -> AsyncIterator[Redis]:
        """Yield the client for background work, with a longer deadline; its errors are translated."""
        try:
            async with asyncio.timeout(3 * self._background_timeout_s):
                yield self.slow
        except RAISED_BY_CLIENT as cause:
            raise translate_redis_error(cause, self._place) from cause

    async def scan(self, pattern: str, count: int) -> AsyncIterator[list[bytes]]:
        """Yield the names of keys of all primaries page by page; each page is background work of its own.

        Args:
            pattern: Pattern of the names.
            count: Keys that are looked at for one page.
        """
        async with self.background() as redis:
            nodes = await cluster_primaries(redis)
        for node in nodes:
            cursor: Any = 0
            while True:
                async with self.background() as redis:
                    cursor, names = await redis.scan(cursor, pattern, count, **node)
                yield cast(list[bytes], names)
                cursor = next(iter(cursor.values())) if isinstance(cursor, dict) else cursor
                if not cursor:
                    break

    def translate(self, cause: Exception) -> StoreError:
        """Translate an error of the client."""
        return translate_redis_error(cause, self._place)

    async def close(self) -> None:
        """Close all clients."""
        for client in self._clients:
            await client.close()
