"""Store of histories, events and catalogue changes: in Redis, or embedded in one process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from model_store.replication.redis_address import NO_TLS_FILES, TlsFiles
from model_store.replication.redis_keys import DEFAULT_PREFIX
from service.store.base import HISTORY_CAP, Store

READ_TIMEOUT_MS = 50.0
"""Longest wait for a Redis socket, for reads of the request path."""


def open_store(
    redis_url: str | None,
    events_folder: Path,
    *,
    prefix: str = DEFAULT_PREFIX,
    tls: TlsFiles = NO_TLS_FILES,
    history_cap: int = HISTORY_CAP,
    half_lives_s: Sequence[int] = (),
    user_ttl_s: int = 0,
    max_undrained_events: int = 0,
    timeout_ms: float = READ_TIMEOUT_MS,
) -> Store:
    """Open the store of this process.

    Opening Redis does no I/O: the first call finds out whether it is down. Opening the embedded store reads its log.

    Args:
        redis_url: ``None`` for the embedded store.
        events_folder: Folder of the embedded store's log (``ETEGREC_STORE/events``).
        prefix: Prefix of every Redis key.
        tls: Files of a TLS connection to Redis.
        history_cap: Interactions kept per user.
        half_lives_s: Half-lives of the decayed counts of events, in seconds, each once.
        user_ttl_s: Seconds without an event after which a user is forgotten, 0 for never.
        max_undrained_events: Number of events waiting for training above which the oldest are dropped, 0 for none.
        timeout_ms: Longest wait for a Redis socket, for reads of the request path.

    Raises:
        ConfigError: The Redis client does not accept the URL or the files.
        LockHeld: Another process has the embedded store open.
        StoreReadOnly: The events folder cannot be used at all.
    """
    if redis_url is None:
        from service.store.embedded_store import EmbeddedStore

        return EmbeddedStore(
            events_folder,
            history_cap=history_cap,
            half_lives_s=half_lives_s,
            user_ttl_s=user_ttl_s,
            max_undrained_events=max_undrained_events,
        )

    from service.store.redis_store import RedisStore

    return RedisStore(
        redis_url,
        prefix=prefix,
        tls=tls,
        history_cap=history_cap,
        half_lives_s=half_lives_s,
        user_ttl_s=user_ttl_s,
        max_undrained_events=max_undrained_events,
        timeout_ms=timeout_ms,
    )
