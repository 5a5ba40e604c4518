"""Publisher of catalogue snapshots: makes and saves them in the background, one at a time for each version."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from model_store.errors import StoreError
from service.settings import Settings
from service.store.change_stream import Snapshot
from service.store.client import StoreClient
from service.telemetry.telemetry import Telemetry

log = structlog.get_logger()

_RETRY_AFTER_S = 5.0  # a full store refuses the next snapshot, too, and each attempt packs a whole catalogue

MakeSnapshot = Callable[[], Awaitable[Snapshot | None]]
"""Function that makes a snapshot while the version's lock is held; ``None`` if none is needed any more."""


class SnapshotPublisher:
    """Publisher of the snapshots of one replica. Used from one event loop."""

    def __init__(self, store_client: StoreClient, settings: Settings, telemetry: Telemetry) -> None:
        self._store_client = store_client
        self._settings = settings
        self._telemetry = telemetry
        self._background: set[asyncio.Task[Snapshot | None]] = set()
        self._publishing: set[str] = set()
        self._retry_at = 0.0

    @property
    def is_busy(self) -> bool:
        """True while a snapshot of any version is being made or written."""
        return bool(self._publishing)

    def is_publishing(self, version: str) -> bool:
        """Tell whether a snapshot of this version is being made or written."""
        return version in self._publishing

    @property
    def is_resting(self) -> bool:
        """True for a few seconds after the store refused a snapshot."""
        return time.monotonic() < self._retry_at

    def publish(self, version: str, make: MakeSnapshot) -> asyncio.Task[Snapshot | None]:
        """Start making and saving a snapshot; the task returns what :meth:`ChangeStore.save_snapshot` does."""
        self._publishing.add(version)
        task = asyncio.ensure_future(self._publish(version, make))
        self._background.add(task)

        def finish(finished: asyncio.Task[Snapshot | None]) -> None:
            self._background.discard(finished)
            self._publishing.discard(version)
            if not finished.cancelled():
                finished.exception()  # logged where it happened; whoever awaits the task gets it, too

        task.add_done_callback(finish)
        return task

    async def close(self) -> None:
        """Finish the snapshots that are being written."""
        await asyncio.gather(*self._background, return_exceptions=True)

    def note(self, result: str, version: str, cause: Exception | None = None) -> None:
        """Count and log what became of a snapshot: loaded, saved, kept, refused or unavailable."""
        self._telemetry.snapshots.labels(result).inc()
        log.info("snapshot", result=result, version=version, cause=str(cause or ""))

    async def _publish(self, version: str, make: MakeSnapshot) -> Snapshot | None:
        """Make and save a snapshot, then trim the stream: ``compact_changes`` changes before the snapshot stay."""
        store = self._store_client.store.catalogue
        try:
            saved = await store.save_snapshot(version, make)
            if saved is not None:
                await store.trim(saved.at.revision - self._settings.compact_changes)
        except StoreError as failure:
            self._retry_at = time.monotonic() + _RETRY_AFTER_S
            self.note("unavailable", version, failure)
            raise
        except Exception:
            log.exception("snapshot_crashed", version=version)
            raise

        self.note("saved" if saved is not None else "kept", version)
        return saved
