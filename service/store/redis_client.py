"""Clients of Redis: one server, the primary that sentinels name, or a cluster. Nothing is retried."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from redis.maint_notifications import MaintNotificationsConfig

from model_store.replication.redis_address import (
    TlsFiles,
    cluster_address,
    is_cluster,
    is_sentinel,
    refuse_url,
    sentinel_address,
)

Arg = bytes | bytearray | memoryview | str | int | float

_READ_BYTES = 262_144  # read from a socket at once, as many as asyncio buffers: snapshots come in megabytes
_NODE_CONNECTIONS = 1024
"""Connections to one node of a cluster above which the client raises instead of waiting; never that many are open."""


class BlockingSentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Pool of connections to the primary that sentinels name, in which further calls wait for a connection."""


class Script:
    """Lua script. A node that does not know it yet is sent all of it.

    Args:
        client: Client that runs it unless a call names another.
        text: The script.
    """

    def __init__(self, client: Redis, text: str) -> None:
        self._client = client
        self._text = text
        self._sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, keys: Sequence[str], args: Sequence[Arg] = (), client: Redis | None = None) -> Any:
        """Run it on the keys, which must be in one slot of a cluster, and return its answer.

        Args:
            keys: ``KEYS`` of the script.
            args: ``ARGV`` of the script.
            client: Client to use in place of that of the script.
        """
        redis = self._client if client is None else client
        passed = [*keys, *args]
        try:
            return await redis.evalsha(self._sha, len(keys), *passed)
        except NoScriptError:
            return await redis.eval(self._text, len(keys), *passed)


class OpenedClient(NamedTuple):
    """Client of Redis, and that of the sentinels if they name its server. A cluster's has the same methods."""

    redis: Redis
    sentinel: Sentinel | None = None

    async def close(self) -> None:
        """Close all connections."""
        await self.redis.aclose()
        if self.sentinel is not None:
            await self.sentinel.aclose()


def open_client(url: str, tls: TlsFiles, timeout_s: float, max_connections: int) -> OpenedClient:
    """Open a client that waits ``timeout_s`` per socket operation, once; the defaults are 5 s and 10 retries.

    Raises:
        ConfigError: The client does not accept the URL or the files.
    """
    waiting = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    common: dict[str, Any] = {
        **waiting,
        **tls.options(url),
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "protocol": 2,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    # waiting for a connection is not an outage; the deadline of the call ends it
    pooled = {"max_connections": max_connections, "timeout": None, "socket_read_size": _READ_BYTES}
    try:
        if is_cluster(url):
            return _open_cluster(url, common)
        if is_sentinel(url):
            return _open_by_sentinel(url, common, pooled)
        return OpenedClient(Redis.from_pool(BlockingConnectionPool.from_url(url, **common, **pooled)))
    except ValueError as cause:
        raise refuse_url(cause) from cause


async def prepare(redis: Redis) -> None:
    """Let the client of a cluster learn which node has which slots, if it does not know.

    That may take longer than a request can wait: a caller that gives up waiting does not stop it.
    """
    cluster = _as_cluster(redis)
    if cluster is not None:
        learning = asyncio.ensure_future(cluster.initialize())
        learning.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be waiting for it
        await asyncio.shield(learning)


async def cluster_primaries(redis: Redis) -> list[dict[str, Any]]:
    """Return the arguments that send a command to each primary of a cluster: none for a client of one server."""
    cluster = _as_cluster(redis)
    if cluster is None:
        return [{}]
    await cluster.initialize()
    return [{"target_nodes": node} for node in cluster.get_primaries()]


def _as_cluster(redis: object) -> RedisCluster | None:
    """Return a client as that of a cluster, if it is one."""
    return redis if isinstance(redis, RedisCluster) else None


def _open_by_sentinel(url: str, common: dict[str, Any], pooled: dict[str, Any]) -> OpenedClient:
    address = sentinel_address(url)
    sentinel_kwargs = {**common, **address.sentinel_options}
    sentinel = Sentinel(address.sentinels, sentinel_kwargs=sentinel_kwargs)  # type: ignore[no-untyped-call]
    redis = sentinel.master_for(
        address.service, connection_pool_class=BlockingSentinelPool, **common, **address.options, **pooled
    )
    return OpenedClient(redis, sentinel)


def _open_cluster(url: str, common: dict[str, Any]) -> OpenedClient:
    """Open a client that asks the nodes themselves which slots they have, and goes on while a few have no node."""
    address = cluster_address(url)
    nodes = [ClusterNode(host, port) for host, port in address.nodes]
    given = {**common, **address.options, "socket_read_size": _READ_BYTES, "max_connections": _NODE_CONNECTIONS}
    return OpenedClient(cast(Redis, RedisCluster(startup_nodes=nodes, require_full_coverage=False, **given)))
