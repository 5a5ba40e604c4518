"""Which items follow which: a sparse memory beside the dense head, whose vectors blur what few users did.

A first-order Markov chain over items, as in FPMC (Rendle et al., WWW 2010), but counted instead of factorised. What a
history says of an item is its expected share of successors, the newest items of the history counting most:

    followed(item) = sum over ages a of DECAY ** a * P(item follows the item of age a)
    transition score = log(1 + followed(item) / FLOOR)

It is added to the item's dense score, times a weight that is fitted on validation users
(:mod:`model_store.search.fusion`). An item that never followed gets 0, so that the memory only ever raises.

Shapes: B histories, T items of a history, C candidates, P pairs in the memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from model_store.errors import BundleRefused

Int64Array = npt.NDArray[np.int64]

AGES = 8
"""Newest items of a history that count."""

DECAY = 0.8
"""What an item counts relative to the one after it."""

FLOOR = 1e-3
"""Shares of successors well below this count as none."""

HINT = "publish the model again, with the release that serves it"


@dataclass(frozen=True, eq=False)
class Transitions:
    """The memory, one row per trained item, in compressed rows.

    Attributes:
        start: ``[items + 1]`` int64, where each item's successors begin.
        successor: ``[P]`` int32, catalogue rows, ascending within an item.
        share: ``[P]`` float32, P(successor follows the item), above 0.

    Raises:
        ValueError: The arrays do not describe such a memory.
    """

    start: Int64Array
    successor: npt.NDArray[np.int32]
    share: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        pairs = len(self.successor)
        if not len(self.start) or self.start[0] != 0 or self.start[-1] != pairs or (np.diff(self.start) < 0).any():
            raise ValueError(f"start must ascend from 0 to the number of pairs, {pairs}")
        if self.share.shape != self.successor.shape or not (np.isfinite(self.share) & (self.share > 0)).all():
            raise ValueError("share must hold a number above 0 for every pair")
        if pairs and not 0 <= self.successor.min() <= self.successor.max() < self.items:
            raise ValueError(f"successor must hold rows below {self.items}")
        if (np.diff(self._keys) <= 0).any():
            raise ValueError("successor must ascend within every item")

    @property
    def items(self) -> int:
        """Trained items."""
        return len(self.start) - 1

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """By name, see :meth:`from_arrays`."""
        return {"start": self.start, "successor": self.successor, "share": self.share}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Self:
        """The memory that :meth:`arrays` belongs to.

        Raises:
            BundleRefused: They are none.
        """
        try:
            return cls(
                arrays["start"].astype(np.int64), arrays["successor"].astype(np.int32), arrays["share"].astype("f4")
            )
        except (KeyError, ValueError, IndexError) as cause:
            raise BundleRefused(f"transitions: {cause}", HINT) from cause

    def scores(self, history: npt.NDArray[np.integer], items: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        """Transition scores of candidates ``[B, C]``.

        Args:
            history: Catalogue rows ``[B, T]``, oldest first, padded on the left with -1.
            items: Catalogue rows ``[B, C]``. Of rows that the memory lacks, -1 or live ones, it knows nothing.
        """
        newest = history[:, -AGES:].astype(np.int64)  # [B, A]
        weight = DECAY ** np.arange(newest.shape[1] - 1, -1, -1)
        known = ((newest >= 0) & (newest < self.items))[:, :, None] & ((items >= 0) & (items < self.items))[:, None, :]
        wanted = newest[:, :, None] * self.items + items[:, None, :]  # [B, A, C]
        if not len(self._keys):
            return np.zeros(items.shape, dtype=np.float32)
        at = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        share = np.where(known & (self._keys[at] == wanted), self.share[at], np.float32(0))
        followed = (share * weight[:, None]).sum(axis=1)
        scores: npt.NDArray[np.float32] = np.log1p(followed / FLOOR).astype(np.float32)
        return scores

    @cached_property
    def _keys(self) -> Int64Array:
        """Pairs as single numbers, ascending."""
        return np.repeat(np.arange(self.items), np.diff(self.start)) * self.items + self.successor


def newest_items(histories: Sequence[npt.NDArray[np.integer]]) -> Int64Array:
    """Histories as :meth:`Transitions.scores` takes them: the newest items of each, ``[B, AGES]``."""
    padded = np.full((len(histories), AGES), -1, dtype=np.int64)
    for row, history in enumerate(histories):
        kept = history[-AGES:]
        padded[row, AGES - len(kept) :] = kept
    return padded
