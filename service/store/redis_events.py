"""Event stream in Redis: recording events, decayed counts, the backlog of training, and erasing a user."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

from redis.asyncio import Redis

from model_store.events.event import Event
from model_store.events.event_queue import EventBacklog
from model_store.events.history_entry import letter_of
from model_store.events.tombstones import tombstone_of
from model_store.replication import redis_schema
from service.store import redis_scripts
from service.store.base import Forgotten
from service.store.decayed_counts import COUNTED_ITEMS, counts_at
from service.store.redis_connection import Arg, Connection

_EVENTS_PER_CALL = 256  # one script run blocks Redis for everyone: one or two milliseconds
_ERASED_PER_CALL = 500  # entries decoded by one script run, likewise
_COUNTS_PER_CALL = 1000


class RedisEvents:
    """Event stream, and the histories and counts that are updated together with it.

    Args:
        connection: Connection to Redis.
        keys: Names of the keys.
        history_cap: Interactions kept per user.
        half_lives_s: Half-lives of the decayed counts, in seconds.
        user_ttl_s: Seconds without an event after which a user expires, 0 for never.
        max_undrained_events: Number of waiting events above which the oldest are dropped, 0 for none.

    Attributes:
        dropped_events: Events that recording others dropped since start.
    """

    def __init__(
        self,
        connection: Connection,
        keys: redis_schema.Keys,
        history_cap: int,
        half_lives_s: Sequence[int],
        user_ttl_s: int,
        max_undrained_events: int,
    ) -> None:
        self.dropped_events = 0
        self._connection = connection
        self._keys = keys
        self._history_cap = history_cap
        self._half_lives_s = tuple(half_lives_s)
        self._user_ttl_s = user_ttl_s
        self._max_undrained_events = max_undrained_events
        self._record = connection.write.register_script(redis_scripts.RECORD)
        self._erase = connection.slow.register_script(redis_scripts.ERASE)
        self._forget = connection.slow.register_script(redis_scripts.FORGET)

    async def record(self, events: Sequence[Event]) -> int:
        """Record events and return how many were new.

        One script per 256 events, each with the time of a write: each script is atomic, a batch across scripts is not.
        """
        counts = [self._keys.counts(half_life) for half_life in self._half_lives_s]
        limits: list[Arg] = [self._history_cap, redis_schema.SEEN_WINDOW_S, COUNTED_ITEMS]
        limits += [self._user_ttl_s, self._max_undrained_events]
        accepted = 0

        for at in range(0, len(events), _EVENTS_PER_CALL):
            part = events[at : at + _EVENTS_PER_CALL]
            stream = [self._keys.events, self._keys.seen]
            keys = [*stream, *counts, *(self._keys.history(each.user_id) for each in part)]
            args: list[Arg] = [*limits, len(counts), *self._half_lives_s]
            for event in part:
                entry = redis_schema.encode_entry(letter_of(event.type), event.timestamp, event.item_id)
                args += [event.event_id, event.item_id, event.timestamp, redis_schema.encode_event(event), entry]

            new, dropped = await self._run(keys, args)
            accepted += new
            self.dropped_events += dropped

        return accepted

    async def _run(self, keys: list[str], args: list[Arg]) -> tuple[int, int]:
        """Run the script; return how many events were new, and how many old ones were dropped."""

        async def call(client: Redis) -> Any:
            return await self._record(keys, args, client)

        new, dropped = await self._connection.ask(call, writes=True)
        return int(new), int(dropped)

    async def forget(self, user_id: str) -> Forgotten:
        """Erase the history and note where the stream ends now; then go through the stream step by step.

        After a failure, another call goes through the rest.
        """
        keys = [self._keys.history(user_id), self._keys.erased, self._keys.events]
        async with self._connection.background():
            entries, last = await self._forget(keys, [tombstone_of(user_id)])

        erased = await self._erase_events(user_id, last) if last else 0
        return Forgotten(sum(not entry.startswith(redis_schema.NEWEST_MARK) for entry in entries), erased)

    async def backlog(self) -> EventBacklog:
        """Count the entries of the stream: training deletes those it has drained. Their ids begin with milliseconds."""
        async with self._connection.background() as redis:
            pipeline = redis.pipeline(transaction=True)
            pipeline.xlen(self._keys.events)
            pipeline.xrange(self._keys.events, count=1)
            length, oldest = await pipeline.execute()
        return EventBacklog(int(length), int(oldest[0][0].partition(b"-")[0]) / 1000 if oldest else None)

    async def counts(self, half_life_s: int) -> dict[str, float]:
        """Read counts page by page, by rank, so that nobody waits; an item whose rank changes may be missed."""
        scores: dict[bytes, float] = {}
        for start in range(0, COUNTED_ITEMS, _COUNTS_PER_CALL):
            async with self._connection.background() as redis:
                key = self._keys.counts(half_life_s)
                page: Any = await redis.zrevrange(key, start, start + _COUNTS_PER_CALL - 1, withscores=True)
            scores.update(cast(list[tuple[bytes, float]], page))
            if len(page) < _COUNTS_PER_CALL:
                break

        decoded = ((item_id.decode(errors="replace"), score) for item_id, score in scores.items())
        return counts_at(time.time(), half_life_s, decoded)

    async def _erase_events(self, user_id: str, last: bytes) -> int:
        erased = 0
        start = b"-"
        while True:
            args: list[Arg] = [user_id, start, last, _ERASED_PER_CALL]
            async with self._connection.background():
                found, last_seen = await self._erase([self._keys.events], args)
            erased += int(found)
            if not last_seen:
                return erased
            start = b"(" + last_seen
