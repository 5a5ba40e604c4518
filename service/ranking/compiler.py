"""Boosts and pins compiled for one catalogue: what matches an item, and which items are searched apart.

Boosts add to scores after the search. Items whose boosts add up to the same keep their order among each other, so a
search of such a part finds the best of them, and the best of all parts together are the best of all. That is exact, as
far as a search under a filter is, whether boosts raise items or lower them.

Every part costs a search, so there are at most :data:`MAX_PARTS`. Sums that few items have share one part, which is
still exact: a search of no more items than its beams are wide returns them all. Where more sums than parts remain,
those that lie closest share a part, in which the search may miss an item that only its larger boost would have brought
into the answer.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from model_store.catalogue.catalogue import Catalogue
from service.engines.base import BEAM_WIDTHS
from service.ranking.filters import CompiledRule, RuleCompiler, RuleKey
from service.ranking.keys import UNRANKED, BoostKey, RankingKey

MAX_PARTS = 4
"""Parts of the items that are searched apart, at most."""

FEW_ITEMS = BEAM_WIDTHS[0]
"""Items that every search of the usual beams returns, if no others are open."""


@dataclass(frozen=True, eq=False)
class CompiledRanking:
    """The rules of a ranking, compiled for one catalogue and one filter."""

    key: RankingKey
    matches: npt.NDArray[np.uint8]  # [items, bytes], a bit for each boost, or [0, 0] without boosts
    parts: Sequence[CompiledRule]  # of the items that the filter leaves open
    pinned: CompiledRule | None  # leaves the pinned items open, whatever the filter says

    def nats(self, rows: npt.NDArray[np.int64], without: int | None = None) -> npt.NDArray[np.float32]:
        """Return what boosts add to the scores of catalogue rows, ``[n]``.

        Args:
            rows: ``[n]``.
            without: Place of a boost, as its key has it, that is left out.
        """
        boosts = self.key.boosts
        if not boosts:
            return np.zeros(len(rows), dtype=np.float32)
        matches = np.unpackbits(self.matches[rows], axis=1, count=len(boosts))
        kept = [0.0 if boost.place == without else boost.nats for boost in boosts]
        total: npt.NDArray[np.float32] = (matches @ np.array(kept)).astype(np.float32)
        return total


NO_RANKING = CompiledRanking(UNRANKED, np.empty((0, 0), dtype=np.uint8), (), None)
"""Ranking of requests that change no order."""


class RankingCompiler:
    """Compiles rankings for one catalogue and keeps the most recently used ones. Thread-safe.

    Args:
        catalogue: Items that are ranked.
        rules: Compiler of filters for the same catalogue; conditions of boosts are compiled by it, too.
        entries: Compiled rankings kept at most.
    """

    def __init__(self, catalogue: Catalogue, rules: RuleCompiler, entries: int) -> None:
        self._catalogue = catalogue
        self._rules = rules
        self._entries = entries
        self._lock = threading.Lock()
        self._compiled: OrderedDict[tuple[RankingKey, RuleKey], CompiledRanking] = OrderedDict()

    def find(self, key: RankingKey, rule_key: RuleKey) -> CompiledRanking | None:
        """Return the ranking if it is compiled already. Cheap enough for the event loop."""
        if key == UNRANKED:
            return NO_RANKING
        if not key.is_arranged:
            return replace(NO_RANKING, key=key)  # all of it happens inside the search
        with self._lock:
            found = self._compiled.get((key, rule_key))
            if found is not None:
                self._compiled.move_to_end((key, rule_key))
            return found

    def compile(self, key: RankingKey, rule_key: RuleKey, rule: CompiledRule) -> CompiledRanking:
        """Compile a ranking and keep it. Takes milliseconds on large catalogues: not for the event loop.

        Args:
            key: Of the ranking.
            rule_key: Of the filter.
            rule: The filter, compiled.
        """
        found = self._compile(key, rule)
        with self._lock:
            self._compiled[key, rule_key] = found
            while len(self._compiled) > self._entries:
                self._compiled.popitem(last=False)
        return found

    def _compile(self, key: RankingKey, rule: CompiledRule) -> CompiledRanking:
        pinned = self._find_rule(RuleKey(allow=frozenset(pin.item for pin in key.pins))) if key.pins else None
        if not key.boosts:
            return CompiledRanking(key, NO_RANKING.matches, (rule,), pinned)

        items = len(self._catalogue)
        matches = np.zeros((items, -(-len(key.boosts) // 8)), dtype=np.uint8)
        total = np.zeros(items)  # boosts are added in one order, so equal matches have exactly equal sums
        for place, boost in enumerate(key.boosts):
            is_matched = self._find_matches(boost)
            matches[:, place // 8] |= is_matched.astype(np.uint8) << (7 - place % 8)
            total += is_matched * boost.nats
        return CompiledRanking(key, matches, self._split(rule, total), pinned)

    def _find_matches(self, boost: BoostKey) -> npt.NDArray[np.bool_]:
        """Return a mask ``[items]`` of the visible items that a boost matches."""
        if not boost.prefix:
            return self._find_rule(boost.items).open_rows

        trie = self._catalogue.trie
        leaves = trie.leaves_below(boost.prefix)
        is_matched = np.zeros(len(self._catalogue), dtype=np.bool_)
        is_matched[trie.leaf_item[leaves.start : leaves.stop]] = True
        return is_matched

    def _find_rule(self, key: RuleKey) -> CompiledRule:
        return self._rules.find(key) or self._rules.compile(key)

    def _split(self, rule: CompiledRule, total: npt.NDArray[np.float64]) -> Sequence[CompiledRule]:
        """Return the parts of a filter's open items; the items of a part have the same boosts, as far as possible."""
        sums, counts = np.unique(total[rule.open_rows], return_counts=True)
        groups = group_sums(sums, counts)
        if len(groups) <= 1:
            return (rule,)
        return [self._rules.compile_rows(rule.open_rows & np.isin(total, group)) for group in groups]


def group_sums(sums: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]) -> list[npt.NDArray[np.float64]]:
    """Group the sums of boosts into at most :data:`MAX_PARTS`, see the head of this module.

    Args:
        sums: Distinct, ascending, ``[s]``.
        counts: Items that have each of them, ``[s]``.
    """
    by_count = np.argsort(counts, kind="stable")
    few = by_count[np.cumsum(counts[by_count]) <= FEW_ITEMS]
    many = np.setdiff1d(np.arange(len(sums)), few)
    groups = [sums[few]] if len(few) else []

    room = MAX_PARTS - len(groups)
    gaps = np.diff(sums[many])
    cuts = np.sort(np.argsort(-gaps, kind="stable")[: room - 1]) + 1
    return [*groups, *(each for each in np.split(sums[many], cuts) if len(each))]
