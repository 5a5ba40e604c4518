"""Groups of items whose semantic IDs share a prefix of codes, and the traits that those items share."""

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
"""Items on which shares are measured at most, in a group and in the catalogue; a larger set is sampled evenly."""

CATEGORY = "category"
"""Field name under which categories appear among the traits."""

_TRAITS = 10  # listed at most
_LONGEST_VALUE = 64  # characters; longer text is a description, which hardly any two items share


class Trait(NamedTuple):
    """A category or attribute value, and how much more frequent it is in a group than in the catalogue."""

    field: str
    value: str
    share: float  # of the group's items
    catalogue_share: float

    @property
    def lift(self) -> float:
        """Ratio of both shares: 3 means three times as frequent as in the catalogue."""
        return self.share / self.catalogue_share


class NextCode(NamedTuple):
    """A code that follows a prefix, and the visible items below it."""

    code: int
    items: int
    popularity: int  # training interactions of the items together
    category: str | None  # the most frequent one among the items that were measured; None: they have none


@dataclass(frozen=True)
class CodeGroup:
    """Visible items below a prefix."""

    rows: npt.NDArray[np.int64]  # [n], most popular first
    next_codes: Sequence[NextCode]  # ascending; none is empty
    traits: Sequence[Trait]  # most characteristic first
    sample: int  # items that shares were measured on


class CodeGroups:
    """Finds the groups of one catalogue after another; the newest catalogue's value counts are cached.

    Thread-safe: at worst two threads count the same catalogue.
    """

    def __init__(self) -> None:
        self._cached: tuple[ref[Catalogue], _Profile] | None = None

    def below(self, catalogue: Catalogue, prefix: Sequence[int]) -> CodeGroup | None:
        """Return the group of a prefix of 0 to L codes; ``None`` where the trie has no such node.

        Takes tens of milliseconds on large catalogues: not for the event loop.
        """
        trie = catalogue.trie
        leaves = trie.leaves_below(prefix)
        if not leaves:
            return None

        rows = trie.leaf_item[leaves.start : leaves.stop].astype(np.int64)
        rows = rows[~catalogue.is_hidden[rows]]
        rows = rows[np.argsort(-catalogue.popularity[rows], kind="stable")]

        sample = _sample(rows)
        traits = _traits(_count_values(catalogue, sample), len(sample), self._profile(catalogue))
        return CodeGroup(rows, _next_codes(catalogue, rows, sample, len(prefix)), traits, len(sample))

    def _profile(self, catalogue: Catalogue) -> _Profile:
        cached = self._cached
        if cached is not None and cached[0]() is catalogue:
            return cached[1]

        sample = _sample(np.flatnonzero(~catalogue.is_hidden))
        profile = _Profile(_count_values(catalogue, sample), len(sample))
        self._cached = (ref(catalogue), profile)
        return profile


class _Profile(NamedTuple):
    """Frequencies of values in a sample of the catalogue."""

    counts: Counter[tuple[str, str]]  # by field and value
    items: int


def _sample(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    if len(rows) <= SAMPLE:
        return rows
    return rows[np.linspace(0, len(rows) - 1, SAMPLE).astype(np.int64)]


def _next_codes(
    catalogue: Catalogue, rows: npt.NDArray[np.int64], sample: npt.NDArray[np.int64], depth: int
) -> list[NextCode]:
    """Return the codes that follow a prefix of ``depth`` codes; their categories are counted in the sample."""
    if depth == catalogue.trie.levels:
        return []

    codes, place_of, counts = np.unique(catalogue.codes[rows, depth], return_inverse=True, return_counts=True)
    popularity = np.bincount(place_of, weights=catalogue.popularity[rows], minlength=len(codes)).astype(np.int64)
    category_of = _main_categories(catalogue, sample, depth)
    return [
        NextCode(code, items, popular, category_of.get(code))
        for code, items, popular in zip(codes.tolist(), counts.tolist(), popularity.tolist(), strict=True)
    ]


def _main_categories(catalogue: Catalogue, rows: npt.NDArray[np.int64], depth: int) -> dict[int, str]:
    """Return the most frequent category of the rows with each code at a depth, ties by name."""
    counts: dict[int, Counter[str]] = {}
    for row, code in zip(rows.tolist(), catalogue.codes[rows, depth].tolist(), strict=True):
        counts.setdefault(code, Counter()).update(catalogue.categories[row])
    return {code: min(found, key=lambda name: (-found[name], name)) for code, found in counts.items() if found}


def _count_values(catalogue: Catalogue, rows: npt.NDArray[np.int64]) -> Counter[tuple[str, str]]:
    """Count the rows in which each field has each value."""
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows.tolist():
        found = {(CATEGORY, name) for name in catalogue.categories[row]}
        for field, value in catalogue.attributes[row].items():
            found.update((field, text) for text in _plain_values(value))
        counts.update(found)
    return counts


def _plain_values(value: object) -> list[str]:
    """Return a plain value, or the plain values of a list, as short text."""
    values = value if isinstance(value, list) else [value]
    texts = [str(each) for each in values if isinstance(each, str | int | float)]
    return [text for text in texts if 0 < len(text) <= _LONGEST_VALUE]


def _traits(counts: Counter[tuple[str, str]], items: int, profile: _Profile) -> list[Trait]:
    """Return values of at least two items that are more frequent than in the catalogue, by share x log(lift)."""
    found = []
    for (field, value), count in counts.items():
        in_catalogue = max(profile.counts[field, value], 1)  # a sample of a large catalogue may lack a rare value
        trait = Trait(field, value, count / items, in_catalogue / profile.items)
        if count > 1 and trait.lift > 1:
            found.append(trait)

    found.sort(key=lambda trait: (-trait.share * log(trait.lift), trait.field, trait.value))
    return found[:_TRAITS]
