"""Where a new item goes: the nearest code tuple with room, next to what the catalogue holds already.

The service's counterpart of ``training/collisions.py``, one item at a time and in NumPy. As there, ``reassign`` lets
one item have a tuple and ``token`` as many as there are codes, told apart by a last code. The result follows from
latent, catalogue and what was placed before, and from nothing else: replicas that place alike hold the same codes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from model_store.catalogue import Catalogue
from model_store.errors import CatalogueFull

BEAMS = 16
"""Prefixes that are followed at each level when an item's first choice is taken; each of them has room."""

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
Prefix = tuple[int, ...]


class Placement:
    """Places items into one catalogue, one after another. Each placed item takes room from those after it.

    Cheap to make. Not thread-safe.

    Args:
        catalogue: Where the items go; hidden ones keep their place in it.
        codebooks: The tokenizer's, ``[levels, K, d_c]``.
        policy: The model's ``collisions``.
    """

    def __init__(
        self, catalogue: Catalogue, codebooks: npt.NDArray[np.floating], policy: Literal["reassign", "token"]
    ) -> None:
        self._catalogue, self._trie, self._policy = catalogue, catalogue.trie, policy
        self._codebooks = codebooks.astype(np.float64, copy=False)
        self._squares = np.square(self._codebooks).sum(axis=2)
        self._levels, self._size, _ = codebooks.shape
        self._capacity = 1 if policy == "reassign" else self._size
        self._total = len(catalogue)
        self._placed: dict[Prefix, dict[int, int]] = {}  # items placed here, by prefix and next code
        self._last_codes: dict[Prefix, set[int]] = {}  # of tuples that something was placed at

    def place(self, latent: npt.NDArray[np.floating]) -> npt.NDArray[np.int16]:
        """Codes for an item, which are taken from now on.

        The tokenizer's own choice, level by level, if that has room; otherwise the tuple with room that is nearest to
        the latent, found by a beam search over prefixes with room. Ties go to the smaller code.

        Args:
            latent: r of the tokenizer, ``[d_c]``.

        Returns:
            ``[L]``, the last code of the policy ``token`` included.

        Raises:
            CatalogueFull: No tuple has room.
        """
        if self._total >= self._room(0):
            raise CatalogueFull(
                f"the catalogue holds {self._total:,} items, as many as {self._levels} levels of {self._size} codes "
                "have room for",
                "train a model with a larger model.tokenizer.codebook_size or more levels",
            )
        exact = latent.astype(np.float64)
        found = self._own_choice(exact)
        if len(self._trie.leaves_below(found)) + self._placed_at(found) >= self._capacity:
            found = self._nearest_with_room(exact)
        self._total += 1
        for depth, code in enumerate(found):
            below = self._placed.setdefault(found[:depth], {})
            below[code] = below.get(code, 0) + 1
        codes = found if self._policy == "reassign" else (*found, self._last_code(found))
        return np.array(codes, dtype=np.int16)

    def _room(self, depth: int) -> int:
        """Items that fit below a prefix of so many codes."""
        room: int = self._size ** (self._levels - depth) * self._capacity
        return room

    def _own_choice(self, latent: Float64Array) -> Prefix:
        """Residual quantisation, the nearest code of each level."""
        residual, codes = latent, []
        for book, squares in zip(self._codebooks, self._squares, strict=True):
            code = int(np.argmin(squares - 2 * (book @ residual)))
            residual = residual - book[code]
            codes.append(code)
        return tuple(codes)

    def _nearest_with_room(self, latent: Float64Array) -> Prefix:
        """Beams ascend by code, so that of equal distances the first one has the smaller codes."""
        prefixes: list[Prefix] = [()]
        nodes, residuals = np.zeros(1, dtype=np.int64), latent[None]
        for level, (book, squares) in enumerate(zip(self._codebooks, self._squares, strict=True)):
            distance = np.square(residuals).sum(axis=1)[:, None] - 2 * (residuals @ book.T) + squares
            children = self._children(level, nodes)
            distance[self._taken(level + 1, prefixes, children) >= self._room(level + 1)] = np.inf
            pick = _smallest(distance.ravel(), BEAMS if level + 1 < self._levels else 1)
            parent, code = pick // self._size, pick % self._size
            prefixes = [(*prefixes[row], each) for row, each in zip(parent.tolist(), code.tolist(), strict=True)]
            nodes, residuals = children.ravel()[pick], residuals[parent] - book[code]
        return prefixes[0]

    def _children(self, level: int, nodes: Int64Array) -> Int64Array:
        """Trie nodes below nodes of a depth, by code, ``[beams, K]``; -1 where there is none."""
        found = np.full((len(nodes), self._size), -1, dtype=np.int64)
        known = np.flatnonzero(nodes >= 0)
        start = self._trie.child_start[level]
        first, end = (start[nodes[known] + step].astype(np.int64) for step in (0, 1))
        count = end - first
        child = np.repeat(first - np.cumsum(count) + count, count) + np.arange(count.sum())
        found[np.repeat(known, count), self._trie.child_code[level][child]] = child
        return found

    def _taken(self, depth: int, parents: list[Prefix], nodes: Int64Array) -> Int64Array:
        """Items below nodes of a depth ``[beams, K]``, those placed here included."""
        low, is_known = np.maximum(nodes, 0), nodes >= 0
        high = low + is_known
        for start in self._trie.child_start[depth:]:
            low, high = start[low], start[high]
        taken = np.where(is_known, high - low, 0).astype(np.int64)
        for row, prefix in enumerate(parents):
            for code, count in self._placed.get(prefix, {}).items():
                taken[row, code] += count
        return taken

    def _placed_at(self, codes: Prefix) -> int:
        return self._placed.get(codes[:-1], {}).get(codes[-1], 0)

    def _last_code(self, codes: Prefix) -> int:
        """The smallest last code that no item of this tuple has."""
        if codes not in self._last_codes:
            leaves = self._trie.leaves_below(codes)
            rows = self._trie.leaf_item[leaves.start : leaves.stop]
            self._last_codes[codes] = set(self._catalogue.codes[rows, -1].tolist())
        used = self._last_codes[codes]
        free = next(code for code in range(self._size) if code not in used)
        used.add(free)
        return free


def _smallest(values: Float64Array, count: int) -> Int64Array:
    """Places of the smallest finite values, ascending by place; of equal ones the first."""
    if count == 1:
        return np.array([np.argmin(values)])
    limit = np.partition(values, min(count, len(values)) - 1)[min(count, len(values)) - 1]
    near = np.flatnonzero((values <= limit) & np.isfinite(values))
    return np.sort(near[np.argsort(values[near], kind="stable")[:count]])
