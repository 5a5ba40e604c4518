"""Locks in Redis: each has a token and an expiry, and is renewed while its holder works."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from model_store.errors import StoreUnavailable
from service.async_tasks import cancel_and_wait
from service.store import redis_scripts
from service.store.redis_client import Script
from service.store.redis_connection import Connection


class RedisLocks:
    """Locks that this process takes.

    Args:
        connection: Connection to Redis.
        ttl_s: Seconds after which the lock of a crashed holder no longer blocks others.
    """

    def __init__(self, connection: Connection, ttl_s: float) -> None:
        self.ttl_ms = round(ttl_s * 1000)
        self._connection = connection
        self._unneeded: dict[str, str] = {}  # keys of locks to release, by token
        self._unlock = Script(connection.slow, redis_scripts.UNLOCK)
        self._renew = Script(connection.slow, redis_scripts.RENEW)

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[str | None]:
        """Take a lock, renew it during the block and release it. Yield its token, ``None`` if another holder has it.

        A lock can be lost during the block, because Redis was away for longer than its life: compare the token in
        the same script that publishes what the lock protects.
        """
        token = uuid.uuid4().hex
        await self._release_all()
        try:
            async with self._connection.background() as redis:
                is_taken = await redis.set(key, token, nx=True, px=self.ttl_ms)

            if is_taken:
                async with self._renewing(key, token):
                    yield token
            else:
                yield None
        finally:
            # also if taking it failed: Redis may have taken the lock and its answer was lost
            self._unneeded[token] = key
            with suppress(StoreUnavailable):  # the next call tries again, or the lock expires by itself
                await asyncio.shield(self._release_all())

    @asynccontextmanager
    async def _renewing(self, key: str, token: str) -> AsyncIterator[None]:
        """Renew a lock during the block: the work may take longer than a lock should last."""
        renewing = asyncio.create_task(self._renew_repeatedly(key, token))
        try:
            yield
        finally:
            await cancel_and_wait(renewing)

    async def _renew_repeatedly(self, key: str, token: str) -> None:
        while True:
            await asyncio.sleep(self.ttl_ms / 3000)
            with suppress(StoreUnavailable):  # the script that publishes checks whether the lock survived
                async with self._connection.background():
                    await self._renew([key], [token, self.ttl_ms])

    async def _release_all(self) -> None:
        """Release locks that are not needed any more, also those of earlier calls during which Redis was away."""
        for token, key in list(self._unneeded.items()):
            async with self._connection.background():
                await self._unlock([key], [token])
            self._unneeded.pop(token, None)
