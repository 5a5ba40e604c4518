"""What lies below a prefix of codes, and what those items have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import NamedTuple
from weakref import ref

import numpy as np
import numpy.typing as npt

from model_store.catalogue.catalogue import Catalogue

SAMPLE = 10_000
"""Items that shares are measured on at most, in a group and in the catalogue; beyond, evenly spaced ones."""

CATEGORY = "category"
"""Name under which categories appear among the fields."""

_TRAITS = 10  # told at most
_LONGEST_VALUE = 64  # characters; longer text is a description, which no two items share


class Trait(NamedTuple):
    """A category or attribute value, and how much more frequent it is in a group than in the catalogue."""

    field: str
    value: str
    share: float  # of the group's items
    catalogue_share: float

    @property
    def lift(self) -> float:
        """How many times as frequent as in the catalogue."""
        return self.share / self.catalogue_share


@dataclass(frozen=True)
class CodeGroup:
    """Visible items below a prefix."""

    rows: npt.NDArray[np.int64]  # [n], most popular first
    next_codes: Sequence[tuple[int, int]]  # code and how many visible items are below it; ascending, none empty
    traits: Sequence[Trait]  # most telling first
    sample: int  # items that shares were measured on


class CodeGroups:
    """Answers for one catalogue after another; what it needs to know of the newest one is counted once.

    Thread-safe: at worst two threads count the same.
    """

    def __init__(self) -> None:
        self._known: tuple[ref[Catalogue], _Profile] | None = None

    def below(self, catalogue: Catalogue, prefix: Sequence[int]) -> CodeGroup | None:
        """The group of a prefix of 1 to L codes; ``None`` where the trie has no such node. Not for the event loop."""
        trie = catalogue.trie
        leaves = trie.leaves_below(prefix)
        if not leaves:
            return None
        rows = trie.leaf_item[leaves.start : leaves.stop].astype(np.int64)
        rows = rows[~catalogue.is_hidden[rows]]
        rows = rows[np.argsort(-catalogue.popularity[rows], kind="stable")]
        sample = _spaced(rows)
        traits = _traits(_count(catalogue, sample), len(sample), self._profile(catalogue))
        return CodeGroup(rows, _next_codes(catalogue, rows, len(prefix)), traits, len(sample))

    def _profile(self, catalogue: Catalogue) -> _Profile:
        known = self._known
        if known is not None and known[0]() is catalogue:
            return known[1]
        sample = _spaced(np.flatnonzero(~catalogue.is_hidden))
        profile = _Profile(_count(catalogue, sample), len(sample))
        self._known = ref(catalogue), profile
        return profile


class _Profile(NamedTuple):
    counts: Counter[tuple[str, str]]  # by field and value
    items: int


def _spaced(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    if len(rows) <= SAMPLE:
        return rows
    return rows[np.linspace(0, len(rows) - 1, SAMPLE).astype(np.int64)]


def _next_codes(catalogue: Catalogue, rows: npt.NDArray[np.int64], depth: int) -> list[tuple[int, int]]:
    if depth == catalogue.trie.levels:
        return []
    codes, counts = np.unique(catalogue.codes[rows, depth], return_counts=True)
    return list(zip(codes.tolist(), counts.tolist(), strict=True))


def _count(catalogue: Catalogue, rows: npt.NDArray[np.int64]) -> Counter[tuple[str, str]]:
    """In how many of the rows each field has each value."""
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows.tolist():
        found = {(CATEGORY, name) for name in catalogue.categories[row]}
        for field, value in catalogue.attributes[row].items():
            found.update((field, text) for text in _values(value))
        counts.update(found)
    return counts


def _values(value: object) -> list[str]:
    """A plain value, or the plain values of a list, as short text."""
    each = value if isinstance(value, list) else [value]
    texts = [str(one) for one in each if isinstance(one, str | int | float)]
    return [text for text in texts if 0 < len(text) <= _LONGEST_VALUE]


def _traits(counts: Counter[tuple[str, str]], items: int, catalogue: _Profile) -> list[Trait]:
    """Values of at least two items that are more frequent than in the catalogue, by share x log(lift)."""
    found = []
    for (field, value), count in counts.items():
        known = max(catalogue.counts[field, value], 1)  # a sample of a large catalogue may lack a rare value
        trait = Trait(field, value, count / items, known / catalogue.items)
        if count > 1 and trait.lift > 1:
            found.append(trait)
    found.sort(key=lambda trait: (-trait.share * log(trait.lift), trait.field, trait.value))
    return found[:_TRAITS]
