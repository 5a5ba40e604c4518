"""Follower of the change stream: opens the catalogue of a replica and keeps it at the end of the stream.

A catalogue starts as the newest snapshot of its version. If there is none, the replica that holds the version's lock
creates one from the bundle and everything that ever changed; the others wait for it. From then on each replica applies
the stream on its own. Catalogues are comparable only if they descend from one snapshot, so a replica whose lineage is
not that of the newest snapshot loads that snapshot. docs/ARCHITECTURE.md, "Catalogue replication", draws the states.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import structlog

from model_store.errors import CatalogueError, ModelStoreError, StoreCorrupt, StoreError, StoreUnavailable
from service.replication.catalogue_source import CatalogueSource
from service.replication.replicated_catalogue import ReplicatedCatalogue, SnapshotContent, recover_changes
from service.replication.snapshot_publisher import SnapshotPublisher
from service.settings import Settings
from service.store.change_stream import ChangeStore, Head, ItemChange, Snapshot, Tail, lost_changes
from service.store.client import StoreClient
from service.telemetry.telemetry import Telemetry

log = structlog.get_logger()

STEP = 4096
"""Number of changes applied together. Each step copies the catalogue once, and the next step waits for it."""
_REBUILD_ATTEMPTS = 3
# Compare with `is`: the tail of a store that lost everything can have equal values.
_BROKEN = Tail(latest_revision=0, is_unbroken=False, changes=(), head=None)


class CatalogueFollower:
    """Follower of the change stream for the catalogues of one replica. Used from one event loop."""

    def __init__(self, store_client: StoreClient, settings: Settings, telemetry: Telemetry) -> None:
        self._store_client = store_client
        self._settings = settings
        self._telemetry = telemetry
        self._publisher = SnapshotPublisher(store_client, settings, telemetry)

    async def open(self, source: CatalogueSource) -> ReplicatedCatalogue:
        """Return the catalogue to start with. Never fails because the store does.

        Waits at most ``catalogue_wait_s`` for a snapshot that another replica creates. If the store is away, or the
        wait is over, it is the bundle's catalogue, of no lineage, until :meth:`follow` finds a better one.
        """
        try:
            # answered in milliseconds or not at all: loading must not wait as long as a transfer may
            await self._store_client.store.ping()

            give_up_at = time.monotonic() + self._settings.catalogue_wait_s
            while True:
                found = await self._load_snapshot(source) or await self._create_snapshot(source)
                if found is not None:
                    return found
                if time.monotonic() > give_up_at:
                    raise StoreUnavailable(
                        "another replica is still creating a snapshot", "it is loaded once it exists"
                    )
                await asyncio.sleep(self._settings.catalogue_poll_s)
        except StoreError as failure:
            self._publisher.note("unavailable", source.version, failure)
            self._store_client.note_behind(behind=True)

        return ReplicatedCatalogue(source, await asyncio.to_thread(source.bundle.catalogue))

    async def follow(self, replica: ReplicatedCatalogue) -> ReplicatedCatalogue:
        """Take one step towards the end of the stream; return the same object if there is nothing to do.

        Raises:
            StoreError: The store cannot be used now; the catalogue stays as it is.
        """
        tail = await self._read_tail(replica)

        # a catalogue without a lineage descends from nothing that is shared: it resyncs and never refills the store
        has_lost_changes = tail is not _BROKEN and tail.latest_revision < replica.at.revision
        if has_lost_changes and replica.lineage:
            return await self._restart_stream(replica)

        is_of_lineage = tail.head is None or tail.head.lineage == replica.lineage
        if not is_of_lineage or not tail.is_unbroken:
            return await self._resync(replica)

        applied = await self._apply(replica, tail.changes)
        self._telemetry.catalogue_lag.set(tail.latest_revision - applied.at.revision)
        self._store_client.note_behind(behind=False)
        if self._is_snapshot_due(applied, tail.head):
            self._offer_snapshot(applied)
        return applied

    async def close(self) -> None:
        """Finish the snapshots that are being written."""
        await self._publisher.close()

    @property
    def is_publishing(self) -> bool:
        """True while a snapshot is being made or written."""
        return self._publisher.is_busy

    @property
    def _store(self) -> ChangeStore:
        return self._store_client.store.catalogue

    async def _read_tail(self, replica: ReplicatedCatalogue) -> Tail:
        """Read the changes after the replica's place. A stream with a damaged entry counts as broken."""
        try:
            return await self._store.read_tail(replica.source.version, replica.at, STEP)
        except StoreCorrupt as failure:
            log.error("changes_corrupt", cause=str(failure), hint=failure.hint)
            return _BROKEN

    async def _apply(self, replica: ReplicatedCatalogue, changes: Sequence[ItemChange]) -> ReplicatedCatalogue:
        if not changes:
            return replica

        with self._telemetry.catalogue_step.time():
            applied, refused = await asyncio.to_thread(replica.apply, changes, changes[-1].at)
        self._telemetry.catalogue_changes.labels("applied").inc(len(changes) - refused)
        self._telemetry.catalogue_changes.labels("refused").inc(refused)
        return applied

    async def _load_snapshot(self, source: CatalogueSource, least: int = 0) -> ReplicatedCatalogue | None:
        """Load the newest snapshot; ``None`` unless the stream continues from it, to revision ``least`` at least."""
        found = await self._read_snapshot(source)
        if found is None:
            return None

        tail = await self._read_tail(found)
        if not tail.is_unbroken or tail.latest_revision < least:
            return None
        self._publisher.note("loaded", source.version)
        return found

    async def _read_snapshot(self, source: CatalogueSource) -> ReplicatedCatalogue | None:
        """Read the newest snapshot, whether or not the stream continues from it; ``None`` if it is not usable.

        Raises:
            StoreUnavailable: Also if the model store cannot be read: it holds the vectors that a snapshot leaves out.
        """
        if not await self._store.has_snapshot(source.version):
            return None  # asked first, because the vectors that are read with it are a version's largest file

        try:
            # side by side, because each takes seconds for millions of items
            vectors, content = await asyncio.gather(
                asyncio.to_thread(source.bundle.vectors), self._read_content(source)
            )
            return None if content is None else await asyncio.to_thread(content.with_trained, vectors)
        except (StoreCorrupt, CatalogueError) as failure:
            self._publisher.note("refused", source.version, failure)
            return None
        except ModelStoreError as failure:
            raise StoreUnavailable("the version's vectors cannot be read", str(failure)) from failure

    async def _read_content(self, source: CatalogueSource) -> SnapshotContent | None:
        """Read and check what the newest snapshot holds, ``None`` if there is none."""
        snapshot = await self._store.load_snapshot(source.version)
        return None if snapshot is None else await asyncio.to_thread(SnapshotContent.of, source, snapshot)

    async def _create_snapshot(self, source: CatalogueSource, least: int = 0) -> ReplicatedCatalogue | None:
        """Create the snapshot that all replicas start with; ``None`` while one is being created, here or elsewhere.

        Returns as soon as the catalogue is there. It is written in the background: serving need not wait for that.
        """
        if self._publisher.is_publishing(source.version):
            return None
        created: asyncio.Future[ReplicatedCatalogue] = asyncio.get_running_loop().create_future()

        async def make() -> Snapshot | None:
            loaded = await self._load_snapshot(source, least)  # another replica may have been faster
            replica = loaded or await self._rebuild(source, least)
            created.set_result(replica)
            return None if loaded else await asyncio.to_thread(replica.to_snapshot)

        publishing = self._publisher.publish(source.version, make)
        either: set[asyncio.Future[Any]] = {publishing, created}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if created.done():
            return created.result()

        created.cancel()
        await publishing  # raises the error that kept the snapshot from being made
        return None

    async def _rebuild(self, source: CatalogueSource, least: int) -> ReplicatedCatalogue:
        """Apply everything that ever changed, under a new lineage.

        The base is the newest snapshot, even if the stream does not continue from it, so that items keep their codes;
        without one it is the bundle's catalogue.
        """
        base = await self._read_snapshot(source)
        if base is None:
            base = ReplicatedCatalogue(source, await asyncio.to_thread(source.bundle.catalogue))

        for _ in range(_REBUILD_ATTEMPTS):
            latest = await self._store.read_latest()
            if latest.at.revision < least:
                raise lost_changes()

            replica = replace(base, lineage=uuid.uuid4().hex)
            rest = iter(latest.changes)
            while part := list(islice(rest, STEP)):
                replica = await self._apply(replica, part)
            replica = replace(replica, at=latest.at)

            # changes that came meanwhile; if the stream was trimmed so far that they are gone, start over
            while (tail := await self._read_tail(replica)).is_unbroken:
                if not tail.changes:
                    return replica
                replica = await self._apply(replica, tail.changes)

        raise StoreCorrupt("the change stream breaks while it is read", "check whether another program trims its keys")

    async def _resync(self, replica: ReplicatedCatalogue) -> ReplicatedCatalogue:
        """Replace a catalogue of another lineage, or one from which the stream does not continue.

        The new catalogue never lies behind what was read. If the store lost that, the next step restores it.
        """
        least = replica.at.revision
        found = await self._load_snapshot(replica.source, least) or await self._create_snapshot(replica.source, least)
        if found is None:
            self._store_client.note_behind(behind=True)
            return replica
        return found

    async def _restart_stream(self, replica: ReplicatedCatalogue) -> ReplicatedCatalogue:
        """Give the store the changes back that it lost and this replica has, and start the stream anew."""
        restarted: list[ReplicatedCatalogue] = []

        async def make() -> Snapshot | None:
            if (await self._read_tail(replica)).latest_revision >= replica.at.revision:
                return None  # another replica was faster

            trained = await asyncio.to_thread(replica.source.bundle.catalogue)
            changes = await asyncio.to_thread(lambda: list(recover_changes(replica, trained)))
            at = await self._store.restart(replica.at.revision, changes)
            if at is None:
                return None

            restarted.append(replace(replica, at=at))
            return await asyncio.to_thread(restarted[0].to_snapshot)

        log.warning("store_lost_changes", version=replica.source.version, revision=replica.at.revision)
        self._store_client.note_behind(behind=True)
        saved = await self._store.save_snapshot(replica.source.version, make)
        self._publisher.note("kept" if saved is None else "saved", replica.source.version)
        return replica if saved is None else restarted[0]

    def _is_snapshot_due(self, replica: ReplicatedCatalogue, head: Head | None) -> bool:
        """Tell whether the newest snapshot lies so far behind that this replica should offer one."""
        is_behind = head is None or replica.at.revision - head.at.revision >= self._settings.compact_changes
        is_free = not self._publisher.is_publishing(replica.source.version) and not self._publisher.is_resting
        return is_behind and is_free

    def _offer_snapshot(self, replica: ReplicatedCatalogue) -> None:
        """Publish this catalogue as the newest snapshot in the background, unless another replica was faster."""

        async def make() -> Snapshot | None:
            head = (await self._read_tail(replica)).head
            if head is not None:
                is_other = head.lineage != replica.lineage
                if is_other or replica.at.revision - head.at.revision < self._settings.compact_changes:
                    return None

            offered = replica if replica.lineage else replace(replica, lineage=uuid.uuid4().hex)
            return await asyncio.to_thread(offered.to_snapshot)

        self._publisher.publish(replica.source.version, make)
