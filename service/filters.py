"""Filters of requests, compiled into masks over the trie that the search obeys.

    Filter, JSON of a request  ->  RuleKey, hashable  ->  RuleCompiler  ->  CompiledRule.mask  ->  SearchRequest.rule

Many requests share their categories, attribute ranges and allow lists, so a compiled rule is kept for the next one.
Seen and denied items differ from request to request: they become excluded rows of the search instead. Unknown
categories and ids are not errors, because a catalogue changes faster than its clients: an unknown allowed id simply
allows nothing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model_store.catalogue.catalogue import Catalogue
from model_store.semantic_ids.trie import RuleMask
from service.schemas.recommend import AttributeRange, Filter


@dataclass(frozen=True)
class RuleKey:
    """The part of a filter that requests can share, by which compiled rules are found; ``None`` restricts nothing."""

    categories: frozenset[str] | None = None
    allow: frozenset[str] | None = None
    categories_all: frozenset[str] = frozenset()
    attributes: frozenset[AttributeRange] = frozenset()

    @classmethod
    def of(cls, filter_: Filter | None) -> RuleKey:
        """Return the key of a request's filter. Denied items are not part of it."""
        if filter_ is None:
            return cls()

        return cls(
            None if filter_.categories is None else frozenset(filter_.categories),
            None if filter_.allow is None else frozenset(filter_.allow),
            frozenset(filter_.categories_all or ()),
            frozenset(filter_.attributes or ()),
        )

    @property
    def name_count(self) -> int:
        """Number of categories, items and attributes that it names."""
        parts = (self.categories, self.allow, self.categories_all, self.attributes)
        return sum(len(part) for part in parts if part is not None)


@dataclass(frozen=True, eq=False)
class CompiledRule:
    """A rule compiled for one catalogue. Hidden items are never open."""

    open_rows: npt.NDArray[np.bool_]  # [items]
    mask: RuleMask
    is_empty: bool  # no item is open


class RuleCompiler:
    """Compiles rules for one catalogue and keeps the most recently used ones. Thread-safe.

    Args:
        catalogue: Items that the rules choose from.
        entries: Compiled rules kept at most.
    """

    def __init__(self, catalogue: Catalogue, entries: int) -> None:
        self._catalogue = catalogue
        self._entries = entries
        self._lock = threading.Lock()
        self._compiled: OrderedDict[RuleKey, CompiledRule] = OrderedDict()
        self.everything = self._to_rule(~catalogue.is_hidden)
        """The rule of requests without a filter: every visible item is open."""

    def find(self, key: RuleKey) -> CompiledRule | None:
        """Return the rule if it is compiled already. Cheap enough for the event loop."""
        if key == RuleKey():
            return self.everything

        with self._lock:
            rule = self._compiled.get(key)
            if rule is not None:
                self._compiled.move_to_end(key)
            return rule

    def compile(self, key: RuleKey) -> CompiledRule:
        """Compile a rule and keep it. Takes milliseconds on large catalogues: not for the event loop."""
        rule = self._to_rule(self._open_rows(key))

        with self._lock:
            self._compiled[key] = rule
            while len(self._compiled) > self._entries:
                self._compiled.popitem(last=False)
        return rule

    def _open_rows(self, key: RuleKey) -> npt.NDArray[np.bool_]:
        """Return a mask ``[items]`` of the visible items that pass every part of the filter."""
        catalogue = self._catalogue
        is_open = ~catalogue.is_hidden

        if key.categories is not None:
            is_open &= self._to_mask(catalogue.rows_of_categories(key.categories))
        for name in key.categories_all:
            is_open &= self._to_mask(catalogue.rows_of_categories([name]))
        for bounds in key.attributes:
            is_open &= _is_inside(catalogue.numbers(bounds.field), bounds)
        if key.allow is not None:
            is_open &= self._to_mask(catalogue.rows(list(key.allow)))

        return is_open

    def _to_rule(self, open_rows: npt.NDArray[np.bool_]) -> CompiledRule:
        trie = self._catalogue.trie
        mask = trie.everything if open_rows.all() else trie.mask(open_rows)
        return CompiledRule(open_rows, mask, is_empty=not open_rows.any())

    def _to_mask(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        mask = np.zeros(len(self._catalogue), dtype=np.bool_)
        mask[rows] = True
        return mask


def _is_inside(numbers: npt.NDArray[np.float64], bounds: AttributeRange) -> npt.NDArray[np.bool_]:
    """Return a mask of the numbers that keep all bounds. NaN stands for an item without a number and never passes."""
    inside = ~np.isnan(numbers)
    comparisons = (
        (np.greater_equal, bounds.gte),
        (np.greater, bounds.gt),
        (np.less_equal, bounds.lte),
        (np.less, bounds.lt),
    )

    for compare, limit in comparisons:
        if limit is not None:
            inside &= compare(numbers, limit)
    return inside
