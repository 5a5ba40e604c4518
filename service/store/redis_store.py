"""Store in Redis, shared by all replicas. :mod:`model_store.replication.redis_keys` names the keys."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from model_store.errors import StoreError
from model_store.events.counts import Counts
from model_store.events.event import Event
from model_store.events.event_queue import EventBacklog
from model_store.events.history_entry import UserInteractions
from model_store.replication import redis_keys
from model_store.replication.redis_address import NO_TLS_FILES, TlsFiles
from model_store.replication.redis_values import HistoryEntry
from service.async_tasks import cancel_and_wait, gather_all
from service.store.base import HISTORY_CAP, Forgotten, History, Imported, ImportProgress, Recorded, Store
from service.store.redis_changes import RedisChanges
from service.store.redis_connection import Connection
from service.store.redis_counters import RedisCounters
from service.store.redis_documents import RedisDocuments
from service.store.redis_events import RedisEvents
from service.store.redis_histories import RedisHistories
from service.store.redis_memory import MemoryGuard
from service.store.redis_shown import RedisShown
from service.store.redis_snapshots import RedisSnapshots
from service.store.redis_subjects import RedisSubjects
from service.store.redis_upkeep import RedisUpkeep
from service.store.shown_answers import ShownAnswer, Subject

_PROBE_MS = 60_000


class RedisStore(Store):
    """Store in Redis; see :class:`Store`.

    Args:
        url: Where Redis is, see :mod:`model_store.replication.redis_address`.
        prefix: Prefix of every key.
        tls: Files of a TLS connection.
        history_cap: Interactions kept per user.
        half_lives_s: Half-lives of the decayed counts of events, in seconds, each once.
        user_ttl_s: Seconds without an event after which a user expires, 0 for never.
        max_undrained_events: Number of waiting events above which the oldest are dropped, about a hundred at a time; 0
            for none.
        timeout_ms: Longest wait for a socket, for reads of the request path.
        background_timeout_s: Longest wait for a socket, for snapshots and the change stream.
        max_connections: Connections for reads of the request path, and as many for its writes; further calls wait for
            one. Few: opening many at once takes longer than ``timeout_ms``.
        write_timeout_s: Longest wait for a write that a request waits for: recording 256 events, appending one change.
        breaker_failures: Failures in a row after which calls fail at once.
        breaker_pause_s: Seconds between probes while they do.
        lock_ttl_s: Seconds after which a crashed snapshot writer or importer no longer blocks others.
        grace_s: How long the chunks of a replaced snapshot stay for those who are reading them.

    Raises:
        ConfigError: The client does not accept the URL or the files.
    """

    system = "redis"

    def __init__(
        self,
        url: str,
        *,
        prefix: str = redis_keys.DEFAULT_PREFIX,
        tls: TlsFiles = NO_TLS_FILES,
        history_cap: int = HISTORY_CAP,
        half_lives_s: Sequence[int] = (),
        user_ttl_s: int = 0,
        max_undrained_events: int = 0,
        timeout_ms: float = 50,
        background_timeout_s: float = 10,
        max_connections: int = 16,
        write_timeout_s: float = 1.0,
        breaker_failures: int = 3,
        breaker_pause_s: float = 1.0,
        lock_ttl_s: float = 60,
        grace_s: float = 60,
    ) -> None:
        self._keys = redis_keys.keys_at(url, prefix)
        self._connection = Connection(
            url,
            tls=tls,
            timeout_ms=timeout_ms,
            write_timeout_s=write_timeout_s,
            background_timeout_s=background_timeout_s,
            max_connections=max_connections,
            breaker_failures=breaker_failures,
            breaker_pause_s=breaker_pause_s,
        )

        snapshots = RedisSnapshots(self._connection, self._keys, lock_ttl_s, grace_s)
        self._changes = RedisChanges(self._connection, self._keys, snapshots)
        self._events = RedisEvents(
            self._connection, self._keys, history_cap, half_lives_s, user_ttl_s, max_undrained_events
        )
        self._histories = RedisHistories(self._connection, self._keys, history_cap, user_ttl_s, lock_ttl_s)
        self._counters = RedisCounters(self._connection, self._keys)
        self._shown = RedisShown(self._connection, self._keys)
        self._placements = RedisDocuments(self._connection, self._keys.placements)
        self._experiments = RedisDocuments(self._connection, self._keys.experiments)
        self._canaries = RedisDocuments(self._connection, self._keys.canaries)
        self._subjects = RedisSubjects(self._connection, self._keys)
        self._upkeep = RedisUpkeep(self._connection, self._keys, half_lives_s, user_ttl_s, max_undrained_events)
        self._applying: asyncio.Task[bool] | None = None
        self._memory = MemoryGuard(self._connection, users_expire=user_ttl_s > 0)

    @property
    def corrupt_values(self) -> int:
        """Entries of histories, and of lists of what was shown, that were skipped."""
        return self._histories.corrupt_values + self._shown.corrupt_values

    @property
    def dropped_events(self) -> int:
        """Events that this process dropped, a block of the stream at a time."""
        return self._events.dropped_events + self._upkeep.dropped_events

    @property
    def catalogue(self) -> RedisChanges:
        """Catalogue changes and snapshots."""
        return self._changes

    @property
    def counters(self) -> RedisCounters:
        """Counters of what answers led to."""
        return self._counters

    @property
    def placements(self) -> RedisDocuments:
        """Placements."""
        return self._placements

    @property
    def experiments(self) -> RedisDocuments:
        """Experiments."""
        return self._experiments

    @property
    def canaries(self) -> RedisDocuments:
        """Canaries that were rolled back."""
        return self._canaries

    @property
    def subjects(self) -> RedisSubjects:
        """Users and sessions in experiments."""
        return self._subjects

    @property
    def is_down(self) -> bool:
        """True while calls of the request path fail at once."""
        return self._connection.is_down

    async def ping(self) -> None:
        """Return if Redis answers."""
        await self._connection.ask(lambda redis: redis.ping())

    async def check(self) -> None:
        """Write one byte and look at the memory, after trimming what may be trimmed.

        Redis answers ``PING`` even if it is full, paused for writes or a read-only replica. The first check also
        applies changed settings to what is stored, in the background: they may be what a full Redis waits for.
        """
        await self._upkeep.trim()
        if self._applying is None or (self._applying.done() and not self._applying.result()):
            self._applying = asyncio.create_task(self._upkeep.try_apply_settings())

        with self._memory.watching():
            await gather_all(self._write_probe(part) for part in self._keys.parts)
        await self._memory.check()

    async def _write_probe(self, part: redis_keys.Keys) -> None:
        """Write one byte in a partition: in each, so that no primary of a cluster is left out."""
        await self._connection.ask(lambda redis: redis.set(part.probe, b"1", px=_PROBE_MS), part=part.prefix)

    async def history(self, user_id: str) -> History:
        """Read a history. Entries that do not decode are skipped and counted: the rest is still useful."""
        [found] = await self.histories([user_id])
        if isinstance(found, StoreError):
            raise found
        return found

    async def histories(self, user_ids: Sequence[str]) -> list[History | StoreError]:
        """Read histories in one round trip."""
        return await self._histories.histories(user_ids)

    async def entries(self, user_id: str) -> list[HistoryEntry]:
        """Read a history in full."""
        return await self._histories.entries(user_id)

    async def import_histories(self, histories: Sequence[UserInteractions]) -> Imported:
        """Import interactions, unless memory is short: it belongs to events and the catalogue."""
        self._memory.ensure_room_for_imports()
        with self._memory.watching():
            return await self._histories.import_histories(histories)

    async def import_progress(self, version: str) -> ImportProgress:
        """Read how far the histories of a version are imported."""
        return await self._histories.import_progress(version)

    async def save_import_progress(self, version: str, progress: ImportProgress) -> None:
        """Write how far the histories of a version are imported."""
        await self._histories.save_import_progress(version, progress)

    def importing(self) -> AbstractAsyncContextManager[bool]:
        """Hold the lock of the replica that imports."""
        return self._histories.importing()

    async def record(self, events: Sequence[Event], traceparent: str = "", counts: Sequence[Counts] = ()) -> Recorded:
        """Run one script per 256 events: each script is atomic, a batch across scripts is not.

        Events are refused at once while Redis is full, so that catalogue changes find the room that is left.
        """
        self._memory.ensure_room()
        with self._memory.watching():
            accepted = await self._events.record(events, counts, traceparent)
        return Recorded(accepted, len(events) - accepted)

    async def forget(self, user_id: str) -> Forgotten:
        """Erase the history at once, and the event stream step by step."""
        return await self._events.forget(user_id)

    async def shown(self, subjects: Sequence[Subject]) -> list[list[ShownAnswer] | StoreError]:
        """Read lists in one round trip."""
        return await self._shown.read(subjects)

    async def note_shown(self, answers: Sequence[ShownAnswer]) -> None:
        """Append to lists, unless memory is short: it belongs to events and the catalogue."""
        self._memory.ensure_room_for_imports()
        with self._memory.watching():
            await self._shown.add(answers)

    async def backlog(self) -> EventBacklog:
        """Count the entries of the event stream: training deletes those it has drained."""
        return await self._events.backlog()

    async def counts(self, half_life_s: int) -> dict[str, float]:
        """Read a sorted set page by page."""
        return await self._events.counts(half_life_s)

    async def close(self) -> None:
        """Close the connections."""
        if self._applying is not None:
            await cancel_and_wait(self._applying)
        await self._connection.close()
