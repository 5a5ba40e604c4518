"""The store as a batch run reads it when it begins: the catalogue with its changes, and counts of events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from model_store.bundle.bundle import Bundle
from model_store.errors import LockHeld
from service.answers.trending import half_lives_s_of
from service.app import open_store_of
from service.models.loading import open_coder
from service.replication.catalogue_source import CatalogueSource
from service.replication.follower import CatalogueFollower
from service.replication.replicated_catalogue import ReplicatedCatalogue
from service.settings import Settings
from service.store.base import Store
from service.store.client import StoreClient
from service.telemetry.telemetry import Telemetry

TIMEOUT_MS = 5000.0
"""Longest wait for a Redis socket: no person waits for a batch run, and one late answer should not end it."""


@asynccontextmanager
async def opened_store(settings: Settings) -> AsyncIterator[Store]:
    """Open the service's store, and close it afterwards.

    Raises:
        LockHeld: The service has the embedded store open.
    """
    try:
        store = open_store_of(settings, TIMEOUT_MS)
    except LockHeld as cause:
        raise LockHeld(
            f"the service runs and has the embedded store open: {cause}",
            "stop it meanwhile, let it use Redis (ETEGREC_REDIS_URL), or take histories from elsewhere (--histories)",
        ) from cause

    try:
        yield store
    finally:
        await store.close()


async def read_catalogue(store: Store, bundle: Bundle, settings: Settings) -> ReplicatedCatalogue:
    """Return a version's catalogue with all changes that the store has, as a replica of the service would have it.

    Raises:
        StoreError: The store is away, or answers too late.
    """
    telemetry = Telemetry()
    follower = CatalogueFollower(StoreClient(store, telemetry, settings.live_check_s), settings, telemetry)
    try:
        replica = await follower.open(CatalogueSource(bundle, open_coder(bundle, settings)))
        while (newer := await follower.follow(replica)) is not replica:
            replica = newer
    finally:
        await follower.close()
    return replica


async def read_counts(store: Store, settings: Settings) -> dict[str, float]:
    """Return the counts of events that rank popular items.

    Raises:
        StoreError: The store is away, or answers too late.
    """
    long_s, _ = half_lives_s_of(settings)
    return await store.counts(long_s)
