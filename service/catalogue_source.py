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

from model_store.errors import CatalogueError, LiveCorrupt, LiveError, LiveUnavailable, StoreError
from service.link import LiveLink
from service.live.changes import LOST, REFILLED, ChangeStore, ItemChange, Snapshot, Tail
from service.live_catalogue import LiveCatalogue, VersionItems, raw_changes
from service.settings import Settings
from service.telemetry import Telemetry

log = structlog.get_logger()

STEP = 4096
"""Changes applied together: each step copies the catalogue once, and holds up the next one."""
_REBUILD_ATTEMPTS = 3
_PUBLISH_AGAIN_S = 5.0  # a store that is full refuses the next snapshot, too, and each one costs packing a catalogue
_BROKEN = Tail(latest=0, is_unbroken=False, changes=(), head=None)
Make = Callable[[], Awaitable[Snapshot | None]]


class CatalogueSource:
    """Begins and moves the catalogues of one replica. Used from one event loop."""

    def __init__(self, link: LiveLink, settings: Settings, telemetry: Telemetry) -> None:
        self._link = link
        self._settings = settings
        self._telemetry = telemetry
        self._background: set[asyncio.Task[Snapshot | None]] = set()
        self._publishing: set[str] = set()
        self._publish_again_at = 0.0

    async def open(self, items: VersionItems) -> LiveCatalogue:
        """The catalogue to begin with: never fails because the live store does.

        Waits at most ``catalogue_wait_s`` for a snapshot that another replica is making. Without one it is the
        bundle's, of no lineage, until :meth:`follow` finds better.
        """
        try:
            await (
                self._link.store.ping()
            )  # answered in milliseconds or away: loading must not wait as long as a transfer
            give_up_at = time.monotonic() + self._settings.catalogue_wait_s
            while (found := await self._joined(items) or await self._founded(items)) is None:
                if time.monotonic() > give_up_at:
                    raise LiveUnavailable(
                        "another replica is making a snapshot still", "it is adopted when it is there"
                    )
                await asyncio.sleep(self._settings.catalogue_poll_s)
            return found
        except LiveError as failure:
            self._note("unavailable", items.version, failure)
            self._link.note_behind(behind=True)
        return LiveCatalogue(items, await asyncio.to_thread(items.bundle.catalogue))

    async def follow(self, live: LiveCatalogue) -> LiveCatalogue:
        """One step towards the end of the stream; the same object if there is nothing to do.

        Raises:
            LiveError: The store cannot be used now; the catalogue stays as it is.
        """
        tail = await self._tail(live)
        is_lost = bool(live.lineage) and tail.latest < live.at.revision and tail is not _BROKEN
        if is_lost:
            return await self._restarted(live)
        is_of_lineage = tail.head is None or tail.head.lineage == live.lineage
        if not is_of_lineage or not tail.is_unbroken:
            return await self._adopted(live)
        moved = await self._moved(live, tail.changes)
        self._telemetry.catalogue_lag.set(tail.latest - moved.at.revision)
        self._link.note_behind(behind=False)
        is_due = tail.head is None or moved.at.revision - tail.head.at.revision >= self._settings.compact_changes
        if is_due and live.items.version not in self._publishing and time.monotonic() >= self._publish_again_at:
            self._publish(live.items.version, self._offer(moved))
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
        return self._link.store.catalogue

    async def _tail(self, live: LiveCatalogue) -> Tail:
        try:
            return await self._store.read(live.items.version, live.at, STEP)
        except LiveCorrupt as failure:
            log.error("changes_corrupt", cause=str(failure), hint=failure.hint)
            return _BROKEN

    async def _moved(self, live: LiveCatalogue, changes: Sequence[ItemChange]) -> LiveCatalogue:
        if not changes:
            return live
        with self._telemetry.catalogue_step.time():
            moved, refused = await asyncio.to_thread(live.moved, changes, changes[-1].at)
        self._telemetry.catalogue_changes.labels("applied").inc(len(changes) - refused)
        self._telemetry.catalogue_changes.labels("refused").inc(refused)
        return moved

    async def _loaded(self, items: VersionItems) -> LiveCatalogue | None:
        """The newest snapshot, if it can be used.

        Raises:
            LiveUnavailable: Also where the store of models cannot be read: what a snapshot leaves out is there.
        """
        if not await self._store.has_snapshot(items.version):
            return None  # asked first, for the vectors that are read beside it are a version's largest file
        try:
            vectors, snapshot = await asyncio.gather(
                asyncio.to_thread(items.bundle.vectors), self._store.load_snapshot(items.version)
            )
            if snapshot is None:
                return None
            return await asyncio.to_thread(LiveCatalogue.of_snapshot, items, snapshot, vectors)
        except (LiveCorrupt, CatalogueError) as failure:
            self._note("refused", items.version, failure)
            return None
        except StoreError as failure:
            raise LiveUnavailable("the version's vectors cannot be read", str(failure)) from failure

    async def _joined(self, items: VersionItems, least: int = 0) -> LiveCatalogue | None:
        """The newest snapshot, if the stream still goes on from it, to revision ``least`` at least."""
        found = await self._loaded(items)
        if found is None:
            return None
        tail = await self._tail(found)
        if not tail.is_unbroken or tail.latest < least:
            return None
        self._note("loaded", items.version)
        return found

    async def _adopted(self, live: LiveCatalogue) -> LiveCatalogue:
        least = live.at.revision  # never behind what was read: a store that lost that is given it back by the next step
        found = await self._joined(live.items, least) or await self._founded(live.items, least)
        if found is None:
            self._link.note_behind(behind=True)
        return found or live

    async def _founded(self, items: VersionItems, least: int = 0) -> LiveCatalogue | None:
        """Make the snapshot that everyone begins with; ``None`` if another replica is about to.

        Returns as soon as the catalogue is there. It is written in the background: serving need not wait for that.
        """
        if items.version in self._publishing:
            return None
        made: asyncio.Future[LiveCatalogue] = asyncio.get_running_loop().create_future()

        async def make() -> Snapshot | None:
            joined = await self._joined(items, least)  # someone may have been faster
            live = joined or await self._rebuilt(items, least)
            made.set_result(live)
            return None if joined else await asyncio.to_thread(lambda: live.snapshot)

        writing = self._publish(items.version, make)
        either: set[asyncio.Future[Any]] = {writing, made}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if made.done():
            return made.result()
        made.cancel()
        await writing  # raises what kept it from being made
        return None

    async def _rebuilt(self, items: VersionItems, least: int) -> LiveCatalogue:
        """Everything that ever changed, applied anew: to the newest snapshot though the stream left it behind, so
        that items keep their codes, else to the bundle's catalogue."""
        base = await self._loaded(items) or LiveCatalogue(items, await asyncio.to_thread(items.bundle.catalogue))
        for _ in range(_REBUILD_ATTEMPTS):
            latest = await self._store.latest()
            if latest.at.revision < least:
                raise LiveUnavailable(LOST, REFILLED)
            live, rest = replace(base, lineage=uuid.uuid4().hex), iter(latest.changes)
            while part := list(islice(rest, STEP)):
                live = await self._moved(live, part)
            live = replace(live, at=latest.at)
            while (tail := await self._tail(live)).is_unbroken:
                if not tail.changes:
                    return live
                live = await self._moved(live, tail.changes)
        raise LiveCorrupt("the change stream breaks while it is read", "look whether something else trims its keys")

    async def _restarted(self, live: LiveCatalogue) -> LiveCatalogue:
        """The store lost changes that this replica has: give them back."""
        given: list[LiveCatalogue] = []

        async def make() -> Snapshot | None:
            if (await self._tail(live)).latest >= live.at.revision:
                return None
            trained = await asyncio.to_thread(live.items.bundle.catalogue)
            changes = await asyncio.to_thread(lambda: list(raw_changes(live, trained)))
            at = await self._store.restart(live.at.revision, changes)
            if at is None:
                return None
            given.append(replace(live, at=at))
            return await asyncio.to_thread(lambda: given[0].snapshot)

        log.warning("live_store_lost_changes", version=live.items.version, revision=live.at.revision)
        self._link.note_behind(behind=True)
        saved = await self._store.save_snapshot(live.items.version, make)
        self._note("kept" if saved is None else "saved", live.items.version)
        return live if saved is None else given[0]

    def _offer(self, live: LiveCatalogue) -> Make:
        async def make() -> Snapshot | None:
            head = (await self._tail(live)).head
            if head is not None:
                is_other = head.lineage != live.lineage
                if is_other or live.at.revision - head.at.revision < self._settings.compact_changes:
                    return None
            offered = live if live.lineage else replace(live, lineage=uuid.uuid4().hex)
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
        except LiveError as failure:
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
