"""Shorthand for what tests ask a store."""

from __future__ import annotations

from service.store.base import Store


async def newest_event(store: Store, user_id: str) -> int | None:
    """Return the time of a user's newest interaction; ``None`` if nothing is stored."""
    entries = await store.entries(user_id)
    return entries[-1].timestamp if entries else None
