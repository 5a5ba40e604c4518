"""The placement of new items: the nearest free code tuple for each, given what the catalogue holds.

It is the service's counterpart of ``training/tokenizer/collisions.py``, one item at a time and in NumPy. As there, the
policy ``reassign`` gives a tuple to one item only; ``token`` gives it to as many items as a level has codes, and a last
code tells them apart. The result depends on the latent, the catalogue and the items placed before, and on nothing else:
replicas that place the same items in the same order hold the same codes.

A tuple t stands for the sum of its codebook vectors b_l[t_l]. The residual of a latent r after a prefix is
r - sum_l b_l[t_l], so the squared distance from it to the next vector b is

    |residual - b|^2 = |residual|^2 + (|b|^2 - 2 r . b) + sum_l 2 b_l[t_l] . b

The products of the latent with all vectors are computed once an item, those of vectors with vectors once a model.
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
"""Prefixes that the search for a free tuple follows at each level; each of them has room."""

_GROUP = 64
"""Size of the groups of values that :func:`_find_smallest` compares by their minimum."""

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Prefix = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Codebooks:
    """A tokenizer's codebook vectors and their products with each other.

    Attributes:
        flat: All vectors, ``[levels * K, d_c]``.
        squares: Squared lengths, ``[levels, K]``.
        cross: ``cross[i, j, a, b]`` is twice the product of vector a of level i and vector b of level j,
            ``[levels, levels, K, K]``.
    """

    flat: Float64Array
    squares: Float64Array
    cross: Float64Array

    @classmethod
    def of(cls, codes: npt.NDArray[np.floating]) -> Self:
        """Compute the products of codebook vectors ``[levels, K, d_c]``; takes milliseconds."""
        levels, size, width = codes.shape
        flat = np.ascontiguousarray(codes, dtype=np.float64).reshape(levels * size, width)
        squares = np.square(flat).sum(axis=1).reshape(levels, size)
        cross = 2 * (flat @ flat.T).reshape(levels, size, levels, size).transpose(0, 2, 1, 3)
        return cls(flat, squares, np.ascontiguousarray(cross))

    def distances_to(self, latent: npt.NDArray[np.floating]) -> Float64Array:
        """Return |b|^2 - 2 r . b for all vectors b and a latent r ``[d_c]``: ``[levels, K]``.

        That is the squared distance less |r|^2, which all vectors share. The method takes one latent at a time, because
        a matrix-matrix product rounds differently from a matrix-vector product, and the grouping of items must not
        change their codes.
        """
        products = (self.flat @ latent.astype(np.float64)).reshape(self.squares.shape)
        return np.asarray(self.squares - 2 * products)


class Placement:
    """The assignment of code tuples in one catalogue, item after item. Each item takes room from those after it.

    Cheap to create. Not thread-safe.

    Args:
        catalogue: The catalogue that the items join; its hidden items keep their tuples.
        codebooks: The tokenizer's.
        policy: The model's ``collisions``.
    """

    def __init__(self, catalogue: Catalogue, codebooks: Codebooks, policy: Literal["reassign", "token"]) -> None:
        self._catalogue = catalogue
        self._trie = catalogue.trie
        self._policy = policy
        self._codebooks = codebooks
        self._levels, self._size = codebooks.squares.shape
        self._capacity = 1 if policy == "reassign" else self._size  # items of one tuple

        self._total = len(catalogue)
        self._left: list[dict[int, int]] = [{} for _ in range(self._levels + 1)]  # by depth and key, where known
        self._last_codes: dict[Prefix, set[int]] = {}  # of the tuples that got an item here
        self._full = _FullCodes(catalogue.trie, self._levels, self._room)

    def place(self, latent: npt.NDArray[np.floating]) -> npt.NDArray[np.int16]:
        """Choose the codes of an item and reserve them.

        The tokenizer's own choice, level by level, is taken if it has room. Otherwise a beam search over prefixes with
        room finds the nearest tuple with room. Ties go to the smaller code.

        Args:
            latent: r of the tokenizer, ``[d_c]``.

        Returns:
            The semantic ID ``[L]``, with the last code of the policy ``token``.

        Raises:
            CatalogueFull: No tuple has room.
        """
        if self._total >= self._room(0):
            raise CatalogueFull(
                f"the catalogue holds {self._total:,} items, as many as {self._levels} levels of {self._size} codes "
                "have room for",
                "train a model with a larger model.tokenizer.codebook_size or more levels",
            )

        distances = self._codebooks.distances_to(latent)
        codes = self._quantise(distances)
        if self._full.is_full(codes):
            codes = self._find_nearest_with_room(distances)
        self._reserve(codes)

        if self._policy == "token":
            codes = (*codes, self._take_last_code(codes))
        return np.array(codes, dtype=np.int16)

    def _room(self, depth: int) -> int:
        """Return how many items fit below a prefix of ``depth`` codes."""
        room: int = self._size ** (self._levels - depth) * self._capacity
        return room

    def _reserve(self, codes: Prefix) -> None:
        """Take one item's room from every prefix of a tuple, and mark those that have none left as full."""
        self._total += 1
        key = 0
        for level, code in enumerate(codes):
            depth = level + 1
            parent_key = key
            key = key * self._size + code

            left = self._left[depth].get(key)
            if left is None:
                left = self._room(depth) - self._full.count_items(codes[:depth], key)
            self._left[depth][key] = left - 1
            if left == 1:
                self._full.mark_full(level, parent_key, code)

    def _quantise(self, distances: Float64Array) -> Prefix:
        """Return the nearest code of each level, as residual quantisation chooses it, full or not."""
        codes: list[int] = []
        for level, distance in enumerate(distances):
            for before, code in enumerate(codes):
                distance = distance + self._codebooks.cross[before, level, code]
            codes.append(int(distance.argmin()))
        return tuple(codes)

    def _find_nearest_with_room(self, distances: Float64Array) -> Prefix:
        """Search the nearest tuple with room by beams, which stay in ascending order of codes.

        Because of that order, the first of several equal distances has the smallest codes.
        """
        keys = np.zeros(1, dtype=np.int64)  # prefix of each beam
        base = np.zeros((1, 1))  # distance of each beam so far
        codes: list[Int64Array] = []  # by level, code of each beam
        for level, level_distances in enumerate(distances):
            distance = base + level_distances  # [beams, K]
            for before, code in enumerate(codes):
                distance += self._codebooks.cross[before, level].take(code, axis=0)
            self._full.exclude_full(level, keys, distance)

            is_last = level + 1 == self._levels
            picked = _find_smallest(distance.ravel(), 1 if is_last else BEAMS)
            parent = picked // self._size
            code = picked % self._size

            codes = [*(earlier[parent] for earlier in codes), code]
            keys = keys[parent] * self._size + code
            base = distance.ravel()[picked, None]
        return tuple(int(code[0]) for code in codes)

    def _take_last_code(self, codes: Prefix) -> int:
        """Reserve the smallest last code that no item of this tuple has, and return it."""
        if codes not in self._last_codes:
            leaves = self._trie.leaves_below(codes)
            rows = self._trie.leaf_item[leaves.start : leaves.stop]
            self._last_codes[codes] = set(self._catalogue.codes[rows, -1].tolist())

        used = self._last_codes[codes]
        free = next(code for code in range(self._size) if code not in used)
        used.add(free)
        return free


class _FullCodes:
    """The codes without room after each prefix: those full in the trie, and those that filled up since.

    The *key* of a prefix c_1 … c_d is the number that these digits write in base K.
    """

    def __init__(self, trie: Trie, levels: int, room: Callable[[int], int]) -> None:
        self._trie = trie
        self._size = trie.codebook_size
        self._levels = levels
        self._items, self._is_full_node = _count_by_node(trie, levels, room)
        self._nothing = np.zeros(self._size, dtype=np.bool_)
        self._masks: list[dict[int, BoolArray]] = [{} for _ in range(levels)]  # by level and key: codes without room

        self._keys = [np.zeros(1, dtype=np.int64)]  # of the trie's nodes by depth, ascending
        for start, code in zip(trie.child_start[: levels - 1], trie.child_code, strict=False):
            parents = np.repeat(self._keys[-1], np.diff(start))
            self._keys.append(parents * self._size + code[: len(parents)])

    def count_items(self, prefix: Prefix, key: int) -> int:
        """Return the number of items that the trie has below a prefix."""
        depth = len(prefix)
        if depth == self._levels:
            return len(self._trie.leaves_below(prefix))
        node = self._find_node(depth, key)
        return 0 if node is None else int(self._items[depth][node])

    def is_full(self, codes: Prefix) -> bool:
        """Return whether a whole tuple has no room."""
        key = 0
        for code in codes[:-1]:
            key = key * self._size + code
        [mask] = self._load_masks(self._levels - 1, [key])
        return bool(mask[codes[-1]])

    def mark_full(self, level: int, key: int, code: int) -> None:
        """Record that a code has no room after a prefix from now on."""
        [mask] = self._load_masks(level, [key])
        if mask is self._nothing:
            mask = self._masks[level][key] = mask.copy()
        mask[code] = True

    def exclude_full(self, level: int, keys: Int64Array, distance: Float64Array) -> None:
        """Set the distances ``[beams, K]`` of codes without room after these prefixes ``[beams]`` to infinity."""
        if self._is_full_node[level] is not None or self._masks[level]:
            np.putmask(distance, np.array(self._load_masks(level, keys.tolist())), np.inf)

    def _load_masks(self, level: int, keys: list[int]) -> list[BoolArray]:
        """Return the codes without room after each prefix, ``[K]`` each; those read off the trie are kept."""
        known = self._masks[level]
        is_full_node = self._is_full_node[level]
        if is_full_node is None:
            return [known.get(key, self._nothing) for key in keys]

        for key in keys:
            if key not in known:
                known[key] = self._read_mask(level, key, is_full_node)
        return [known[key] for key in keys]

    def _read_mask(self, level: int, key: int, is_full_node: BoolArray) -> BoolArray:
        """Read the codes that are full in the trie after one prefix."""
        mask = self._nothing.copy()
        node = self._find_node(level, key)
        if node is not None:
            start = self._trie.child_start[level]
            children = slice(int(start[node]), int(start[node + 1]))
            mask[self._trie.child_code[level][children][is_full_node[children]]] = True
        return mask

    def _find_node(self, depth: int, key: int) -> int | None:
        """Return the trie's node at a key, numbered within its depth; ``None`` if the trie has none."""
        keys = self._keys[depth]
        node = int(keys.searchsorted(key))
        return node if node < len(keys) and keys[node] == key else None


def _count_by_node(
    trie: Trie, levels: int, room: Callable[[int], int]
) -> tuple[list[npt.NDArray[np.integer]], list[BoolArray | None]]:
    """Count the items below every node of the trie, and find the nodes without room.

    Returns:
        Items below each node, by depth from the root to the level above the leaves; and whether each node of depths
        1 … levels is full, ``None`` for a depth without full nodes.
    """
    first_leaf = trie.child_start[-1]  # where the leaves of each node begin
    items: list[npt.NDArray[np.integer]] = []
    is_full: list[BoolArray | None] = []
    if levels == trie.levels:  # a leaf is an item, and takes all the room of its tuple
        is_full.append(np.broadcast_to(np.True_, trie.items))

    for depth in range(trie.levels - 1, 0, -1):
        items.append(np.diff(first_leaf))
        full = items[-1] >= room(depth)
        is_full.append(full if full.any() else None)
        first_leaf = first_leaf[trie.child_start[depth - 1]]
    return [np.diff(first_leaf), *items[::-1]], is_full[::-1]


def _find_smallest(values: Float64Array, count: int) -> Int64Array:
    """Return the positions of the smallest finite values, in ascending order of position; ties go to the first."""
    if count == 1:
        return np.array([values.argmin()])
    groups = len(values) // _GROUP
    if groups < count:
        return _find_smallest_by_partition(values, count)

    # At least `count` values are as small as the count-th smallest group minimum. Larger values cannot be among the
    # smallest, so only the others are sorted.
    minima = values[: groups * _GROUP].reshape(_GROUP, groups).min(axis=0)
    near = np.flatnonzero(values <= np.partition(minima, count - 1)[count - 1])
    return near[_find_smallest_by_partition(values[near], count)]


def _find_smallest_by_partition(values: Float64Array, count: int) -> Int64Array:
    """Do the work of :func:`_find_smallest` on few values."""
    count = min(count, len(values))
    limit = np.partition(values, count - 1)[count - 1]
    near = np.flatnonzero(values <= limit if limit < np.inf else values < np.inf)
    if len(near) <= count:
        return near
    return np.sort(near[np.argsort(values[near], kind="stable")[:count]])
