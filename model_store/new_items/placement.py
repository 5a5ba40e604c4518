"""Where a new item goes: the nearest code tuple with room, next to what the catalogue holds already.

The service's counterpart of ``training/tokenizer/collisions.py``, one item at a time and in NumPy. As there,
``reassign`` lets one item have a tuple and ``token`` as many as there are codes, told apart by a last code. The result
follows from latent, catalogue and what was placed before, and from nothing else: replicas that place alike hold the
same codes.

A tuple t stands for the sum of its codes b_l[t_l]. What remains of a latent r behind a prefix is r - sum_l b_l[t_l], so

    |remainder - b|^2 = |remainder|^2 + (|b|^2 - 2 r . b) + sum_l 2 b_l[t_l] . b

needs the products of the latent with all codes, taken once an item, and those of codes with codes, taken once a model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from model_store.catalogue.catalogue import Catalogue
from model_store.errors import CatalogueFull
from model_store.semantic_ids.trie import Trie

BEAMS = 16
"""Prefixes that are followed at each level when an item's first choice is taken; each of them has room."""

_GROUP = 64  # values whose least one stands for them

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Prefix = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Codebooks:
    """A tokenizer's codes and their products with each other.

    Attributes:
        flat: All codes, ``[levels * K, d_c]``.
        squares: Squared lengths, ``[levels, K]``.
        cross: ``cross[i, j, a, b]`` is twice code a of level i times code b of level j, ``[levels, levels, K, K]``.
    """

    flat: Float64Array
    squares: Float64Array
    cross: Float64Array

    @classmethod
    def of(cls, codes: npt.NDArray[np.floating]) -> Self:
        """From the codes, ``[levels, K, d_c]``; takes milliseconds."""
        levels, size, width = codes.shape
        flat = np.ascontiguousarray(codes, dtype=np.float64).reshape(levels * size, width)
        cross = 2 * (flat @ flat.T).reshape(levels, size, levels, size).transpose(0, 2, 1, 3)
        return cls(flat, np.square(flat).sum(axis=1).reshape(levels, size), np.ascontiguousarray(cross))

    def towards(self, latent: npt.NDArray[np.floating]) -> Float64Array:
        """|b|^2 - 2 r . b for all codes b and a latent r ``[d_c]``, ``[levels, K]``.

        Of one latent at a time: a product of matrices rounds differently from one of a matrix and a vector, and how
        items are grouped must not matter.
        """
        products = (self.flat @ latent.astype(np.float64)).reshape(self.squares.shape)
        return np.asarray(self.squares - 2 * products)


class Placement:
    """Places items into one catalogue, one after another. Each placed item takes room from those after it.

    Cheap to make. Not thread-safe.

    Args:
        catalogue: Where the items go; hidden ones keep their place in it.
        codebooks: The tokenizer's.
        policy: The model's ``collisions``.
    """

    def __init__(self, catalogue: Catalogue, codebooks: Codebooks, policy: Literal["reassign", "token"]) -> None:
        self._catalogue, self._trie, self._policy = catalogue, catalogue.trie, policy
        self._books = codebooks
        self._levels, self._size = codebooks.squares.shape
        self._capacity = 1 if policy == "reassign" else self._size
        self._total = len(catalogue)
        self._left: list[dict[int, int]] = [{} for _ in range(self._levels + 1)]  # by depth and key, where known
        self._last_codes: dict[Prefix, set[int]] = {}  # of tuples that something was placed at
        self._full = _Full(catalogue.trie, self._levels, self._room)

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
        towards = self._books.towards(latent)
        found = self._own_choice(towards)
        if self._full.has(found):
            found = self._nearest_with_room(towards)
        self._take(found)
        codes = found if self._policy == "reassign" else (*found, self._last_code(found))
        return np.array(codes, dtype=np.int16)

    def _room(self, depth: int) -> int:
        """Items that fit below a prefix of so many codes."""
        room: int = self._size ** (self._levels - depth) * self._capacity
        return room

    def _take(self, codes: Prefix) -> None:
        self._total += 1
        key = 0
        for level, code in enumerate(codes):
            above, key, depth = key, key * self._size + code, level + 1
            left = self._left[depth].get(key)
            if left is None:
                left = self._room(depth) - self._full.items_below(codes[:depth], key)
            self._left[depth][key] = left - 1
            if left == 1:
                self._full.add(level, above, code)

    def _own_choice(self, towards: Float64Array) -> Prefix:
        """Residual quantisation, the nearest code of each level."""
        codes: list[int] = []
        for level, distance in enumerate(towards):
            for before, code in enumerate(codes):
                distance = distance + self._books.cross[before, level, code]
            codes.append(int(distance.argmin()))
        return tuple(codes)

    def _nearest_with_room(self, towards: Float64Array) -> Prefix:
        """Beams ascend by code, so that of equal distances the first one has the smaller codes."""
        keys, base = np.zeros(1, dtype=np.int64), np.zeros((1, 1))
        codes: list[Int64Array] = []
        for level, each in enumerate(towards):
            distance = base + each  # less the latent's square, which all share
            for before, code in enumerate(codes):
                distance += self._books.cross[before, level].take(code, axis=0)
            self._full.close(level, keys, distance)
            pick = _smallest(distance.ravel(), BEAMS if level + 1 < self._levels else 1)
            parent, last = pick // self._size, pick % self._size
            codes = [*(code[parent] for code in codes), last]
            keys, base = keys[parent] * self._size + last, distance.ravel()[pick, None]
        return tuple(int(code[0]) for code in codes)

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


class _Full:
    """Which codes have no room left behind a prefix: in the trie, or since.

    A prefix of c_1 … c_d is known by its *key*, the number that these digits write in base K.
    """

    def __init__(self, trie: Trie, levels: int, room: Callable[[int], int]) -> None:
        self._trie, self._size, self._levels = trie, trie.codebook_size, levels
        self._items, self._nodes = _by_node(trie, levels, room)
        self._nothing = np.zeros(self._size, dtype=np.bool_)
        self._masks: list[dict[int, BoolArray]] = [{} for _ in range(levels)]
        self._keys = [np.zeros(1, dtype=np.int64)]  # of the trie's nodes by depth, ascending
        for start, code in zip(trie.child_start[: levels - 1], trie.child_code, strict=False):
            parents = np.repeat(self._keys[-1], np.diff(start))
            self._keys.append(parents * self._size + code[: len(parents)])

    def items_below(self, prefix: Prefix, key: int) -> int:
        """Items that the trie has below a prefix."""
        depth = len(prefix)
        if depth == self._levels:
            return len(self._trie.leaves_below(prefix))
        node = self._node(depth, key)
        return 0 if node is None else int(self._items[depth][node])

    def has(self, codes: Prefix) -> bool:
        """Whether a whole tuple has no room."""
        key = 0
        for code in codes[:-1]:
            key = key * self._size + code
        return bool(self._read(self._levels - 1, [key])[0][codes[-1]])

    def add(self, level: int, key: int, code: int) -> None:
        """From now on a code has no room behind a prefix."""
        mask = self._read(level, [key])[0]
        if mask is self._nothing:
            mask = self._masks[level][key] = mask.copy()
        mask[code] = True

    def close(self, level: int, keys: Int64Array, distance: Float64Array) -> None:
        """Put codes without room behind these prefixes ``[beams]`` infinitely far, in ``[beams, K]``."""
        if self._nodes[level] is not None or self._masks[level]:
            np.putmask(distance, np.array(self._read(level, keys.tolist())), np.inf)

    def _read(self, level: int, keys: list[int]) -> list[BoolArray]:
        known = self._masks[level]
        full = self._nodes[level]
        if full is None:
            return [known.get(key, self._nothing) for key in keys]
        for key in keys:
            if key not in known:
                mask, node = self._nothing.copy(), self._node(level, key)
                if node is not None:
                    start = self._trie.child_start[level]
                    below = slice(int(start[node]), int(start[node + 1]))
                    mask[self._trie.child_code[level][below][full[below]]] = True
                known[key] = mask
        return [known[key] for key in keys]

    def _node(self, depth: int, key: int) -> int | None:
        """The trie's node at a key, numbered within its depth; ``None`` if it has none."""
        keys = self._keys[depth]
        node = int(keys.searchsorted(key))
        return node if node < len(keys) and keys[node] == key else None


def _by_node(
    trie: Trie, levels: int, room: Callable[[int], int]
) -> tuple[list[npt.NDArray[np.integer]], list[BoolArray | None]]:
    """How many items the trie's nodes have below them, by depth from 0 on to above the leaves; and which nodes at depth
    1 … levels have no room, ``None`` where all have.
    """
    begins = trie.child_start[-1]  # the leaf at which each node begins
    items: list[npt.NDArray[np.integer]] = []
    found: list[BoolArray | None] = []
    if levels == trie.levels:  # a leaf is an item, and takes all the room of its tuple
        found.append(np.ones(trie.items, dtype=np.bool_))
    for depth in range(trie.levels - 1, 0, -1):
        items.append(np.diff(begins))
        full = items[-1] >= room(depth)
        found.append(full if full.any() else None)
        begins = begins[trie.child_start[depth - 1]]
    return [np.diff(begins), *items[::-1]], found[::-1]


def _smallest(values: Float64Array, count: int) -> Int64Array:
    """Places of the smallest finite values, ascending by place; of equal ones the first."""
    if count == 1:
        return np.array([values.argmin()])
    groups = len(values) // _GROUP
    if groups < count:
        return _by_partition(values, count)
    # The count-th of the groups' least values is no smaller than the count-th of all values: what is above it need not
    # be sorted, nor looked at again.
    least = values[: groups * _GROUP].reshape(_GROUP, groups).min(axis=0)
    near = np.flatnonzero(values <= np.partition(least, count - 1)[count - 1])
    return near[_by_partition(values[near], count)]


def _by_partition(values: Float64Array, count: int) -> Int64Array:
    count = min(count, len(values))
    limit = np.partition(values, count - 1)[count - 1]
    near = np.flatnonzero(values <= limit if limit < np.inf else values < np.inf)
    return near if len(near) <= count else np.sort(near[np.argsort(values[near], kind="stable")[:count]])
