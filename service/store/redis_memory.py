"""Guard of Redis' memory: refuses events in time, so that catalogue changes and deletions still find room."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from model_store.errors import StoreReadOnly
from service.store.redis_client import cluster_primaries
from service.store.redis_connection import Connection

log = structlog.get_logger()

FULL = 0.97
"""Share of ``maxmemory`` from which events are refused; the rest is room for catalogue changes and snapshots."""

IMPORTS = 0.9
"""Share of ``maxmemory`` up to which histories are imported, whatever the policy: an import must evict nobody."""

HAS_ROOM = 0.95
"""Share of ``maxmemory`` below which a full Redis takes events again. Lower than :data:`FULL`: it must not flap."""


class MemoryGuard:
    """Guard that remembers whether Redis is full. Used from one event loop.

    Where idle users expire and the policy may evict them, a full Redis makes room by itself: events are refused only
    after Redis itself has refused one.

    Args:
        connection: Connection to Redis.
        users_expire: Whether histories have an expiry.
    """

    def __init__(self, connection: Connection, *, users_expire: bool) -> None:
        self._connection = connection
        self._users_expire = users_expire
        self._is_full = False
        self._used_share = 0.0
        self._warned_of = ""

    def ensure_room(self) -> None:
        """Return if events may be recorded.

        Raises:
            StoreReadOnly: Redis is full.
        """
        if self._is_full:
            raise StoreReadOnly(
                f"Redis is out of memory; it takes events again below {HAS_ROOM:.0%} of maxmemory",
                "raise maxmemory, drain events (`etegrec-train retrain`), or let idle users expire"
                " (ETEGREC_USER_TTL_DAYS)",
                "Redis is full",
            )

    def ensure_room_for_imports(self) -> None:
        """Return if histories may be imported.

        Raises:
            StoreReadOnly: Redis is full, or nearly so.
        """
        self.ensure_room()
        if self._used_share >= IMPORTS:
            raise StoreReadOnly(
                f"Redis uses {self._used_share:.0%} of maxmemory; histories are imported below {IMPORTS:.0%}",
                "raise maxmemory, or import fewer histories (export.history_users of the training configuration)",
                "Redis is nearly full",
            )

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Wrap a write, and remember if Redis refuses it for want of memory."""
        try:
            yield
        except StoreReadOnly as refusal:
            self._is_full = self._is_full or isinstance(refusal.__cause__, OutOfMemoryError)
            raise

    async def check(self) -> None:
        """Ask Redis how much memory it uses: of a cluster, the fullest primary counts. A probe has just been written.

        Raises:
            StoreReadOnly: It is full.
            StoreUnavailable: It does not answer.
        """
        memories = await self._connection.ask(_memory_of_primaries)
        self._used_share = max(map(_used_share, memories))
        self._is_full = any(self._is_full_at(memory) for memory in memories)
        self.ensure_room()

    def _is_full_at(self, memory: dict[str, Any]) -> bool:
        policy = str(memory.get("maxmemory_policy", ""))
        self._warn_of(policy)

        makes_room = policy.startswith("allkeys") or (policy.startswith("volatile") and self._users_expire)
        return not makes_room and _used_share(memory) >= (HAS_ROOM if self._is_full else FULL)

    def _warn_of(self, policy: str) -> None:
        """Say once that Redis may evict anything, waiting events and the catalogue as well."""
        if policy.startswith("allkeys") and policy != self._warned_of:
            log.warning("redis_may_evict_everything", policy=policy, fix="set maxmemory-policy to volatile-lru")
            self._warned_of = policy


async def _memory_of_primaries(redis: Redis) -> list[dict[str, Any]]:
    """Return what each primary says of its memory."""
    asked = (redis.info("memory", **node) for node in await cluster_primaries(redis))
    return list(await asyncio.gather(*asked))


def _used_share(memory: dict[str, Any]) -> float:
    """Return the used share of ``maxmemory``, 0 without a limit."""
    limit = int(memory.get("maxmemory", 0))
    used = int(memory["used_memory"]) - int(memory.get("mem_not_counted_for_evict", 0))
    return used / limit if limit else 0.0
