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

from model_store.catalogue import Catalogue
from model_store.trie import RuleMask
from service.schemas import Filter


@dataclass(frozen=True)
class RuleKey:
    """What makes two rules the same; ``None`` restricts nothing."""

    categories: frozenset[str] | None = None
    allow: frozenset[str] | None = None

    @classmethod
    def of(cls, rules: Filter | None) -> RuleKey:
        """The shared part of a request's filter."""
        if rules is None:
            return cls()
        return cls(
            None if rules.categories is None else frozenset(rules.categories),
            None if rules.allow is None else frozenset(rules.allow),
        )


@dataclass(frozen=True, eq=False)
class Rule:
    """A compiled rule of one catalogue."""

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
        everything = np.ones(len(catalogue), dtype=np.bool_)
        self.everything = Rule(everything, catalogue.trie.everything, is_empty=False)

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
        open_rows = np.ones(len(self._catalogue), dtype=np.bool_)
        if key.categories is not None:
            known = [
                rows for name in key.categories if (rows := self._catalogue.rows_by_category.get(name)) is not None
            ]
            open_rows &= self._only(known)
        if key.allow is not None:
            open_rows &= self._only([self.rows(key.allow)])
        rule = Rule(open_rows, self._catalogue.trie.mask(open_rows), is_empty=not open_rows.any())
        with self._lock:
            self._compiled[key] = rule
            while len(self._compiled) > self._entries:
                self._compiled.popitem(last=False)
        return rule

    def rows(self, item_ids: Iterable[str]) -> npt.NDArray[np.int64]:
        """Rows of the known ones among these ids, in the given order."""
        row_of = self._catalogue.row_of
        return np.array([row_of[item_id] for item_id in item_ids if item_id in row_of], dtype=np.int64)

    def _only(self, groups: list[npt.NDArray[np.int64]]) -> npt.NDArray[np.bool_]:
        chosen = np.zeros(len(self._catalogue), dtype=np.bool_)
        for rows in groups:
            chosen[rows] = True
        return chosen
