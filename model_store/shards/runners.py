"""Interface of what computes shards: compute shard i, for all i, somewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

from model_store.errors import EtegrecError

T = TypeVar("T")

ATTEMPTS = 3
"""How often callers compute a shard before it counts as failed; the others come first. Runners try once."""

ComputeShard = Callable[[int], T]
"""Computes a shard. It can be sent to another process, and keeps there what it opened for the next shard."""


class ShardFailed(EtegrecError):
    """A shard failed for a reason that nobody foresaw, or the process that computed it died."""


class Outcome(NamedTuple, Generic[T]):
    """A shard that ended, well or not."""

    shard: int
    result: T | None
    error: EtegrecError | None = None


class ShardRunner(ABC):
    """Computes shards on the cores of one machine or of several."""

    @abstractmethod
    def run(self, compute: ComputeShard[T], shards: Sequence[int]) -> Iterator[Outcome[T]]:
        """Yield each shard once, as soon as it has ended, in any order.

        A shard that raises, or whose process dies, is yielded with its error; all others are computed nevertheless.
        When the caller stops early, nothing is left running.
        """


def try_shard(compute: ComputeShard[T], shard: int) -> Outcome[T]:
    """Compute a shard in this process; return the error instead of raising it."""
    try:
        return Outcome(shard, compute(shard))
    except EtegrecError as error:
        return Outcome(shard, None, error)
    except Exception as error:  # noqa: BLE001  whatever is wrong with one shard, the others are computed
        return Outcome(shard, None, ShardFailed(f"{type(error).__name__}: {error}"))
