"""Stores on a Redis of the test's own, which it may kill, fill and look into."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from redis import Redis

from service.store.redis_store import RedisStore
from tests.support.redis_server import RedisServer


@pytest.fixture
async def open_store(own_redis: RedisServer) -> AsyncIterator[Callable[..., RedisStore]]:
    """Open stores that wait patiently unless they are told otherwise; they are closed when the test ends."""
    opened: list[RedisStore] = []

    def build(url: str = own_redis.url, **given: Any) -> RedisStore:
        options = {"timeout_ms": 10_000, "write_timeout_s": 10.0, "breaker_pause_s": 0.05, **given}
        opened.append(RedisStore(url, **options))
        return opened[-1]

    async with asyncio.timeout(120):
        yield build
    for store in opened:
        await store.close()


@pytest.fixture
def raw(own_redis: RedisServer) -> Iterator[Redis]:
    """The same Redis without a store in between; it doesn't wait for the disk."""
    with own_redis.client() as client:
        client.config_set("appendfsync", "no")
        yield client
