"""Where a new item goes: the nearest code tuple with room, next to what the catalogue holds already.

The service's counterpart of ``training/collisions.py``, one item at a time and in NumPy. As there, ``reassign`` lets
one item have a tuple and ``token`` as many as there are codes, told apart by a last code. The result follows from
latent, catalogue and what was placed before, and from nothing else: replicas that place alike hold the same codes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt

from model_store.catalogue import Catalogue
from model_store.errors import CatalogueFull

BEAMS = 32
"""Prefixes that are followed at each level when an item's first choice is taken; each of them has room."""

_LOOKED_AT = 64
"""Candidates that are put in order first: nearly always one of them will do."""

Float64Array = npt.NDArray[np.float64]
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
        self._catalogue, self._policy = catalogue, policy
        self._codebooks = codebooks.astype(np.float64, copy=False)
        self._squares = np.square(self._codebooks).sum(axis=2)
        self._levels, self._size, _ = codebooks.shape
        self._capacity = 1 if policy == "reassign" else self._size
        self._placed: Counter[Prefix] = Counter()  # items placed here, below each prefix
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
        if not self._has_room(()):
            raise CatalogueFull(
                f"the catalogue holds {self._count(()):,} items, as many as {self._levels} levels of {self._size} "
                "codes have room for",
                "train a model with a larger model.tokenizer.codebook_size or more levels",
            )
        found = self._own_choice(latent)
        if not self._has_room(found):
            found = self._nearest_with_room(latent)
        for depth in range(self._levels + 1):
            self._placed[found[:depth]] += 1
        codes = found if self._policy == "reassign" else (*found, self._last_code(found))
        return np.array(codes, dtype=np.int16)

    def _own_choice(self, latent: npt.NDArray[np.floating]) -> Prefix:
        """Residual quantisation, the nearest code of each level."""
        residual, codes = latent.astype(np.float64), []
        for book, squares in zip(self._codebooks, self._squares, strict=True):
            code = int(np.argmin(squares - 2 * (book @ residual)))
            residual = residual - book[code]
            codes.append(code)
        return tuple(codes)

    def _nearest_with_room(self, latent: npt.NDArray[np.floating]) -> Prefix:
        prefixes: list[Prefix] = [()]
        residuals: Float64Array = latent.astype(np.float64)[None]
        for level, (book, squares) in enumerate(zip(self._codebooks, self._squares, strict=True)):
            distance = np.square(residuals).sum(axis=1)[:, None] - 2 * (residuals @ book.T) + squares
            width = BEAMS if level + 1 < self._levels else 1
            kept: list[tuple[Prefix, Float64Array]] = []
            for place in _ascending(distance.ravel()):
                parent, code = divmod(place, self._size)
                prefix = (*prefixes[parent], code)
                if self._has_room(prefix):
                    kept.append((prefix, residuals[parent] - book[code]))
                if len(kept) == width:
                    break
            kept.sort(key=lambda each: each[0])  # so that ties of the next level go by codes
            prefixes, residuals = [prefix for prefix, _ in kept], np.stack([residual for _, residual in kept])
        return prefixes[0]

    def _has_room(self, prefix: Prefix) -> bool:
        room: int = self._size ** (self._levels - len(prefix)) * self._capacity
        # Most prefixes can be told from without a look: the whole catalogue would fit below them.
        return self._count(()) < room or self._count(prefix) < room

    def _count(self, prefix: Prefix) -> int:
        known = len(self._catalogue.trie.leaves_below(prefix)) if prefix else len(self._catalogue)
        return known + self._placed[prefix]

    def _last_code(self, codes: Prefix) -> int:
        """The smallest last code that no item of this tuple has."""
        if codes not in self._last_codes:
            leaves = self._catalogue.trie.leaves_below(codes)
            rows = self._catalogue.trie.leaf_item[leaves.start : leaves.stop]
            self._last_codes[codes] = set(self._catalogue.codes[rows, -1].tolist())
        used = self._last_codes[codes]
        free = next(code for code in range(self._size) if code not in used)
        used.add(free)
        return free


def _ascending(values: Float64Array) -> Iterator[int]:
    """Places of all values, smallest first, equal ones by place; sorts only as far as it is read."""
    count = min(_LOOKED_AT, len(values))
    limit = np.partition(values, count - 1)[count - 1]
    first = np.flatnonzero(values <= limit)
    yield from first[np.argsort(values[first], kind="stable")].tolist()
    rest = np.flatnonzero(values > limit)
    yield from rest[np.argsort(values[rest], kind="stable")].tolist()
