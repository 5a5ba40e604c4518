"""A runner of shards for tests, in the process of the test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from model_store.shards.runners import ComputeShard, Outcome, ShardRunner, T, try_shard


class InThisProcess(ShardRunner):
    """Runner that computes shards one after the other, where it is called."""

    def run(self, compute: ComputeShard[T], shards: Sequence[int]) -> Iterator[Outcome[T]]:
        return (try_shard(compute, shard) for shard in shards)
