"""Lists of what was shown, in Redis. :mod:`model_store.replication.redis_keys` names the keys."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from model_store.errors import StoreCorrupt, StoreError
from model_store.replication import redis_keys, redis_values
from model_store.replication.redis_errors import is_wrong_type
from service.store.redis_connection import Connection
from service.store.shown_answers import SHOWN_ITEMS, SHOWN_S, ShownAnswer, Subject

_TIME_BYTES = 8


class RedisShown:
    """Lists of shown items, one for each user or session, an entry an item.

    Args:
        connection: Connection to Redis.
        keys: Names of the keys.

    Attributes:
        corrupt_values: Entries skipped since start because they do not decode.
    """

    def __init__(self, connection: Connection, keys: redis_keys.Keys) -> None:
        self.corrupt_values = 0
        self._connection = connection
        self._keys = keys

    async def read(self, subjects: Sequence[Subject]) -> list[list[ShownAnswer] | StoreError]:
        """Read lists in one pipeline, or one for each partition of a cluster; never a probe, as for histories."""
        by_part = self._keys.by_part(dict.fromkeys(subjects), lambda subject: subject.id)
        parts = await asyncio.gather(
            *(self._read_part(names, part) for names, part in by_part.items()), return_exceptions=True
        )

        found: dict[Subject, list[ShownAnswer] | StoreError] = {}
        for part, outcome in zip(by_part.values(), parts, strict=True):
            if isinstance(outcome, StoreError):
                found |= dict.fromkeys(part, outcome)
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                found |= outcome
        return [found[subject] for subject in subjects]

    async def add(self, answers: Sequence[ShownAnswer]) -> None:
        """Append to lists in one pipeline, or one for each partition; a failure may leave some of them appended."""
        for names, part in self._keys.by_part(answers, lambda answer: answer.subject.id).items():
            await self._add_part(names, part)

    async def _read_part(
        self, names: redis_keys.Keys, subjects: Sequence[Subject]
    ) -> dict[Subject, list[ShownAnswer] | StoreError]:
        async def call(redis: Redis) -> list[list[bytes] | Exception]:
            async with redis.pipeline(transaction=False) as pipeline:
                for subject in subjects:
                    pipeline.lrange(names.shown(*subject), 0, -1)
                answers: list[list[bytes] | Exception] = await pipeline.execute(raise_on_error=False)
            for answer in answers:
                if isinstance(answer, Exception) and not is_wrong_type(answer):
                    raise answer
            return answers

        answers = await self._connection.ask(call, probes=False, part=names.prefix)
        found: dict[Subject, list[ShownAnswer] | StoreError] = {}
        for subject, raw in zip(subjects, answers, strict=True):
            if isinstance(raw, Exception):
                found[subject] = StoreCorrupt(str(self._connection.translate(raw)), "another program uses the prefix")
            else:
                found[subject] = self._decode(subject, raw)
        return found

    def _decode(self, subject: Subject, raw: list[bytes]) -> list[ShownAnswer]:
        """Return the answers of a list, oldest first: entries of one time are one answer."""
        by_time: dict[bytes, list[str]] = {}
        for entry in raw:
            try:
                item_id = redis_values.decode_item_id(entry[_TIME_BYTES:])
            except StoreCorrupt:
                self.corrupt_values += 1
            else:
                by_time.setdefault(entry[:_TIME_BYTES], []).append(item_id)
        return [ShownAnswer(subject, int.from_bytes(at, "big"), by_time[at]) for at in sorted(by_time)]

    async def _add_part(self, names: redis_keys.Keys, answers: Sequence[ShownAnswer]) -> None:
        async def call(redis: Redis) -> Any:
            async with redis.pipeline(transaction=False) as pipeline:
                for answer in answers:
                    key = names.shown(*answer.subject)
                    at = answer.shown_at.to_bytes(_TIME_BYTES, "big")
                    pipeline.rpush(key, *(at + item_id.encode() for item_id in answer.item_ids))
                    pipeline.ltrim(key, -SHOWN_ITEMS, -1)
                    pipeline.expire(key, SHOWN_S)
                return await pipeline.execute()

        await self._connection.ask(call, writes=True, part=names.prefix)
