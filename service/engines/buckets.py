"""Which batch shapes an engine is made ready for, and how a batch is padded up to one of them.

A captured search runs at the shapes it was captured with. Requests differ in few of them: how many they are, how long
the histories. The rest is the same for nearly all: one beam width with its dense candidates, at most :data:`EXCLUDED`
closed nodes, at most :data:`RULES` rules. Whatever does not fit is searched call by call, at its own shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.search.interface import SearchInputs
from service.engines.base import HISTORY_BUCKETS

BATCHES = (1, 8, 32, 64, 128, 256, 512)
"""Batch sizes that are captured, up to the largest that the service forms: a small batch takes as long as 8 or 32 of it
on a GPU; from there on padding to the next size costs at most as much again."""

EXCLUDED = 128
"""E of every captured shape: what a history of 50 items closes, and room for a deny list."""

RULES = 8
"""R of every captured shape: "everything" and seven filters."""

Int64Array = npt.NDArray[np.int64]


class Bucket(NamedTuple):
    """One captured shape."""

    batch: int  # B
    length: int  # T

    @property
    def numbers(self) -> int:
        """Integers that its requests take, see :meth:`carved`."""
        return self.batch * (self.length + EXCLUDED + 3)

    def carved(self, flat: Any) -> PerRequest:
        """A flat array or tensor ``[numbers or more]`` of int64 as the fields of such a batch, without a copy."""
        widths = (self.length, 1, 1, EXCLUDED, 1)
        ends = np.cumsum([self.batch * width for width in widths]).tolist()
        history, lengths, rule_of, excluded, limit = (
            flat[end - self.batch * width : end] for end, width in zip(ends, widths, strict=True)
        )
        shape = self.batch, -1
        return PerRequest(history.reshape(shape), lengths, rule_of, excluded.reshape(shape), limit)


class PerRequest(NamedTuple):
    """Those of the search's inputs that have a row for each request, as arrays or as tensors."""

    history: Any  # [B, T]
    lengths: Any  # [B]
    rule_of: Any  # [B]
    excluded: Any  # [B, E]
    max_per_prefix: Any  # [B]

    def fill(self, asked: SearchInputs) -> None:
        """Write a batch of at most this shape; its padding is valid input, whose answers nobody reads."""
        size, length = asked.history.shape
        self.history[...] = 0
        self.history[:size, :length] = asked.history
        self.excluded[...] = -1
        self.excluded[:size, : asked.excluded.shape[1]] = asked.excluded
        for name, nothing in (("lengths", 1), ("rule_of", 0), ("max_per_prefix", 1)):
            field: Int64Array = getattr(self, name)
            field[:size], field[size:] = getattr(asked, name), nothing


@dataclass(frozen=True)
class CapturePlan:
    """All captured shapes; they share beam width and candidates.

    Attributes:
        batches: Ascending; none: nothing is captured.
        lengths: Of histories, ascending.
        width: W.
        candidates: n.
    """

    batches: Sequence[int]
    lengths: Sequence[int]
    width: int
    candidates: int

    @property
    def buckets(self) -> list[Bucket]:
        """Largest first: what those need in memory, the others can share."""
        return [Bucket(batch, length) for batch in reversed(self.batches) for length in reversed(self.lengths)]

    @property
    def largest(self) -> Bucket:
        """That all others fit into; one of no requests if nothing is captured."""
        return self.buckets[0] if self.batches else Bucket(0, 0)

    def find(self, asked: SearchInputs) -> Bucket | None:
        """The smallest shape that holds a batch; ``None`` for an odd one.

        Its ``rule_bits`` are the rules besides "everything".
        """
        batch = next((size for size in self.batches if size >= len(asked.lengths)), None)
        length = next((size for size in self.lengths if size >= asked.history.shape[1]), None)
        is_usual = (len(asked.beam), len(asked.candidates)) == (self.width, self.candidates)
        fits = asked.excluded.shape[1] <= EXCLUDED and len(asked.rule_bits) < RULES
        return Bucket(batch, length) if batch and length and is_usual and fits else None

    def widened(self, asked: SearchInputs) -> SearchInputs:
        """The same questions, with the captured beam width if theirs is narrower.

        A narrow beam is for those in a hurry. Captured it would save hardly anything on a GPU, and call by call it
        would take several times as long as the usual one.
        """
        width = len(asked.beam)
        if not self.batches or width >= self.width:
            return asked
        limit = np.where(asked.max_per_prefix >= width, self.width, asked.max_per_prefix)
        beam, candidates = (np.arange(count, dtype=np.int64) for count in (self.width, self.candidates))
        return asked._replace(max_per_prefix=limit, beam=beam, candidates=candidates)


def batch_sizes(max_batch: int) -> tuple[int, ...]:
    """Those of :data:`BATCHES` that a service with batches of at most ``max_batch`` needs."""
    return (*(size for size in BATCHES if size < max_batch), max_batch)


def history_lengths(max_history: int) -> tuple[int, ...]:
    """Lengths that histories are padded to."""
    return (*(length for length in HISTORY_BUCKETS if length < max_history), max_history)
