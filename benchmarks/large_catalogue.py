"""Generated catalogues of any size: skewed 256-way codes with collisions resolved, ids of 12 bytes, no titles."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.columns import PackedAttributes, PackedCategories
from model_store.catalogue.packed import PackedStrings
from model_store.catalogue.ragged import Ragged

CODEBOOK_SIZE = 256
LEVELS = 3
CATEGORIES = 300
SKEW = 2.0
"""Exponent that makes codes skewed: a code's rank is ``K * u ** SKEW`` rounded down, with u uniform in [0, 1)."""


def large_catalogue(items: int, seed: int = 0) -> Catalogue:
    """Return a catalogue with everything but titles, and with one attribute; made in columns, not item by item."""
    rng = np.random.default_rng(seed)
    number = pc.utf8_lpad(pa.array(rng.permutation(items)).cast(pa.string()), 11, "0")
    year = pa.array(rng.integers(1950, 2026, items)).cast(pa.string())
    attributes = pc.binary_join_element_wise('{"year": ', year, "}", "")

    return Catalogue(
        codebook_size=CODEBOOK_SIZE,
        item_ids=PackedStrings.from_arrow(pc.binary_join_element_wise("B", number, "")),
        codes=skewed_codes(rng, items),
        titles=PackedStrings(Ragged.of_lengths(np.empty(0, dtype=np.uint8), np.zeros(items, dtype=np.int64))),
        categories=_categories(rng, items),
        attributes=PackedAttributes(PackedStrings.from_arrow(attributes)),
        popularity=np.minimum(rng.zipf(1.3, items), 1_000_000),
    )


def skewed_codes(rng: np.random.Generator, items: int) -> npt.NDArray[np.int16]:
    """Return distinct semantic IDs ``[items, L]``.

    Every prefix has its own popular codes; a collision takes the next free ID.

    Raises:
        ValueError: There are more items than semantic IDs.
    """
    room = CODEBOOK_SIZE**LEVELS
    if items > room:
        raise ValueError(f"{items} items do not fit into {room} semantic IDs")

    wanted = np.zeros(items, dtype=np.int64)
    for _ in range(LEVELS):
        rank = (CODEBOOK_SIZE * rng.random(items) ** SKEW).astype(np.int64)
        code = (rank * 167 + wanted * 91) % CODEBOOK_SIZE  # 167 is odd: every prefix shuffles the ranks its own way
        wanted = wanted * CODEBOOK_SIZE + code
    wanted.sort()

    places = np.arange(items) + np.maximum.accumulate(wanted - np.arange(items))  # the next free one, in order
    beyond = int((places >= room).sum())
    is_free = np.ones(room, dtype=np.bool_)
    is_free[places[: items - beyond]] = False
    places[items - beyond :] = np.flatnonzero(is_free)[:beyond]

    rng.shuffle(places)
    levels = [(places // CODEBOOK_SIZE ** (LEVELS - 1 - level)) % CODEBOOK_SIZE for level in range(LEVELS)]
    return np.stack(levels, axis=1).astype(np.int16)


def _categories(rng: np.random.Generator, items: int) -> PackedCategories:
    """Draw one to three names for each item, some far more common than others."""
    lengths = rng.integers(1, 4, items)
    first = (CATEGORIES * rng.random(items) ** SKEW).astype(np.int64)
    place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    numbers = (np.repeat(first, lengths) + place * 7) % CATEGORIES  # distinct within an item
    names = PackedStrings.of([f"category {number}" for number in range(CATEGORIES)])
    return PackedCategories(Ragged.of_lengths(numbers.astype(np.uint16), lengths), names)
