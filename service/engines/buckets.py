"""Buckets: the fixed batch shapes that a GPU engine captures, and padding to one of them.

A captured search runs only at the shape it was captured with. Requests differ in few dimensions: how many there are and
how long their histories are. The rest is the same for nearly all: one beam width with its dense candidates, at most
:data:`MAX_EXCLUDED` closed nodes, as many additions to dense scores as neighbours can make, fewer than
:data:`MAX_RULES` rules, and nothing steered. A batch that fits no bucket is searched eagerly, at its own shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.search.interface import SearchInputs
from service.engines.base import HISTORY_BUCKETS

BATCH_SIZES = (1, 8, 32, 64, 128, 256, 512)
"""Batch sizes that are captured, up to the largest that the service forms. On a GPU a small batch takes as long as one
of 8 or 32; beyond, padding to the next size at most doubles the cost."""

MAX_EXCLUDED = 128
"""E of every bucket: the nodes that a history of 50 items closes, and room for a deny list."""

MAX_RULES = 8
"""R of every bucket: "everything" and seven filters."""

Int64Array = npt.NDArray[np.int64]


class Bucket(NamedTuple):
    """One captured shape."""

    batch: int  # B
    length: int  # T
    additions: int  # M

    @property
    def numbers(self) -> int:
        """Integers that its requests take, see :meth:`view`."""
        return self.batch * (self.length + MAX_EXCLUDED + self.additions + 3)

    @property
    def scores(self) -> int:
        """Floats that its requests take, see :meth:`view`."""
        return self.batch * self.additions

    def view(self, flat: Any, scores: Any) -> RequestFields:
        """View flat arrays or tensors as the fields of such a batch, without a copy.

        Args:
            flat: int64, ``[numbers or more]``.
            scores: float32, ``[scores or more]``.
        """
        widths = (self.length, 1, 1, MAX_EXCLUDED, 1, self.additions)
        ends = np.cumsum([self.batch * width for width in widths]).tolist()
        history, lengths, rule_of, excluded, limit, neighbours = (
            flat[end - self.batch * width : end] for end, width in zip(ends, widths, strict=True)
        )
        return RequestFields(
            history=history.reshape(self.batch, self.length),
            lengths=lengths,
            rule_of=rule_of,
            excluded=excluded.reshape(self.batch, MAX_EXCLUDED),
            max_per_prefix=limit,
            neighbours=neighbours.reshape(self.batch, self.additions),
            neighbour_scores=scores[: self.scores].reshape(self.batch, self.additions),
        )


class RequestFields(NamedTuple):
    """Inputs of the search that have a row for each request, as arrays or as tensors."""

    history: Any  # [B, T]
    lengths: Any  # [B]
    rule_of: Any  # [B]
    excluded: Any  # [B, E]
    max_per_prefix: Any  # [B]
    neighbours: Any  # [B, M]
    neighbour_scores: Any  # [B, M]

    def fill(self, asked: SearchInputs) -> None:
        """Write a batch of at most this shape. The padding is valid input too, but nobody reads its answers."""
        size, length = asked.history.shape
        self.history[...] = 0
        self.history[:size, :length] = asked.history
        self.excluded[...] = -1
        self.excluded[:size, : asked.excluded.shape[1]] = asked.excluded

        added = asked.neighbours.shape[1]
        self.neighbours[...] = -1
        self.neighbours[:size, :added] = asked.neighbours
        self.neighbour_scores[...] = 0
        self.neighbour_scores[:size, :added] = asked.neighbour_scores

        for name, padding in (("lengths", 1), ("rule_of", 0), ("max_per_prefix", 1)):
            field: Int64Array = getattr(self, name)
            field[:size] = getattr(asked, name)
            field[size:] = padding


@dataclass(frozen=True)
class CapturePlan:
    """All buckets of an engine; they share beam width, candidates and additions.

    Attributes:
        batches: Batch sizes, ascending. If there are none, nothing is captured.
        lengths: History lengths, ascending.
        width: W.
        candidates: n.
        additions: M, 0 for a model without neighbours.
    """

    batches: Sequence[int]
    lengths: Sequence[int]
    width: int
    candidates: int
    additions: int = 0

    @property
    def buckets(self) -> list[Bucket]:
        """All buckets, the largest first: the others can share the memory that it needs."""
        return [
            Bucket(batch, length, self.additions)
            for batch in reversed(self.batches)
            for length in reversed(self.lengths)
        ]

    @property
    def largest(self) -> Bucket:
        """The bucket that can hold every other one; of no requests if nothing is captured."""
        return self.buckets[0] if self.batches else Bucket(0, 0, 0)

    def find(self, asked: SearchInputs) -> Bucket | None:
        """Return the smallest bucket that holds a batch; ``None`` if none does.

        Args:
            asked: A batch whose ``rule_bits`` leave out the rule "everything".
        """
        batch = next((size for size in self.batches if size >= len(asked.lengths)), None)
        length = next((size for size in self.lengths if size >= asked.history.shape[1]), None)
        is_usual = (len(asked.beam), len(asked.candidates)) == (self.width, self.candidates)
        has_room = asked.excluded.shape[1] <= MAX_EXCLUDED and asked.neighbours.shape[1] <= self.additions
        fits = has_room and len(asked.rule_bits) < MAX_RULES and not asked.steer_nodes.shape[1]
        return Bucket(batch, length, self.additions) if batch and length and is_usual and fits else None

    def widen(self, asked: SearchInputs) -> SearchInputs:
        """Give a batch the captured beam width if its own is narrower; return it unchanged otherwise.

        Narrow beams are for requests that are short of time. To capture them would save hardly anything on a GPU, and
        an eager search would take several times as long as the usual beam.
        """
        width = len(asked.beam)
        if not self.batches or width >= self.width:
            return asked
        limit = np.where(asked.max_per_prefix >= width, self.width, asked.max_per_prefix)
        beam = np.arange(self.width, dtype=np.int64)
        candidates = np.arange(self.candidates, dtype=np.int64)
        return asked._replace(max_per_prefix=limit, beam=beam, candidates=candidates)


def batch_sizes(max_batch: int) -> tuple[int, ...]:
    """Return the :data:`BATCH_SIZES` that a service with batches of at most ``max_batch`` needs."""
    return (*(size for size in BATCH_SIZES if size < max_batch), max_batch)


def history_lengths(max_history: int) -> tuple[int, ...]:
    """Return the lengths that histories are padded to."""
    return (*(length for length in HISTORY_BUCKETS if length < max_history), max_history)
