"""Shorthand for what tests write to a store."""

from __future__ import annotations

import numpy as np

from service.store.base import Store
from service.store.change_stream import Position, RawChange, Snapshot


def snapshot(revision: int, size: int = 10) -> Snapshot:
    """Return a snapshot with one array [size] that is full of its revision."""
    return Snapshot(Position(revision), "a" * 32, "b" * 64, {"a": np.full(size, revision, dtype=np.int32)})


async def save(store: Store, saved: Snapshot) -> Snapshot | None:
    """Save a snapshot of the version ``v``."""

    async def make() -> Snapshot:
        return saved

    return await store.catalogue.save_snapshot("v", make)


def change(number: int) -> RawChange:
    """Return a change that puts an item of its own."""
    return RawChange(f"i{number}", "put", b"{}")
