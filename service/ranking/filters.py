"""Filters of requests, compiled into masks over the trie that the search obeys.

    Filter and viewed item  ->  RuleKey, hashable  ->  RuleCompiler  ->  CompiledRule.mask  ->  SearchRequest.rule

Many requests share their categories, attribute ranges and allow lists, so a compiled rule is kept for the next one.
Seen and denied items differ from request to request: they become excluded rows of the search instead. Unknown
categories and ids are not errors, because a catalogue changes faster than its clients: an unknown allowed id simply
allows nothing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.catalogue.catalogue import Catalogue
from model_store.semantic_ids.trie import RuleMask
from service.schemas.rules import Conditions, Filter, ViewedCategories, ViewedNumber


class NumberRange(NamedTuple):
    """Range of a numeric attribute, without values of a viewed item."""

    field: str
    gte: float | None
    gt: float | None
    lte: float | None
    lt: float | None

    @property
    def has_bound(self) -> bool:
        """True if it restricts anything."""
        return any(bound is not None for bound in self[1:])


@dataclass(frozen=True)
class RuleKey:
    """The part of a filter that requests can share, by which compiled rules are found; ``None`` restricts nothing."""

    categories: frozenset[str] | None = None
    allow: frozenset[str] | None = None
    categories_all: frozenset[str] = frozenset()
    attributes: frozenset[NumberRange] = frozenset()
    not_: RuleKey | None = None  # items that match all of this are left out

    @property
    def name_count(self) -> int:
        """Number of categories, items and attributes that it names."""
        parts = (self.categories, self.allow, self.categories_all, self.attributes)
        return sum(len(part) for part in parts if part is not None) + (self.not_.name_count if self.not_ else 0)


class ViewedItem(NamedTuple):
    """Values of the item that a user looks at, from which filters may take some."""

    categories: Sequence[str]
    attributes: Mapping[str, object]

    @classmethod
    def find(cls, catalogue: Catalogue, item_id: str | None) -> ViewedItem | None:
        """Return the values of an item; ``None`` if the catalogue lacks it."""
        row = None if item_id is None else catalogue.row(item_id)
        return None if row is None else cls(catalogue.categories[row], catalogue.attributes[row])

    def number(self, field: str) -> float | None:
        """Return a numeric attribute; ``None`` if the item has no number there."""
        value = self.attributes.get(field)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


class Rule(NamedTuple):
    """A filter with the values of the viewed item in their places.

    Attributes:
        key: What remains of it, without denied items.
        ignored: Paths of the parts that restrict nothing, because the viewed item has no value for them.
    """

    key: RuleKey
    ignored: Sequence[str] = ()


UNRESTRICTED = RuleKey()
"""Key of requests without a filter."""

_NO_RULE = Rule(UNRESTRICTED)


def read_filter(filter_: Filter | None, viewed: ViewedItem | None = None) -> Rule:
    """Return the rule of a request's filter.

    Args:
        filter_: The filter.
        viewed: The item that the user looks at; ``None`` if there is none, or nothing is known of it.
    """
    if filter_ is None:
        return _NO_RULE

    ignored: list[str] = []
    key = _read_conditions(filter_, viewed, "filter", ignored)
    if filter_.not_ is None:
        return Rule(key, ignored)

    # Without one of its parts, more items would match it, and be left out, than were meant.
    missing: list[str] = []
    excluded = _read_conditions(filter_.not_, viewed, "filter.not", missing)
    if missing:
        return Rule(key, [*ignored, "filter.not"])
    return Rule(replace(key, not_=excluded), ignored)


def _read_conditions(conditions: Conditions, viewed: ViewedItem | None, path: str, ignored: list[str]) -> RuleKey:
    """Return the key of conditions; add the paths of those without a value to ``ignored``."""
    categories = _read_categories(conditions.categories, viewed, f"{path}.categories", ignored)
    categories_all = _read_categories(conditions.categories_all, viewed, f"{path}.categories_all", ignored)
    allow = conditions.allow

    return RuleKey(
        None if categories is None else frozenset(categories),
        None if allow is None else frozenset(allow),
        frozenset(categories_all or ()),
        _read_ranges(conditions, viewed, f"{path}.attributes", ignored),
    )


def _read_categories(
    asked: Sequence[str] | ViewedCategories | None, viewed: ViewedItem | None, path: str, ignored: list[str]
) -> Sequence[str] | None:
    if not isinstance(asked, ViewedCategories):
        return asked
    if viewed is None or not viewed.categories:
        ignored.append(path)
        return None
    return viewed.categories


def _read_ranges(
    conditions: Conditions, viewed: ViewedItem | None, path: str, ignored: list[str]
) -> frozenset[NumberRange]:
    ranges = []
    for place, asked in enumerate(conditions.attributes or ()):
        bounds: dict[str, float | None] = {}
        for name in ("gte", "gt", "lte", "lt"):
            bound = getattr(asked, name)
            if isinstance(bound, ViewedNumber):
                number = None if viewed is None else viewed.number(bound.viewed)
                bound = None if number is None else number * bound.times
                if bound is None:
                    ignored.append(f"{path}.{place}.{name}")
            bounds[name] = bound

        read = NumberRange(asked.field, **bounds)
        if read.has_bound:
            ranges.append(read)
    return frozenset(ranges)


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
        self.entries = entries
        self._lock = threading.Lock()
        self._compiled: OrderedDict[RuleKey, CompiledRule] = OrderedDict()
        self.everything = CompiledRule(~catalogue.is_hidden, catalogue.visible, bool(catalogue.is_hidden.all()))
        """The rule of requests without a filter: every visible item is open."""

    def find(self, key: RuleKey) -> CompiledRule | None:
        """Return the rule if it is compiled already. Cheap enough for the event loop."""
        if key is UNRESTRICTED or key == UNRESTRICTED:  # the first needs no comparison of every part
            return self.everything

        with self._lock:
            rule = self._compiled.get(key)
            if rule is not None:
                self._compiled.move_to_end(key)
            return rule

    def compile(self, key: RuleKey) -> CompiledRule:
        """Compile a rule and keep it. Takes milliseconds on large catalogues: not for the event loop."""
        rule = self.compile_rows(self._open_rows(key))

        with self._lock:
            self._compiled[key] = rule
            while len(self._compiled) > self.entries:
                self._compiled.popitem(last=False)
        return rule

    def closing_part(self, key: RuleKey, row: int) -> str | None:
        """Return the part of a filter that closes a visible item, such as ``categories``; ``None`` if none does.

        Takes milliseconds on large catalogues: not for the event loop.
        """
        parts = {
            "categories": RuleKey(categories=key.categories),
            "categories_all": RuleKey(categories_all=key.categories_all),
            "attributes": RuleKey(attributes=key.attributes),
            "allow": RuleKey(allow=key.allow),
            "not": RuleKey(not_=key.not_),
        }
        return next((name for name, part in parts.items() if not self._open_rows(part)[row]), None)

    def compile_rows(self, open_rows: npt.NDArray[np.bool_]) -> CompiledRule:
        """Compile a mask ``[items]`` of visible items; the rule is not kept. As slow as :meth:`compile`."""
        trie = self._catalogue.trie
        mask = trie.everything if open_rows.all() else trie.mask(open_rows)
        return CompiledRule(open_rows, mask, is_empty=not open_rows.any())

    def _open_rows(self, key: RuleKey) -> npt.NDArray[np.bool_]:
        """Return a mask ``[items]`` of the visible items that pass every part of the filter."""
        is_open = ~self._catalogue.is_hidden & self._matches(key)
        return is_open if key.not_ is None else is_open & ~self._matches(key.not_)

    def _matches(self, key: RuleKey) -> npt.NDArray[np.bool_]:
        """Return a mask ``[items]`` of the items that match all conditions of a key."""
        catalogue = self._catalogue
        matches = np.ones(len(catalogue), dtype=np.bool_)

        if key.categories is not None:
            matches &= self._to_mask(catalogue.rows_of_categories(key.categories))
        for name in key.categories_all:
            matches &= self._to_mask(catalogue.rows_of_categories([name]))
        for bounds in key.attributes:
            matches &= _is_inside(catalogue.numbers(bounds.field), bounds)
        if key.allow is not None:
            matches &= self._to_mask(catalogue.rows(list(key.allow)))

        return matches

    def _to_mask(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        mask = np.zeros(len(self._catalogue), dtype=np.bool_)
        mask[rows] = True
        return mask


def _is_inside(numbers: npt.NDArray[np.float64], bounds: NumberRange) -> npt.NDArray[np.bool_]:
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
