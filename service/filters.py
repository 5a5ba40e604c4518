"""From the rules of a request to a mask over the trie.

What many requests share (categories, allow lists) becomes a compiled :class:`Rule`, cached; what is each request's
own (seen and denied items) becomes excluded rows. Unknown categories and ids are no error: a catalogue changes faster
than its clients, and an unknown allowed id simply allows nothing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model_store.catalogue.catalogue import Catalogue
from model_store.semantic_ids.trie import RuleMask
from service.schemas.recommend import AttributeRange, Filter


@dataclass(frozen=True)
class RuleKey:
    """What makes two rules the same; ``None`` restricts nothing."""

    categories: frozenset[str] | None = None
    allow: frozenset[str] | None = None
    categories_all: frozenset[str] = frozenset()
    attributes: frozenset[AttributeRange] = frozenset()

    @classmethod
    def of(cls, rules: Filter | None) -> RuleKey:
        """The shared part of a request's filter."""
        if rules is None:
            return cls()
        return cls(
            None if rules.categories is None else frozenset(rules.categories),
            None if rules.allow is None else frozenset(rules.allow),
            frozenset(rules.categories_all or ()),
            frozenset(rules.attributes or ()),
        )

    @property
    def names(self) -> int:
        """Categories, items and attributes that it names."""
        parts = (self.categories, self.allow, self.categories_all, self.attributes)
        return sum(len(part) for part in parts if part is not None)


@dataclass(frozen=True, eq=False)
class Rule:
    """A compiled rule of one catalogue. It never opens a hidden item."""

    open_rows: npt.NDArray[np.bool_]  # [items]
    mask: RuleMask
    is_empty: bool  # nothing is open


class Rules:
    """Compiled rules of one catalogue, the most recently used ones kept. Thread-safe."""

    def __init__(self, catalogue: Catalogue, entries: int) -> None:
        self._catalogue = catalogue
        self._entries = entries
        self._lock = threading.Lock()
        self._compiled: OrderedDict[RuleKey, Rule] = OrderedDict()
        self.everything = self._rule(~catalogue.is_hidden)

    def find(self, key: RuleKey) -> Rule | None:
        """The compiled rule if it is there already. Returns at once."""
        if key == RuleKey():
            return self.everything
        with self._lock:
            rule = self._compiled.get(key)
            if rule is not None:
                self._compiled.move_to_end(key)
            return rule

    def compile(self, key: RuleKey) -> Rule:
        """Compile and keep a rule. Takes milliseconds on large catalogues: not for the event loop."""
        open_rows = ~self._catalogue.is_hidden
        if key.categories is not None:
            open_rows &= self._only(self._catalogue.rows_of_categories(key.categories))
        for name in key.categories_all:
            open_rows &= self._only(self._catalogue.rows_of_categories([name]))
        for bounds in key.attributes:
            open_rows &= _inside(self._catalogue.numbers(bounds.field), bounds)
        if key.allow is not None:
            open_rows &= self._only(self.rows(key.allow))
        rule = self._rule(open_rows)
        with self._lock:
            self._compiled[key] = rule
            while len(self._compiled) > self._entries:
                self._compiled.popitem(last=False)
        return rule

    def rows(self, item_ids: Iterable[str]) -> npt.NDArray[np.int64]:
        """Rows of the known ones among these ids, in the given order."""
        return self._catalogue.rows(list(item_ids))

    def _rule(self, open_rows: npt.NDArray[np.bool_]) -> Rule:
        trie = self._catalogue.trie
        mask = trie.everything if open_rows.all() else trie.mask(open_rows)
        return Rule(open_rows, mask, is_empty=not open_rows.any())

    def _only(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        chosen = np.zeros(len(self._catalogue), dtype=np.bool_)
        chosen[rows] = True
        return chosen


def _inside(numbers: npt.NDArray[np.float64], bounds: AttributeRange) -> npt.NDArray[np.bool_]:
    """Which numbers lie inside; NaN, an item without one, never does."""
    inside = ~np.isnan(numbers)
    compared = (
        (np.greater_equal, bounds.gte),
        (np.greater, bounds.gt),
        (np.less_equal, bounds.lte),
        (np.less, bounds.lt),
    )
    for compare, limit in compared:
        if limit is not None:
            inside &= compare(numbers, limit)
    return inside
