"""Client of Redis for commands: a long timeout, no retries, and its errors translated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from redis import Redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry
from redis.sentinel import Sentinel

from model_store.replication.redis_address import (
    TlsFiles,
    cluster_address,
    is_cluster,
    is_sentinel,
    redis_place,
    refuse_url,
    sentinel_address,
)
from model_store.replication.redis_errors import RAISED_BY_CLIENT, translate_redis_error

_TIMEOUT_S = 10


@contextmanager
def reading_redis(url: str, tls: TlsFiles) -> Iterator[Redis]:
    """Yield a client of the store, and close it at the end of the block.

    Args:
        url: Where Redis is, see :mod:`model_store.replication.redis_address`.
        tls: Files of a TLS connection.

    Raises:
        ConfigError: The client does not accept the URL or the files.
        StoreError: Redis failed during the block.
    """
    try:
        with _open(url, tls) as client:
            yield client
    except RAISED_BY_CLIENT as cause:
        raise translate_redis_error(cause, redis_place(url)) from cause


def _open(url: str, tls: TlsFiles) -> Redis:
    options: dict[str, Any] = {
        **tls.options(url),
        "socket_timeout": _TIMEOUT_S,
        "socket_connect_timeout": _TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    try:
        if is_cluster(url):
            nodes = cluster_address(url)
            options |= nodes.options
            startup = [ClusterNode(host, port) for host, port in nodes.nodes]  # type: ignore[no-untyped-call]
            client = cast(Redis, RedisCluster(startup_nodes=startup, **options))
        elif is_sentinel(url):
            address = sentinel_address(url)
            sentinel_kwargs = {**options, **address.sentinel_options}
            sentinel = Sentinel(address.sentinels, sentinel_kwargs=sentinel_kwargs)  # type: ignore[no-untyped-call]
            given = {**options, **address.options}
            client = sentinel.master_for(address.service, **given)  # type: ignore[no-untyped-call]
        else:
            client = Redis.from_url(url, **options)
            client.connection_pool.make_connection()  # connects to nothing, but raises for options that do not exist
    except (TypeError, ValueError) as cause:
        raise refuse_url(cause) from cause
    return client
