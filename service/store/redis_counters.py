"""Counters in Redis: a hash for each day, in a cluster one for each day and partition."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from model_store.events.counts import add_all, by_day, codes_of_day
from model_store.replication import redis_keys
from service.store import redis_scripts
from service.store.counter_store import Addition, CounterStore
from service.store.redis_client import Arg, Script
from service.store.redis_connection import Connection

_REMEMBERED_S = 24 * 3600
"""Seconds for which the number of a replica's last addition is remembered."""


class RedisCounters(CounterStore):
    """Counters of one installation. Used from one event loop.

    Args:
        connection: Connection to Redis.
        keys: Names of the keys.
    """

    def __init__(self, connection: Connection, keys: redis_keys.Keys) -> None:
        self._connection = connection
        self._keys = keys
        self._add = Script(connection.slow, redis_scripts.ADD_COUNTS)

    async def add(self, addition: Addition) -> None:
        """Write the names first: a counter whose name nobody knows would be shown as its hash."""
        if addition.names:
            names: dict[Any, Any] = dict(addition.names)
            async with self._connection.background() as redis:
                await redis.hset(self._keys.counter_names, mapping=names)

        # any partition will do, since sums are over all; but a repeated addition must come to the same one
        part = self._keys.parts[zlib.crc32(addition.replica.encode()) % len(self._keys.parts)]
        totals = by_day(addition.counts)
        args: list[Arg] = [addition.number, _REMEMBERED_S]
        for place, amounts in enumerate(totals.values(), 1):
            for name, amount in amounts.items():
                args += [place, name, repr(amount)]
        async with self._connection.background():
            await self._add([part.counts_added(addition.replica), *map(part.counters, totals)], args)

    async def read(self, days: Sequence[str]) -> list[dict[str, float]]:
        """Read the hashes of all partitions and add them up."""
        totals: list[dict[str, float]] = [{} for _ in days]
        for part in self._keys.parts:
            async with self._connection.background() as redis:
                pipeline = redis.pipeline(transaction=False)
                for day in days:
                    pipeline.hgetall(part.counters(day))
                found: list[Any] = await pipeline.execute()
            for total, amounts in zip(totals, found, strict=True):
                add_all(total, {name.decode(errors="replace"): float(amount) for name, amount in amounts.items()})
        return totals

    async def names(self) -> dict[str, str]:
        """Read a hash."""
        async with self._connection.background() as redis:
            found: Any = await redis.hgetall(self._keys.counter_names)
        return {label.decode(errors="replace"): name.decode(errors="replace") for label, name in found.items()}

    async def delete(self, days: Sequence[str]) -> None:
        """Delete hashes. They have no expiry: Redis would drop keys with one first when memory is short."""
        for part in self._keys.parts:
            async with self._connection.background() as redis:
                await redis.unlink(*map(part.counters, (*days, *map(codes_of_day, days))))

    async def key(self, proposed: bytes) -> bytes:
        """Read the key; only if there is none, set it, unless another replica was faster."""

        async def call(redis: Redis) -> Any:
            found = await redis.get(self._keys.attribution_key)
            if found is not None:
                return found
            await redis.set(self._keys.attribution_key, proposed, nx=True)
            return await redis.get(self._keys.attribution_key)

        return bytes(await self._connection.ask(call, writes=True, part=self._keys.prefix))
