"""Between the change store that all share and the catalogue of one replica: how it begins and how it keeps up.

A catalogue begins as the newest snapshot of its version. Where there is none, whoever holds the version's lock makes
one from the bundle and everything that ever changed; the others wait for it. From then on each replica applies the
stream by itself. Only what descends from one snapshot may be compared, so a replica whose lineage is not that of the
newest snapshot loads it.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import structlog

from model_store.errors import CatalogueError, ModelStoreError, StoreCorrupt, StoreError, StoreUnavailable
from service.replication.replicated_catalogue import ReplicatedCatalogue, VersionItems, raw_changes
from service.settings import Settings
from service.store.change_stream import LOST, REFILLED, ChangeStore, ItemChange, Snapshot, Tail
from service.store.client import StoreClient
from service.telemetry import Telemetry

log = structlog.get_logger()

STEP = 4096
"""Changes applied together: each step copies the catalogue once, and holds up the next one."""
_REBUILD_ATTEMPTS = 3
_PUBLISH_AGAIN_S = 5.0  # a store that is full refuses the next snapshot, too, and each one costs packing a catalogue
_BROKEN = Tail(latest=0, is_unbroken=False, changes=(), head=None)
Make = Callable[[], Awaitable[Snapshot | None]]


class CatalogueFollower:
    """Begins and moves the catalogues of one replica. Used from one event loop."""

    def __init__(self, store_client: StoreClient, settings: Settings, telemetry: Telemetry) -> None:
        self._store_client = store_client
        self._settings = settings
        self._telemetry = telemetry
        self._background: set[asyncio.Task[Snapshot | None]] = set()
        self._publishing: set[str] = set()
        self._publish_again_at = 0.0

    async def open(self, items: VersionItems) -> ReplicatedCatalogue:
        """The catalogue to begin with: never fails because the live store does.

        Waits at most ``catalogue_wait_s`` for a snapshot that another replica is making. Without one it is the
        bundle's, of no lineage, until :meth:`follow` finds better.
        """
        try:
            await (
                self._store_client.store.ping()
            )  # answered in milliseconds or away: loading must not wait as long as a transfer
            give_up_at = time.monotonic() + self._settings.catalogue_wait_s
            while (found := await self._joined(items) or await self._founded(items)) is None:
                if time.monotonic() > give_up_at:
                    raise StoreUnavailable(
                        "another replica is making a snapshot still", "it is adopted when it is there"
                    )
                await asyncio.sleep(self._settings.catalogue_poll_s)
            return found
        except StoreError as failure:
            self._note("unavailable", items.version, failure)
            self._store_client.note_behind(behind=True)
        return ReplicatedCatalogue(items, await asyncio.to_thread(items.bundle.catalogue))

    async def follow(self, replica: ReplicatedCatalogue) -> ReplicatedCatalogue:
        """One step towards the end of the stream; the same object if there is nothing to do.

        Raises:
            StoreError: The store cannot be used now; the catalogue stays as it is.
        """
        tail = await self._tail(replica)
        is_lost = bool(replica.lineage) and tail.latest_revision < replica.at.revision and tail is not _BROKEN
        if is_lost:
            return await self._restarted(replica)
        is_of_lineage = tail.head is None or tail.head.lineage == replica.lineage
        if not is_of_lineage or not tail.is_unbroken:
            return await self._adopted(replica)
        moved = await self._moved(replica, tail.changes)
        self._telemetry.catalogue_lag.set(tail.latest_revision - moved.at.revision)
        self._store_client.note_behind(behind=False)
        is_due = tail.head is None or moved.at.revision - tail.head.at.revision >= self._settings.compact_changes
        if is_due and replica.items.version not in self._publishing and time.monotonic() >= self._publish_again_at:
            self._publish(replica.items.version, self._offer(moved))
        return moved

    async def close(self) -> None:
        """Finish what is being written."""
        await asyncio.gather(*self._background, return_exceptions=True)

    @property
    def is_publishing(self) -> bool:
        """Whether a snapshot is being made or written."""
        return bool(self._publishing)

    @property
    def _store(self) -> ChangeStore:
        return self._store_client.store.catalogue

    async def _tail(self, replica: ReplicatedCatalogue) -> Tail:
        try:
            return await self._store.read(replica.items.version, replica.at, STEP)
        except StoreCorrupt as failure:
            log.error("changes_corrupt", cause=str(failure), hint=failure.hint)
            return _BROKEN

    async def _moved(self, replica: ReplicatedCatalogue, changes: Sequence[ItemChange]) -> ReplicatedCatalogue:
        if not changes:
            return replica
        with self._telemetry.catalogue_step.time():
            moved, refused = await asyncio.to_thread(replica.moved, changes, changes[-1].at)
        self._telemetry.catalogue_changes.labels("applied").inc(len(changes) - refused)
        self._telemetry.catalogue_changes.labels("refused").inc(refused)
        return moved

    async def _loaded(self, items: VersionItems) -> ReplicatedCatalogue | None:
        """The newest snapshot, if it can be used.

        Raises:
            StoreUnavailable: Also where the store of models cannot be read: what a snapshot leaves out is there.
        """
        if not await self._store.has_snapshot(items.version):
            return None  # asked first, for the vectors that are read beside it are a version's largest file
        try:
            vectors, snapshot = await asyncio.gather(
                asyncio.to_thread(items.bundle.vectors), self._store.load_snapshot(items.version)
            )
            if snapshot is None:
                return None
            return await asyncio.to_thread(ReplicatedCatalogue.of_snapshot, items, snapshot, vectors)
        except (StoreCorrupt, CatalogueError) as failure:
            self._note("refused", items.version, failure)
            return None
        except ModelStoreError as failure:
            raise StoreUnavailable("the version's vectors cannot be read", str(failure)) from failure

    async def _joined(self, items: VersionItems, least: int = 0) -> ReplicatedCatalogue | None:
        """The newest snapshot, if the stream still goes on from it, to revision ``least`` at least."""
        found = await self._loaded(items)
        if found is None:
            return None
        tail = await self._tail(found)
        if not tail.is_unbroken or tail.latest_revision < least:
            return None
        self._note("loaded", items.version)
        return found

    async def _adopted(self, replica: ReplicatedCatalogue) -> ReplicatedCatalogue:
        least = (
            replica.at.revision
        )  # never behind what was read: a store that lost that is given it back by the next step
        found = await self._joined(replica.items, least) or await self._founded(replica.items, least)
        if found is None:
            self._store_client.note_behind(behind=True)
        return found or replica

    async def _founded(self, items: VersionItems, least: int = 0) -> ReplicatedCatalogue | None:
        """Make the snapshot that everyone begins with; ``None`` if another replica is about to.

        Returns as soon as the catalogue is there. It is written in the background: serving need not wait for that.
        """
        if items.version in self._publishing:
            return None
        made: asyncio.Future[ReplicatedCatalogue] = asyncio.get_running_loop().create_future()

        async def make() -> Snapshot | None:
            joined = await self._joined(items, least)  # someone may have been faster
            replica = joined or await self._rebuilt(items, least)
            made.set_result(replica)
            return None if joined else await asyncio.to_thread(lambda: replica.snapshot)

        writing = self._publish(items.version, make)
        either: set[asyncio.Future[Any]] = {writing, made}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if made.done():
            return made.result()
        made.cancel()
        await writing  # raises what kept it from being made
        return None

    async def _rebuilt(self, items: VersionItems, least: int) -> ReplicatedCatalogue:
        """Everything that ever changed, applied anew: to the newest snapshot though the stream left it behind, so
        that items keep their codes, else to the bundle's catalogue."""
        base = await self._loaded(items) or ReplicatedCatalogue(items, await asyncio.to_thread(items.bundle.catalogue))
        for _ in range(_REBUILD_ATTEMPTS):
            latest = await self._store.read_latest()
            if latest.at.revision < least:
                raise StoreUnavailable(LOST, REFILLED)
            replica, rest = replace(base, lineage=uuid.uuid4().hex), iter(latest.changes)
            while part := list(islice(rest, STEP)):
                replica = await self._moved(replica, part)
            replica = replace(replica, at=latest.at)
            while (tail := await self._tail(replica)).is_unbroken:
                if not tail.changes:
                    return replica
                replica = await self._moved(replica, tail.changes)
        raise StoreCorrupt("the change stream breaks while it is read", "look whether something else trims its keys")

    async def _restarted(self, replica: ReplicatedCatalogue) -> ReplicatedCatalogue:
        """The store lost changes that this replica has: give them back."""
        given: list[ReplicatedCatalogue] = []

        async def make() -> Snapshot | None:
            if (await self._tail(replica)).latest >= replica.at.revision:
                return None
            trained = await asyncio.to_thread(replica.items.bundle.catalogue)
            changes = await asyncio.to_thread(lambda: list(raw_changes(replica, trained)))
            at = await self._store.restart(replica.at.revision, changes)
            if at is None:
                return None
            given.append(replace(replica, at=at))
            return await asyncio.to_thread(lambda: given[0].snapshot)

        log.warning("live_store_lost_changes", version=replica.items.version, revision=replica.at.revision)
        self._store_client.note_behind(behind=True)
        saved = await self._store.save_snapshot(replica.items.version, make)
        self._note("kept" if saved is None else "saved", replica.items.version)
        return replica if saved is None else given[0]

    def _offer(self, replica: ReplicatedCatalogue) -> Make:
        async def make() -> Snapshot | None:
            head = (await self._tail(replica)).head
            if head is not None:
                is_other = head.lineage != replica.lineage
                if is_other or replica.at.revision - head.at.revision < self._settings.compact_changes:
                    return None
            offered = replica if replica.lineage else replace(replica, lineage=uuid.uuid4().hex)
            return await asyncio.to_thread(lambda: offered.snapshot)

        return make

    def _publish(self, version: str, make: Make) -> asyncio.Task[Snapshot | None]:
        self._publishing.add(version)
        task = asyncio.ensure_future(self._published(version, make))
        self._background.add(task)

        def done(finished: asyncio.Task[Snapshot | None]) -> None:
            self._background.discard(finished)
            self._publishing.discard(version)
            if not finished.cancelled():
                finished.exception()  # logged where it happened; whoever waits for the task gets it, too

        task.add_done_callback(done)
        return task

    async def _published(self, version: str, make: Make) -> Snapshot | None:
        try:
            saved = await self._store.save_snapshot(version, make)
            if saved is not None:
                await self._store.trim(saved.at.revision - self._settings.compact_changes)
        except StoreError as failure:
            self._publish_again_at = time.monotonic() + _PUBLISH_AGAIN_S
            self._note("unavailable", version, failure)
            raise
        except Exception:
            log.exception("snapshot_crashed", version=version)
            raise
        self._note("saved" if saved is not None else "kept", version)
        return saved

    def _note(self, result: str, version: str, cause: Exception | None = None) -> None:
        self._telemetry.snapshots.labels(result).inc()
        log.info("snapshot", result=result, version=version, cause=str(cause or ""))
