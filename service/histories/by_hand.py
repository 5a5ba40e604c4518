"""Import by hand: ``etegrec-serve import-history``, of a file or of a version's histories."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from typing import NamedTuple

from model_store.bundle.bundle import Bundle
from model_store.bundle.histories import HISTORIES, count_users, iterate_histories
from model_store.errors import LockHeld, ModelStoreError
from model_store.events.history_entry import UserInteractions
from service.histories.chunks import import_chunks
from service.store.base import ImportProgress, Store

CHECKED_EVERY_S = 2.0
"""Seconds between two looks at the store's memory, and two messages about progress."""


class ImportResult(NamedTuple):
    """Result of an import by hand."""

    users: int  # in the source
    written_users: int  # whose history changed
    written_interactions: int


async def import_all(
    store: Store, histories: Iterator[UserInteractions], total: int, say: Callable[[str], None]
) -> ImportResult:
    """Import histories while no replica imports.

    Args:
        store: The store.
        histories: The histories.
        total: Number of their users.
        say: Called with a line about progress every few seconds.

    Raises:
        LockHeld: A replica imports now.
        StoreError: The store is away, full or nearly full. Repeating the import goes on: what came stays.
    """
    async with store.importing() as is_mine:
        if not is_mine:
            raise LockHeld("a replica imports histories now", "repeat it when that is done; its log says so")
        return await _import(store, histories, total, say)


async def import_version(store: Store, bundle: Bundle, say: Callable[[str], None]) -> ImportResult:
    """Import the histories of a version from its first user on; replicas then take them as imported.

    Raises:
        ModelStoreError: The version has no histories.
    """
    if HISTORIES not in bundle:
        raise ModelStoreError(
            f"version {bundle.version} has no {HISTORIES}",
            "export it with export.histories = true, or give a file of interactions",
        )
    data = bundle.read(HISTORIES)
    result = await import_all(store, iterate_histories(data), count_users(data), say)
    await store.save_import_progress(bundle.version, ImportProgress(result.users, is_complete=True))
    return result


async def _import(
    store: Store, histories: Iterator[UserInteractions], total: int, say: Callable[[str], None]
) -> ImportResult:
    result = ImportResult(0, 0, 0)
    await store.check()  # only then the store knows how much room it has
    checked = time.monotonic()

    async with aclosing(import_chunks(store, histories)) as chunks:
        async for chunk in chunks:
            changed, came = chunk.imported
            result = ImportResult(
                result.users + chunk.users, result.written_users + changed, result.written_interactions + came
            )
            if time.monotonic() - checked >= CHECKED_EVERY_S:
                say(f"{result.users:,} of {total:,} users")
                await store.check()
                checked = time.monotonic()
    return result
