"""The store: histories, events and catalogue changes, in Redis or embedded in one process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from model_store.replication.redis_schema import DEFAULT_PREFIX, HISTORY_CAP
from service.store.base import Store


def open_store(
    redis_url: str | None,
    events_folder: Path,
    *,
    prefix: str = DEFAULT_PREFIX,
    history_cap: int = HISTORY_CAP,
    half_lives_s: Sequence[int] = (),
    timeout_ms: float = 50,
) -> Store:
    """The live store of this process.

    Opening Redis does no I/O: the first call finds out whether it is down. Opening the embedded store reads its log.

    Args:
        redis_url: ``None`` for the embedded store.
        events_folder: Log of the embedded store (``ETEGREC_STORE/events``).
        prefix: In front of every Redis key.
        history_cap: Item ids kept per user.
        half_lives_s: Of the fading counts of events, in seconds, each once.
        timeout_ms: Longest wait for a Redis socket on the request path.

    Raises:
        ConfigError: The URL is none that the Redis client takes.
        LockHeld: Another process has the embedded store open.
        StoreUnavailable: The events folder cannot be written.
    """
    if redis_url is None:
        from service.store.embedded_store import EmbeddedStore

        return EmbeddedStore(events_folder, history_cap=history_cap, half_lives_s=half_lives_s)
    from service.store.redis_store import RedisStore

    return RedisStore(
        redis_url, prefix=prefix, history_cap=history_cap, half_lives_s=half_lives_s, timeout_ms=timeout_ms
    )
