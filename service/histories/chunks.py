"""Import of histories chunk by chunk, with pauses, so that requests are not slowed down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from typing import NamedTuple

from model_store.events.history_entry import UserInteractions
from service.store.base import Imported, Store

CHUNK_INTERACTIONS = 1000
"""Interactions that are imported together, or those of one user, if that has more."""

CHUNK_USERS = 256
"""Users that are imported together at most."""

REST = 3
"""Pause after a chunk, as a multiple of the time that it took: the store has most of its time for requests."""


class Chunk(NamedTuple):
    """A chunk that was imported."""

    users: int  # in the chunk
    imported: Imported


async def import_chunks(store: Store, histories: Iterator[UserInteractions]) -> AsyncGenerator[Chunk, None]:
    """Import histories in order; yield after each chunk, when the store has it.

    Args:
        store: The store.
        histories: The histories. They are read in a thread: decoding a file takes a while.

    Raises:
        StoreError: The store is away, full or nearly full; the chunk may be imported in part and can be repeated.
    """
    while chunk := await asyncio.to_thread(_next_chunk, histories):
        started = time.monotonic()
        yield Chunk(len(chunk), await store.import_histories(chunk))
        await asyncio.sleep(REST * (time.monotonic() - started))


def _next_chunk(histories: Iterator[UserInteractions]) -> list[UserInteractions]:
    chunk: list[UserInteractions] = []
    size = 0
    for history in histories:
        chunk.append(history)
        size += len(history.item_ids)
        if size >= CHUNK_INTERACTIONS or len(chunk) >= CHUNK_USERS:
            break
    return chunk
