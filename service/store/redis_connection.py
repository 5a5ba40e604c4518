"""Connection to Redis: three clients, deadlines, a circuit breaker, and errors translated into ours.

Requests wait milliseconds for a read and a second for a write, never retry, and do not ask while Redis is down.
Snapshots and the change stream move megabytes in the background and wait seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from model_store.errors import ConfigError, StoreError, StoreUnavailable
from model_store.replication.redis_errors import OUTAGES, RAISED_BY_CLIENT, redis_place, translate_redis_error
from service.store.circuit_breaker import CircuitBreaker, CircuitOpen

Arg = bytes | bytearray | memoryview | str | int | float

_READ_BYTES = 262_144  # read from a socket at once, as many as asyncio buffers: snapshots come in megabytes


class Connection:
    """Three clients of one Redis: for reads of requests, for their writes, for background work.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, with credentials if needed.
        timeout_ms: Longest wait for a socket, for reads of the request path.
        write_timeout_s: Longest wait for a write that a request waits for, however many socket operations it takes.
        background_timeout_s: Longest wait for a socket, for snapshots and the change stream.
        max_connections: Connections of the request path; further calls wait for one.
        breaker_failures: Failures in a row after which calls fail at once.
        breaker_pause_s: Seconds between probes while they do.

    Raises:
        ConfigError: The client does not accept the URL.
    """

    def __init__(
        self,
        url: str,
        *,
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
        self.fast = _client(url, timeout_ms / 1000, max_connections)
        self.write = _client(url, write_timeout_s, max_connections)
        self.slow = _client(url, background_timeout_s, 4)
        self._place = redis_place(url)  # after the clients, which check the URL
        self._breaker = CircuitBreaker(OUTAGES, breaker_failures, breaker_pause_s)

    @property
    def is_down(self) -> bool:
        """True while calls of the request path fail at once."""
        return self._breaker.is_open

    async def ask(self, call: Callable[[Redis], Any], *, writes: bool = False, probes: bool = True) -> Any:
        """Await one call of the request path.

        The circuit breaker guards it, it has a deadline, and its errors are translated.

        Args:
            call: The call, given the client.
            writes: True for a write, which has more time than a read: a batch of events takes a while.
            probes: True if this call may test whether Redis is back, and so wait until its deadline.
        """
        client = self.write if writes else self.fast
        deadline_s = self._write_timeout_s if writes else self._deadline_s
        try:
            with self._breaker.watch(probes=probes):
                async with asyncio.timeout(deadline_s):
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

    def translate(self, cause: Exception) -> StoreError:
        """Translate an error of the client."""
        return translate_redis_error(cause, self._place)

    async def close(self) -> None:
        """Close all clients."""
        await self.fast.aclose()
        await self.write.aclose()
        await self.slow.aclose()


def _client(url: str, timeout_s: float, max_connections: int) -> Redis:
    """Open a client that waits ``timeout_s`` per socket operation, once; the defaults are 5 s and 10 retries."""
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=max_connections,
            timeout=None,  # waiting for a connection is not an outage; the deadline of the call ends it
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            socket_read_size=_READ_BYTES,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
            protocol=2,
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
    except ValueError as cause:
        raise ConfigError("ETEGREC_REDIS_URL is not a Redis URL", "write redis://[:password@]host:6379/0") from cause

    return Redis.from_pool(pool)
