"""Histories in Redis: reading them, and importing interactions from elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from redis.asyncio import Redis

from model_store.errors import StoreCorrupt, StoreError
from model_store.events.history_entry import UserInteractions
from model_store.events.tombstones import tombstone_of
from model_store.replication import redis_keys, redis_values
from model_store.replication.redis_errors import is_wrong_type
from model_store.replication.redis_values import ENTRY_HEAD, ENTRY_MARK, HistoryEntry
from service.store import redis_scripts
from service.store.base import NOT_IMPORTED, History, Imported, ImportProgress
from service.store.redis_client import Arg, Script
from service.store.redis_connection import Connection
from service.store.redis_lock import RedisLocks

_IMPORTED_PER_CALL = 1000  # interactions that one script run merges: one or two milliseconds
_COMPLETE = b" complete"


class RedisHistories:
    """Histories, and the progress of importing those of a model version.

    Args:
        connection: Connection to Redis.
        keys: Names of the keys.
        history_cap: Interactions kept per user.
        user_ttl_s: Seconds without an event after which a user expires, 0 for never.
        lock_ttl_s: Seconds after which a crashed importer no longer blocks others.

    Attributes:
        corrupt_values: Entries skipped since start because they do not decode.
    """

    def __init__(
        self, connection: Connection, keys: redis_keys.Keys, history_cap: int, user_ttl_s: int, lock_ttl_s: float
    ) -> None:
        self.corrupt_values = 0
        self._connection = connection
        self._keys = keys
        self._history_cap = history_cap
        self._user_ttl_s = user_ttl_s
        self._locks = RedisLocks(connection, lock_ttl_s)
        self._import = Script(connection.write, redis_scripts.IMPORT)

    async def histories(self, user_ids: Sequence[str]) -> list[History | StoreError]:
        """Read histories in one pipeline, or one for each partition of a cluster.

        This is never a probe: while Redis is down, a request gets an answer without a history instead of waiting.
        """
        return [
            each if isinstance(each, StoreError) else self._decode(each) for each in await self._read_lists(user_ids)
        ]

    async def entries(self, user_id: str) -> list[HistoryEntry]:
        """Read one history in full."""
        [found] = await self._read_lists([user_id])
        if isinstance(found, StoreError):
            raise found
        return self._decode_entries(found)

    async def import_histories(self, histories: Sequence[UserInteractions]) -> Imported:
        """Run one script for about a thousand interactions: each is atomic, a batch across scripts is not."""
        users = 0
        interactions = 0
        for part, keys, args in await asyncio.to_thread(self._import_calls, histories):

            async def call(client: Redis, keys: list[str] = keys, args: list[Arg] = args) -> Any:
                return await self._import(keys, args, client)

            changed, came = await self._connection.ask(call, writes=True, part=part)
            users += int(changed)
            interactions += int(came)
        return Imported(users, interactions)

    async def import_progress(self, version: str) -> ImportProgress:
        """Read the number of users that are done. One that does not decode counts as none: importing is repeatable."""
        async with self._connection.background() as redis:
            stored: Any = await redis.hget(self._keys.imports, version)
        users = (stored or b"").removesuffix(_COMPLETE)
        if not users.isdigit():
            return NOT_IMPORTED
        return ImportProgress(int(users), is_complete=stored.endswith(_COMPLETE))

    async def save_import_progress(self, version: str, progress: ImportProgress) -> None:
        """Write the number of users that are done."""
        value = b"%d%b" % (progress.users, _COMPLETE if progress.is_complete else b"")
        async with self._connection.background() as redis:
            await redis.hset(self._keys.imports, version, value)

    @asynccontextmanager
    async def importing(self) -> AsyncIterator[bool]:
        """Hold the lock. If it is lost, two replicas import the same, which does no harm."""
        async with self._locks.hold(self._keys.import_lock) as token:
            yield token is not None

    async def _read_lists(self, user_ids: Sequence[str]) -> list[list[bytes] | StoreError]:
        """Read the lists of these users, with an error in the place of a key of another type.

        A partition of a cluster that does not answer gives its error to its users, unless none answers.
        """
        by_part = self._keys.by_part(dict.fromkeys(user_ids), str)
        reads = (self._read_part(names, users) for names, users in by_part.items())
        parts = await asyncio.gather(*reads, return_exceptions=True)

        failures = [part for part in parts if isinstance(part, BaseException)]
        unexpected = [failure for failure in failures if not isinstance(failure, StoreError)]
        if unexpected or (failures and len(failures) == len(parts)):
            raise (unexpected or failures)[0]

        found: dict[str, list[bytes] | StoreError] = {}
        for users, part in zip(by_part.values(), parts, strict=True):
            found |= dict.fromkeys(users, part) if isinstance(part, StoreError) else cast(dict[str, Any], part)
        return [found[user_id] for user_id in user_ids]

    async def _read_part(self, names: redis_keys.Keys, user_ids: Sequence[str]) -> dict[str, list[bytes] | StoreError]:
        """Read the lists of users of one partition in one pipeline."""

        async def call(redis: Redis) -> list[list[bytes] | Exception]:
            async with redis.pipeline(transaction=False) as pipeline:
                for user_id in user_ids:
                    pipeline.lrange(names.history(user_id), 0, -1)
                answers: list[list[bytes] | Exception] = await pipeline.execute(raise_on_error=False)
            for answer in answers:
                if isinstance(answer, Exception) and not is_wrong_type(answer):
                    raise answer
            return answers

        answers = await self._connection.ask(call, probes=False, part=names.prefix)
        lists = [self._corrupt(each) if isinstance(each, Exception) else each for each in answers]
        return dict(zip(user_ids, lists, strict=True))

    def _corrupt(self, cause: Exception) -> StoreCorrupt:
        return StoreCorrupt(str(self._connection.translate(cause)), "another program uses the same prefix")

    def _decode(self, raw: list[bytes]) -> History:
        """Decode a history for a request. Nearly all are whole and of this release, so they take the short way."""
        newest = raw[-self._history_cap :]
        if all(len(entry) > ENTRY_HEAD and entry[0] == ENTRY_MARK for entry in newest):
            try:
                item_ids = [entry[ENTRY_HEAD:].decode() for entry in newest]
            except UnicodeDecodeError:
                pass  # the long way skips the entry and counts it
            else:
                return History(item_ids, bytes([entry[1] for entry in newest]))

        entries = self._decode_entries(raw)
        return History([entry.item_id for entry in entries], bytes([entry.letter for entry in entries]))

    def _decode_entries(self, raw: list[bytes]) -> list[HistoryEntry]:
        """Decode a history of any release, by time. Entries that do not decode are skipped and counted."""
        newest = 0
        if raw and raw[-1].startswith(redis_values.NEWEST_MARK):
            newest = self._decode_newest(raw[-1])
            raw = raw[:-1]

        entries = []
        for entry in raw:
            try:
                entries.append(redis_values.decode_entry(entry, newest))
            except StoreCorrupt:
                self.corrupt_values += 1
        entries.sort(key=lambda entry: entry.timestamp)
        return entries[-self._history_cap :]

    def _decode_newest(self, raw: bytes) -> int:
        try:
            return redis_values.decode_newest(raw)
        except StoreCorrupt:
            self.corrupt_values += 1
            return 0

    def _import_calls(self, histories: Sequence[UserInteractions]) -> list[tuple[str, list[str], list[Arg]]]:
        """Return partition, keys and arguments of each script that imports some of these histories."""
        calls: list[tuple[str, list[str], list[Arg]]] = []
        for names, part in self._keys.by_part(histories, lambda history: history.user_id).items():
            size = _IMPORTED_PER_CALL
            for history in part:
                if size >= _IMPORTED_PER_CALL:
                    calls.append((names.prefix, [names.erased], [self._history_cap, self._user_ttl_s]))
                    size = 0
                _, keys, args = calls[-1]
                keys.append(names.history(history.user_id))
                args += [tombstone_of(history.user_id), _pack(history)]
                size += len(history.item_ids)
        return calls


def _pack(history: UserInteractions) -> bytes:
    """Return the entries of a history one behind the other, each behind a byte with its length."""
    columns = zip(history.letters, history.timestamps, history.item_ids, strict=True)
    entries = [redis_values.encode_entry(letter, timestamp, item_id) for letter, timestamp, item_id in columns]
    return b"".join(bytes([len(entry)]) + entry for entry in entries)
