"""Upkeep of Redis: limits that hold while nothing is recorded, and changed settings applied to what is stored."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import structlog
from redis.asyncio import Redis

from model_store.errors import StoreError, StoreReadOnly
from model_store.replication import redis_keys
from service.async_tasks import gather_all
from service.store import redis_scripts
from service.store.redis_client import Script
from service.store.redis_connection import Connection

log = structlog.get_logger()

_SCANNED = 1000  # keys per call: a millisecond or two


class RedisUpkeep:
    """Upkeep of the keys of one installation, which every replica does. Used from one event loop.

    Args:
        connection: Connection to Redis.
        keys: Names of the keys.
        half_lives_s: Half-lives of the decayed counts that are used.
        user_ttl_s: Seconds without an event after which a user expires, 0 for never.
        max_undrained_events: Number of waiting events above which the oldest are dropped, 0 for none.

    Attributes:
        dropped_events: Events that this replica dropped here.
    """

    def __init__(
        self,
        connection: Connection,
        keys: redis_keys.Keys,
        half_lives_s: Sequence[int],
        user_ttl_s: int,
        max_undrained_events: int,
    ) -> None:
        self.dropped_events = 0
        self._connection = connection
        self._keys = keys
        self._counts = [part.counts(half_life).encode() for part in keys.parts for half_life in half_lives_s]
        self._user_ttl_s = user_ttl_s
        self._max_undrained_events = -(-max_undrained_events // len(keys.parts))
        self._trim = Script(connection.fast, redis_scripts.TRIM)

    async def trim(self) -> None:
        """Trim recorded ids and waiting events, as recording does: a full Redis records nothing, but must shrink."""
        await gather_all(self._trim_part(part) for part in self._keys.parts)

    async def _trim_part(self, part: redis_keys.Keys) -> None:
        args = [redis_keys.SEEN_WINDOW_S, self._max_undrained_events]

        async def call(redis: Redis) -> Any:
            return await self._trim([part.events, part.seen], args, redis)

        self.dropped_events += int(await self._connection.ask(call, part=part.prefix))

    async def apply_settings(self) -> None:
        """Give all histories the expiry that the settings want, and delete counts that nobody reads.

        Redis remembers the settings that were applied, so this goes through all keys only after they have changed.
        Users who have been idle for long keep their history for the whole time once more, from now on.
        """
        wanted = f"{self._user_ttl_s} {b' '.join(sorted(self._counts)).decode()}".encode()
        async with self._connection.background() as redis:
            applied = await redis.get(self._keys.applied)
        if applied == wanted:
            return

        users = await self._expire_histories()
        await self._delete_counts()
        log.info("store_settings_applied", users=users, user_ttl_s=self._user_ttl_s)
        with suppress(StoreReadOnly):  # too full to remember it: the next start applies them once more
            async with self._connection.background() as redis:
                await redis.set(self._keys.applied, wanted)

    async def try_apply_settings(self) -> bool:
        """Do the same; if that is impossible now, log the reason and return ``False``."""
        try:
            await self.apply_settings()
        except StoreError as failure:
            log.info("store_settings_not_applied", cause=str(failure), hint=failure.hint)
            return False
        return True

    async def _expire_histories(self) -> int:
        users = 0
        async for names in self._connection.scan(self._keys.pattern("history:"), _SCANNED):
            async with self._connection.background() as redis:
                pipeline = redis.pipeline(transaction=False)
                for name in names:
                    if self._user_ttl_s:
                        pipeline.expire(name, self._user_ttl_s, lt=True)
                    else:
                        pipeline.persist(name)
                await pipeline.execute()
            users += len(names)
        return users

    async def _delete_counts(self) -> None:
        """Delete what is not read any more: counts have no expiry, so those of other half-lives would stay."""
        unused = {self._keys.newest.encode()}
        async for names in self._connection.scan(self._keys.pattern("events:counts:"), _SCANNED):
            unused |= set(names) - set(self._counts)
        async with self._connection.background() as redis:
            for name in unused:  # one by one, since they may be in several slots
                await redis.unlink(name)
