"""Transition scores: a sparse memory of the items that followed each other in training.

The memory stands beside the dense head, whose vectors blur what only few users did. It is a first-order Markov chain
over items, as in FPMC (Rendle et al., WWW 2010), but counted instead of factorised. The score of an item is its
expected share among the successors of the history, in which the newest items count most:

    followed(item) = sum over ages a of DECAY ** a * P(item follows the item of age a)
    transition score = log(1 + followed(item) / FLOOR)

It is added to the item's dense score, times a weight that is fitted on validation users
(:mod:`model_store.search.fusion`). An item that never followed gets 0, so the memory can only raise scores.

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
"""Number of newest items of a history that count."""

DECAY = 0.8
"""Weight of an item relative to the next newer one."""

FLOOR = 1e-3
"""Share of successors far below which a share hardly counts."""

_HINT = "publish the model again, with the release that serves it"


@dataclass(frozen=True, eq=False)
class Transitions:
    """The memory as compressed sparse rows, one row per item of the bundle.

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
        """Number of trained items."""
        return len(self.start) - 1

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the arrays by name; :meth:`from_arrays` takes them back."""
        return {"start": self.start, "successor": self.successor, "share": self.share}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Self:
        """Rebuild and check a memory from :meth:`arrays`.

        Raises:
            BundleRefused: An array is missing, or the arrays do not describe a memory.
        """
        try:
            return cls(
                arrays["start"].astype(np.int64), arrays["successor"].astype(np.int32), arrays["share"].astype("f4")
            )
        except (KeyError, ValueError, IndexError) as cause:
            raise BundleRefused(f"transitions: {cause}", _HINT) from cause

    def for_rows(self, rows: Int64Array) -> Transitions:
        """Return the memory of some catalogue rows, numbered anew from 0; rows that it lacks have no successors.

        Args:
            rows: Ascending.
        """
        size = max(self.items, int(rows.max(initial=-1)) + 1)
        place = np.full(size, -1, dtype=np.int64)
        place[rows] = np.arange(len(rows))

        item = place[: self.items].repeat(np.diff(self.start))
        successor = place[self.successor]
        is_kept = (item >= 0) & (successor >= 0)
        count = np.bincount(item[is_kept], minlength=len(rows))
        start = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
        return Transitions(start, successor[is_kept].astype(np.int32), self.share[is_kept])

    def scores(self, history: npt.NDArray[np.integer], items: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        """Return the transition scores of candidates, ``[B, C]``.

        Args:
            history: Catalogue rows ``[B, T]``, oldest first, padded on the left with -1.
            items: Catalogue rows ``[B, C]``. The memory knows nothing of -1 and of new items: they score 0.
        """
        if not len(self._keys):
            return np.zeros(items.shape, dtype=np.float32)

        newest = history[:, -AGES:].astype(np.int64)  # [B, A]
        is_known_history = (newest >= 0) & (newest < self.items)
        is_known_item = (items >= 0) & (items < self.items)
        is_known = is_known_history[:, :, None] & is_known_item[:, None, :]  # [B, A, C]

        wanted = newest[:, :, None] * self.items + items[:, None, :]  # [B, A, C]
        place = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        share = np.where(is_known & (self._keys[place] == wanted), self.share[place], np.float32(0))

        weight = DECAY ** np.arange(newest.shape[1] - 1, -1, -1)
        followed = (share * weight[:, None]).sum(axis=1)
        scores: npt.NDArray[np.float32] = np.log1p(followed / FLOOR).astype(np.float32)
        return scores

    @cached_property
    def _keys(self) -> Int64Array:
        """Pairs of item and successor as single numbers, ascending."""
        return np.repeat(np.arange(self.items), np.diff(self.start)) * self.items + self.successor


def newest_items(histories: Sequence[npt.NDArray[np.integer]]) -> Int64Array:
    """Return the newest items of each history, ``[B, AGES]``, for :meth:`Transitions.scores`."""
    padded = np.full((len(histories), AGES), -1, dtype=np.int64)
    for row, history in enumerate(histories):
        kept = history[-AGES:]
        padded[row, AGES - len(kept) :] = kept
    return padded
