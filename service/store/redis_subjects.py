"""Subjects of experiments in Redis: two hashes for each experiment, in a cluster for each partition as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from model_store.events.counts import add_all
from model_store.events.marks import who
from model_store.replication import redis_keys
from service.store import redis_subject_scripts
from service.store.redis_client import Arg, Script
from service.store.redis_connection import Connection
from service.store.subject_store import Exposure, SubjectStore

_EXPOSURES_PER_CALL = 1000  # one script run blocks Redis for everyone: one or two milliseconds


class RedisSubjects(SubjectStore):
    """Subjects of one installation.

    Args:
        connection: Connection to Redis.
        keys: Names of the keys.
    """

    def __init__(self, connection: Connection, keys: redis_keys.Keys) -> None:
        self._connection = connection
        self._keys = keys
        self._expose = Script(connection.slow, redis_subject_scripts.EXPOSE)

    async def expose(self, exposures: Sequence[Exposure]) -> None:
        """Run one script per thousand exposures of a partition."""
        for names, rows in self._keys.by_part(exposures, lambda each: each.home).items():
            for at in range(0, len(rows), _EXPOSURES_PER_CALL):
                part = rows[at : at + _EXPOSURES_PER_CALL]
                experiments = list(dict.fromkeys(each.experiment for each in part))
                args: list[Arg] = []
                for each in part:
                    args += [experiments.index(each.experiment) + 1, who(each.variant, each.subject)]
                async with self._connection.background():
                    await self._expose(keys_of(names, experiments), args)

    async def sums(self, experiment: str) -> dict[str, float]:
        """Read the hashes of all partitions and add them up."""
        total: dict[str, float] = {}
        for part in self._keys.parts:
            async with self._connection.background() as redis:
                found: Any = await redis.hgetall(part.subject_sums(experiment))
            add_all(total, {name.decode(errors="replace"): float(amount) for name, amount in found.items()})
        return total

    async def delete(self, experiment: str, *, with_sums: bool) -> None:
        """Delete hashes."""
        for part in self._keys.parts:
            keys = [part.subjects(experiment), *([part.subject_sums(experiment)] if with_sums else [])]
            async with self._connection.background() as redis:
                await redis.unlink(*keys)


def keys_of(names: redis_keys.Keys, experiments: Sequence[str]) -> list[str]:
    """Return the keys of experiments as scripts take them: sums and subjects of each."""
    return [key for each in experiments for key in (names.subject_sums(each), names.subjects(each))]
