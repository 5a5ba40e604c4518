"""Runner of shards on a Ray cluster: a task for each shard, on whatever machine has a core free.

All machines see the files that shards read and write under the same paths, and have this package installed with the
extra ``scale``. Only numbers of shards and short results travel; data do not.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from model_store.errors import ConfigError
from model_store.shards.runners import ComputeShard, Outcome, ShardFailed, ShardRunner, T, try_shard

TASKS_PER_CORE = 2
"""Tasks that wait or run for each core of the cluster: none is idle, and a run that stops leaves little behind."""

JOIN_HINT = (
    "check the address, that RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH is the cluster's token, and that Python and Ray have"
    " the versions of the cluster"
)

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # a task has one core


class RayCluster(ShardRunner):
    """Runner on a Ray cluster. A shard whose machine or process dies has failed, and no other.

    Args:
        address: Address of the cluster, or ``auto`` on one of its machines.

    Raises:
        ConfigError: Ray is not installed.
    """

    def __init__(self, address: str) -> None:
        # Before Ray is imported: without a token, everyone who reaches a cluster can run code on it.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        try:
            import ray
        except ModuleNotFoundError as missing:
            raise ConfigError("--ray needs the package ray", "install etegrec[scale]") from missing
        self._address = address
        self._ray: Any = ray

    def run(self, compute: ComputeShard[T], shards: Sequence[int]) -> Iterator[Outcome[T]]:
        """See :meth:`model_store.shards.runners.ShardRunner.run`."""
        ray = self._ray
        self._join()
        try:
            # Failed shards are tried again after all others, so Ray need not do so.
            task = ray.remote(num_cpus=1, max_retries=0)(try_shard)
            waiting = deque(shards)
            running: dict[Any, int] = {}
            while waiting or running:
                room = TASKS_PER_CORE * max(1, int(ray.cluster_resources().get("CPU", 0))) - len(running)
                for _ in range(min(room, len(waiting))):
                    shard = waiting.popleft()
                    running[task.remote(compute, shard)] = shard

                ended, _ = ray.wait(list(running), num_returns=1)
                for each in ended:
                    yield self._outcome(each, running.pop(each))
        finally:
            ray.shutdown()

    def _join(self) -> None:
        """Connect this process to the cluster.

        Raises:
            ConfigError: There is none at the address, or it does not take this process.
        """
        ray = self._ray
        try:
            ray.init(
                self._address,
                log_to_driver=False,
                logging_level="ERROR",
                runtime_env={"env_vars": _ONE_THREAD},
            )
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as cause:
            reason = str(cause).strip().splitlines()[0]
            raise ConfigError(f"the Ray cluster at {self._address} cannot be joined: {reason}", JOIN_HINT) from cause

    def _outcome(self, task: Any, shard: int) -> Outcome[Any]:
        try:
            outcome: Outcome[Any] = self._ray.get(task)
        except self._ray.exceptions.RayError as cause:
            reason = str(cause).strip().splitlines()[0]
            return Outcome(shard, None, ShardFailed(f"{type(cause).__name__}: {reason}"))
        return outcome
