"""Candidates for names: the phrases that are true of the items below a prefix and say what is special there.

A phrase is a candidate for a prefix if

* at least half of the items below the prefix say it, and two of them at the least,
* it is at least twice as frequent there as in the catalogue,
* chance is a poor explanation: so many items would hardly say it if they were drawn from the catalogue, or else it is a
  candidate for the prefix without the last code already, and
* it does not begin or end with a common word such as "for" or "oz": one that is frequent and spread evenly, or that is
  written small where other words have capitals.

There is no list of words: the rules are meant for any language. The score of a candidate is its share times the
logarithms of its lift against the catalogue and against the siblings, the prefixes that differ in the last code only.

Shapes: N items, T phrases, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from training.code_names.phrases import Phrases

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

LEAST_SHARE = 0.5
"""Share of the items below a prefix that say what its name says."""

LEAST_LIFT = 2.0
"""Ratio of a phrase's share below the prefix to its share in the catalogue."""

LEAST_EVIDENCE = 1.5
"""Nats against chance: items below the prefix times the Kullback-Leibler divergence of both shares, less the logarithm
of the number of prefixes that could have so many by chance."""

COMMON_SHARE = 0.01
"""Share of the items that say a common word, at least."""

COMMON_CODES = 8
"""First codes with items that say a common word, at least."""

EVEN_ITEMS = 50
"""Items that say a word which is spread evenly, at least: fewer cannot show it."""

EVEN_LIFT = 1.25
"""Lift of having the same first code for two items that say such a word, at most; 1 is perfectly even."""


TOGETHER = 2 / 3
"""Share of a phrase's items that say a longer one, from which on only the longer one can be in a name."""

VALUE_BONUS = 1.5
"""Factor on the score of categories and attribute values: the shop's own words are the better ones."""


class Candidates(NamedTuple):
    """Phrases that may be in the names of the prefixes of one depth."""

    group: Int64Array  # [C], number of the prefix among those of its depth
    phrase: Int64Array  # [C]
    start: Int64Array  # [C], where its items begin in ``Phrases.said``
    items: Int64Array  # [C], items below the prefix that say it
    score: Float64Array  # [C]

    def where(self, is_kept: BoolArray) -> Candidates:
        """Return some of them, ``is_kept [C]``."""
        return Candidates(
            self.group[is_kept], self.phrase[is_kept], self.start[is_kept], self.items[is_kept], self.score[is_kept]
        )


def find_candidates(phrases: Phrases, groups: Sequence[Int64Array]) -> list[Candidates]:
    """Find the candidates of depths 1 to L - 1.

    Args:
        phrases: All phrases; their items are numbered in the order of semantic IDs.
        groups: For depths 0 to L - 1 the prefix of each item, numbered from 0, ascending, ``[N]``.
    """
    if len(groups) == 1:
        return []

    is_common = _find_common(phrases, groups[1])
    found = []
    true_of_parent = np.empty(0, dtype=np.int64)
    for parent_of, group_of in pairwise(groups):
        true = _find_true(phrases, group_of, parent_of, true_of_parent)
        true_of_parent = true.group * len(phrases.size) + true.phrase
        whole = _drop_ragged(true.where(~is_common[true.phrase]), phrases)
        found.append(whole.where(~_is_part(whole, phrases)))
    return found


def items_of(phrases: Phrases, found: Candidates) -> tuple[Int64Array, Int64Array]:
    """Return all pairs of a candidate and an item below its prefix that says it: candidates and items, ``[pairs]``."""
    candidate = np.repeat(np.arange(len(found.items)), found.items)
    first_pair = np.cumsum(found.items) - found.items
    pairs = np.arange(len(candidate)) + (found.start - first_pair)[candidate]
    return candidate, phrases.said[pairs, 1]


def _find_true(phrases: Phrases, group_of: Int64Array, parent_of: Int64Array, true_of_parent: Int64Array) -> Candidates:
    """Find the phrases of one depth for which the first three rules hold.

    Args:
        phrases: All phrases.
        group_of: Prefix of each item, ``[N]``.
        parent_of: Prefix without the last code of each item, ``[N]``.
        true_of_parent: The phrases that were found there, as ``prefix * T + phrase``.
    """
    phrase, item = phrases.said.T
    start, items = _find_runs(phrase, group_of[item])
    size = np.bincount(group_of)
    is_true = (items > 1) & (items >= LEAST_SHARE * size[group_of[item[start]]])
    start = start[is_true]
    items = items[is_true]

    said = phrase[start]
    group = group_of[item[start]]
    parent = parent_of[item[start]]
    share = items / size[group]
    in_catalogue = phrases.count[said] / len(group_of)
    lift = share / in_catalogue

    siblings = np.bincount(parent_of)[parent] - size[group]
    say_it = _items_of_parent(phrases, start, parent_of) - items
    # Half an item more says it: that no sibling does is no proof that none would.
    sibling_lift = np.where(siblings > 0, share * (siblings + 1) / (say_it + 0.5), 1.0)
    score = share * (np.log(lift) + np.log(np.maximum(sibling_lift, 1.0)))
    score *= np.where(phrases.is_value[said], VALUE_BONUS, 1.0)

    chances = np.minimum(len(size), phrases.count[said] / 2)
    is_proven = _evidence(share, in_catalogue, size[group]) - np.log(chances) >= LEAST_EVIDENCE
    is_inherited = np.isin(parent * len(phrases.size) + said, true_of_parent)
    found = Candidates(group, said, start, items, score)
    return found.where((lift >= LEAST_LIFT) & (is_proven | is_inherited))


def _items_of_parent(phrases: Phrases, start: Int64Array, parent_of: Int64Array) -> Int64Array:
    """Return the number of items below the parent prefix that say a phrase, for the runs that begin at ``start``."""
    phrase, item = phrases.said.T
    parent_start, items = _find_runs(phrase, parent_of[item])
    return items[np.searchsorted(parent_start, start, "right") - 1]


def _find_common(phrases: Phrases, first_code: Int64Array) -> BoolArray:
    """Tell the single words that are common in the language, ``[T]``; values never are.

    They are frequent, and either spread evenly over the first codes, or small words in titles of capitalised ones.

    Args:
        phrases: All phrases.
        first_code: Prefix of one code of each item, ``[N]``.
    """
    phrase, item = phrases.said.T
    start, count = _find_runs(phrase, first_code[item])
    codes = np.bincount(phrase[start], minlength=len(phrases.size))
    pairs = np.bincount(phrase[start], count * (count - 1), len(phrases.size))
    size = np.bincount(first_code)
    items = len(first_code)
    by_chance = (size * (size - 1)).sum() / max(1, items * (items - 1))

    is_even = pairs <= EVEN_LIFT * by_chance * phrases.count * (phrases.count - 1)
    is_even &= phrases.count >= EVEN_ITEMS
    is_common = (phrases.count >= COMMON_SHARE * items) & (codes >= COMMON_CODES)
    is_common &= is_even | phrases.words.is_small[phrases.first]
    return is_common & (phrases.size == 1) & ~phrases.is_value


def _drop_ragged(found: Candidates, phrases: Phrases) -> Candidates:
    """Drop words that cannot stand alone, and phrases that begin or end with a word which is no candidate itself.

    "Shampoo for" is no phrase: "for" says nothing of shampoos. Single characters seldom say anything, so they may.
    """
    words = phrases.at[0]
    first = phrases.place[found.phrase]
    last = first + phrases.size[found.phrase] - 1
    prefix = found.group * len(phrases.size)
    known = prefix + found.phrase
    is_whole = np.isin(prefix + words[first], known) & np.isin(prefix + words[last], known)
    is_whole |= phrases.words.is_character[phrases.first[found.phrase]]

    is_border = phrases.words.is_border
    is_border = is_border[phrases.first[found.phrase]] & is_border[phrases.last[found.phrase]]
    is_telling = phrases.words.is_telling[phrases.first[found.phrase]] | (phrases.size[found.phrase] > 1)
    return found.where(is_whole & is_border & is_telling)


def _find_runs(phrase: Int64Array, group: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Return begin and length of the runs of pairs with one phrase and one group; all pairs are sorted by both."""
    begins = np.ones(len(phrase), dtype=np.bool_)
    begins[1:] = (phrase[1:] != phrase[:-1]) | (group[1:] != group[:-1])
    start = np.flatnonzero(begins)
    return start, np.diff(start, append=len(phrase))


def _evidence(share: Float64Array, in_catalogue: Float64Array, size: Int64Array) -> Float64Array:
    """Return the nats against groups of ``size`` items that are drawn from the catalogue."""
    rest = np.where(share < 1, 1 - share, 1.0)  # where all items say it, the second part is 0
    other = np.where(share < 1, 1 - in_catalogue, 1.0)
    nats: Float64Array = size * (share * np.log(share / in_catalogue) + rest * np.log(rest / other))
    return nats


def _is_part(found: Candidates, phrases: Phrases) -> BoolArray:
    """Tell the candidates whose items mostly say a longer candidate, to which they belong; values stand alone."""
    keys = found.group * len(phrases.size)
    known = keys + found.phrase
    order = np.argsort(known)
    is_part = np.zeros(len(known), dtype=np.bool_)

    is_longer = phrases.size[found.phrase] > 1
    for shorter in (phrases.head, phrases.tail):
        wanted = (keys + shorter[found.phrase])[is_longer]
        place = order[np.minimum(np.searchsorted(known, wanted, sorter=order), len(order) - 1)]
        belongs = (known[place] == wanted) & (found.items[is_longer] >= TOGETHER * found.items[place])
        is_part[place[belongs]] = True
    return is_part & ~phrases.is_value[found.phrase]
