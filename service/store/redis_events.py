"""Event stream in Redis: recording events, decayed counts, the backlog of training, and erasing a user."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

from redis.asyncio import Redis

from model_store.events.counts import NO_COUNTS, Counts, by_day
from model_store.events.event import IMPRESSION, NEGATIVE_TYPES, Event
from model_store.events.event_queue import EventBacklog
from model_store.events.history_entry import letter_of
from model_store.events.marks import Mark
from model_store.events.tombstones import tombstone_of
from model_store.replication import redis_keys, redis_values
from service.store import redis_scripts
from service.store.base import Forgotten
from service.store.decayed_counts import COUNTED_ITEMS, counts_at
from service.store.redis_client import Arg, Script
from service.store.redis_connection import Connection
from service.store.redis_subjects import keys_of

_EVENTS_PER_CALL = 256  # one script run blocks Redis for everyone: one or two milliseconds
_ERASED_PER_CALL = 500  # entries decoded by one script run, likewise
_COUNTS_PER_CALL = 1000
_UNKNOWN_EXPERIMENT_S = 90 * 86_400  # as long as the oldest attribution counts


class RedisEvents:
    """Event stream, and the histories, counts and counters that are updated together with it.

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
        keys: redis_keys.Keys,
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
        # each partition keeps its share; of the counts it keeps more, since not all have the same items
        self._max_undrained_events = -(-max_undrained_events // len(keys.parts))
        self._counted_items = COUNTED_ITEMS if len(keys.parts) == 1 else COUNTED_ITEMS * 4 // len(keys.parts)
        self._record = Script(connection.write, redis_scripts.RECORD)
        self._erase = Script(connection.slow, redis_scripts.ERASE)
        self._forget = Script(connection.slow, redis_scripts.FORGET)

    async def record(self, events: Sequence[Event], counts: Sequence[Counts], traceparent: str) -> int:
        """Record events and return how many were new.

        One script per 256 events of a partition, each with the time of a write: each script is atomic, a batch across
        scripts is not.
        """
        rows = list(zip(events, counts or [NO_COUNTS] * len(events), strict=True))
        by_part = self._keys.by_part(rows, lambda row: row[0].user_id)
        return sum([await self._record_part(keys, part, traceparent) for keys, part in by_part.items()])

    async def _record_part(self, names: redis_keys.Keys, rows: Sequence[tuple[Event, Counts]], traceparent: str) -> int:
        decayed = [names.counts(half_life) for half_life in self._half_lives_s]
        limits: list[Arg] = [self._history_cap, redis_keys.SEEN_WINDOW_S, self._counted_items]
        limits += [self._user_ttl_s, self._max_undrained_events]
        accepted = 0

        for at in range(0, len(rows), _EVENTS_PER_CALL):
            part = rows[at : at + _EVENTS_PER_CALL]
            days = list(by_day(counts for _, counts in part))
            keys = [names.events, names.seen, *decayed, *map(names.counters, days)]
            experiments = list(dict.fromkeys(counts.mark.experiment for _, counts in part if counts.mark is not None))
            keys += keys_of(names, experiments)
            keys += [names.history(event.user_id) for event, _ in part]
            args: list[Arg] = [*limits, len(days), len(experiments), _UNKNOWN_EXPERIMENT_S]
            args += [len(decayed), *self._half_lives_s]
            for event, counts in part:
                mark = self._encode_mark(counts.mark, experiments)
                args += [*_event_args(event), _encode_counts(counts, days), mark]
            args.append(traceparent)

            new, dropped = await self._run(names.prefix, keys, args)
            accepted += new
            self.dropped_events += dropped

        return accepted

    def _encode_mark(self, mark: Mark | None, experiments: Sequence[str]) -> str:
        """Return the place of the mark's experiment and what the mark says, with blanks between; or nothing."""
        if mark is None:
            return ""
        exposes = int(mark.is_asker or len(self._keys.parts) == 1)
        value = "" if mark.value is None else repr(mark.value)
        place = experiments.index(mark.experiment) + 1
        return f"{place} {exposes} {mark.who} {mark.type} {value} {mark.currency}"

    async def _run(self, part: str, keys: list[str], args: list[Arg]) -> tuple[int, int]:
        """Run the script; return how many events were new, and how many old ones were dropped."""

        async def call(client: Redis) -> Any:
            return await self._record(keys, args, client)

        new, dropped = await self._connection.ask(call, writes=True, part=part)
        return int(new), int(dropped)

    async def forget(self, user_id: str) -> Forgotten:
        """Erase history and shown items, and note where the stream ends now; then go through the stream step by step.

        After a failure, another call goes through the rest.
        """
        names = self._keys.of_user(user_id)
        keys = [names.history(user_id), names.erased, names.events, names.shown("user", user_id)]
        async with self._connection.background():
            entries, last = await self._forget(keys, [tombstone_of(user_id)])

        erased = await self._erase_events(names.events, user_id, last) if last else 0
        return Forgotten(sum(not entry.startswith(redis_values.NEWEST_MARK) for entry in entries), erased)

    async def backlog(self) -> EventBacklog:
        """Count the entries of all streams: training deletes those it has drained."""
        found = [await self._backlog_of(part.events) for part in self._keys.parts]
        oldest = [each.oldest for each in found if each.oldest is not None]
        return EventBacklog(sum(each.events for each in found), min(oldest, default=None))

    async def _backlog_of(self, stream: str) -> EventBacklog:
        """Count the entries of a stream, whose ids begin with milliseconds."""
        async with self._connection.background() as redis:
            pipeline = redis.pipeline(transaction=False)
            pipeline.xlen(stream)
            pipeline.xrange(stream, count=1)
            length, oldest = await pipeline.execute()
        return EventBacklog(int(length), int(oldest[0][0].partition(b"-")[0]) / 1000 if oldest else None)

    async def counts(self, half_life_s: int) -> dict[str, float]:
        """Read counts page by page, by rank, so that nobody waits; an item whose rank changes may be missed."""
        total: dict[str, float] = {}
        for part in self._keys.parts:
            for item_id, count in (await self._counts_of(part.counts(half_life_s), half_life_s)).items():
                total[item_id] = total.get(item_id, 0.0) + count
        return total

    async def _counts_of(self, key: str, half_life_s: int) -> dict[str, float]:
        scores: dict[bytes, float] = {}
        for start in range(0, self._counted_items, _COUNTS_PER_CALL):
            async with self._connection.background() as redis:
                page: Any = await redis.zrevrange(key, start, start + _COUNTS_PER_CALL - 1, withscores=True)
            scores.update(cast(list[tuple[bytes, float]], page))
            if len(page) < _COUNTS_PER_CALL:
                break

        decoded = ((item_id.decode(errors="replace"), score) for item_id, score in scores.items())
        return counts_at(time.time(), half_life_s, decoded)

    async def _erase_events(self, stream: str, user_id: str, last: bytes) -> int:
        erased = 0
        start = b"-"
        while True:
            args: list[Arg] = [user_id, start, last, _ERASED_PER_CALL]
            async with self._connection.background():
                found, last_seen = await self._erase([stream], args)
            erased += int(found)
            if not last_seen:
                return erased
            start = b"(" + last_seen


def _event_args(event: Event) -> list[Arg]:
    """Return the arguments of one event; those of what it does not change are empty."""
    is_shown_only = event.type == IMPRESSION
    counts_for_trends = not is_shown_only and event.type not in NEGATIVE_TYPES
    trend_item = event.item_id if counts_for_trends else ""
    entry: Arg = ""
    if not is_shown_only:
        entry = redis_values.encode_entry(letter_of(event.type), event.timestamp, event.item_id)
    return [event.event_id, trend_item, event.timestamp, redis_values.encode_event(event), entry]


def _encode_counts(counts: Counts, days: Sequence[str]) -> str:
    """Return for each day its place among ``days``, then each name and amount, with blanks between; or nothing."""
    groups = []
    for day, amounts in by_day([counts]).items():
        named = " ".join(f"{name} {amount!r}" for name, amount in amounts.items())
        groups.append(f"{days.index(day) + 1} {named}")
    return ";".join(groups)
