"""Names of code prefixes, chosen among the candidates of each prefix.

A name joins up to three phrases, those with the best scores first. At least half of the items below the prefix say all
of them together, and no word comes twice. A prefix without candidates has no name.

Shapes: N items, C candidates of one depth, S phrases that are candidates at any depth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from model_store.catalogue.code_names import CodeNames
from training.code_names.candidates import LEAST_SHARE, Candidates, find_candidates, items_of
from training.code_names.phrases import Phrases, find_phrases
from training.code_names.words import item_texts, split_texts

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

MAX_TERMS = 3
"""Most phrases of a name."""

TERM_LENGTH = 72
"""Most characters of a phrase in a name."""

SEPARATOR = " · "

LEAST_SCORE = 1 / 2
"""Least score of a further phrase, as a share of the first one's."""


def name_prefixes(
    codes: npt.NDArray[np.integer[Any]],
    titles: Sequence[str],
    categories: Sequence[tuple[str, ...]],
    attributes: Sequence[dict[str, Any]],
) -> CodeNames:
    """Name the prefixes of 1 to L - 1 codes that have at least two items.

    The order of the items makes no difference. The time is nearly linear in the words of all items.

    Args:
        codes: Semantic IDs, ``[N, L]``.
        titles: ``[N]``, "" where unknown.
        categories: Names, ``[N]``.
        attributes: Values by name, ``[N]``.
    """
    # In the order of semantic IDs the items below a prefix stand side by side, at every depth.
    order = np.lexsort(codes.T[::-1])
    place = np.argsort(order)
    groups = _number_prefixes(codes[order])

    texts = item_texts(titles, categories, attributes)
    phrases = find_phrases(texts.with_columns(item=pl.Series(place[texts["item"].to_numpy()])), len(codes))
    by_depth = find_candidates(phrases, groups)
    if not any(len(found.phrase) for found in by_depth):
        return CodeNames.none()

    spelled = _Spelled.of(phrases, np.unique(np.concatenate([found.phrase for found in by_depth])))
    prefixes = []
    names: list[str] = []
    for depth, found in enumerate(by_depth, start=1):
        named = _join(_choose(found, phrases, spelled, groups[depth]), spelled)
        first_items = np.searchsorted(groups[depth], list(named))
        padded = np.full((len(named), len(by_depth)), -1, dtype=np.int64)
        padded[:, :depth] = codes[order[first_items], :depth]
        prefixes.append(padded)
        names += named.values()
    return CodeNames.of(np.concatenate(prefixes), names)


class _Spelled(NamedTuple):
    """S phrases as they are written, by ascending number."""

    phrase: Int64Array  # [S]
    texts: list[str]  # [S]
    rank: Int64Array  # [S], place in the order of the texts
    word_start: Int64Array  # [S + 1], where the words of each begin
    word: Int64Array  # [word_start[-1]], numbers of words, for comparison

    @classmethod
    def of(cls, phrases: Phrases, wanted: Int64Array) -> Self:
        """Spell the phrases ``wanted [S]``, which ascend."""
        texts = phrases.spell(wanted)
        words = split_texts(pl.DataFrame({"text": texts}).with_columns(is_word=pl.lit(False)))
        rank = np.argsort(np.argsort(np.array(texts)))
        return cls(wanted, texts, rank, np.searchsorted(words.text, np.arange(len(texts) + 1)), words.word)

    def words_of(self, rows: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Return all pairs of a place in ``rows``, which are phrases of the S, and a word: ``[pairs]`` each."""
        count = np.diff(self.word_start)[rows]
        row = np.repeat(np.arange(len(rows)), count)
        within = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        return row, self.word[self.word_start[rows][row] + within]


class _Chosen(NamedTuple):
    """One more phrase for some of the names of a depth."""

    group: Int64Array
    phrase: Int64Array  # row among the S


def _number_prefixes(codes: npt.NDArray[np.integer[Any]]) -> list[Int64Array]:
    """Number the prefixes of 0 to L - 1 codes of sorted semantic IDs ``[N, L]``; for each depth ``[N]``, ascending."""
    begins = np.zeros(len(codes), dtype=np.bool_)
    found = [np.zeros(len(codes), dtype=np.int64)]
    for level in codes.T[:-1]:
        begins[1:] |= level[1:] != level[:-1]
        found.append(np.cumsum(begins))
    return found


def _choose(found: Candidates, phrases: Phrases, spelled: _Spelled, group_of: Int64Array) -> Iterator[_Chosen]:
    """Choose the phrases of the names of one depth, for all prefixes at once: the first ones, the second ones, …

    Args:
        found: The candidates of the depth.
        phrases: All phrases.
        spelled: The candidates of all depths.
        group_of: Prefix of each item, ``[N]``.
    """
    row = np.searchsorted(spelled.phrase, found.phrase)
    best_first = np.lexsort((spelled.rank[row], -found.score, found.group))
    is_short = np.array([len(text) <= TERM_LENGTH for text in spelled.texts], dtype=np.bool_)
    is_open = is_short[row] & (found.score >= LEAST_SCORE * _best_scores(found)[found.group])

    candidate, item = items_of(phrases, found)
    least_items = LEAST_SHARE * np.bincount(group_of)[found.group]
    says_all = np.ones(len(group_of), dtype=np.bool_)
    for _ in range(MAX_TERMS):
        order = best_first[is_open[best_first]]
        group, first = np.unique(found.group[order], return_index=True)
        best = order[first]
        yield _Chosen(group, row[best])

        # A prefix without open candidates stays without: what is noted of its items does not matter.
        is_best = _mark(len(row), best)
        says_all &= _mark(len(group_of), item[is_best[candidate]])
        together = np.bincount(candidate[says_all[item]], minlength=len(row))
        is_open &= (together >= least_items) & ~_shares_word(found.group, row, is_best, spelled)


def _best_scores(found: Candidates) -> npt.NDArray[np.float64]:
    """Return the best score of each prefix, ``[prefixes]``; 0 without candidates."""
    best = np.zeros(found.group.max(initial=-1) + 1)
    np.maximum.at(best, found.group, found.score)
    return best


def _shares_word(group: Int64Array, row: Int64Array, is_chosen: BoolArray, spelled: _Spelled) -> BoolArray:
    """Tell the candidates with a word of one that is chosen for the same prefix, ``[C]``; so those that are chosen.

    Args:
        group: Prefix of each candidate, ``[C]``.
        row: Place of each candidate among the S phrases, ``[C]``.
        is_chosen: Whether it is in the name, ``[C]``.
        spelled: The S phrases.
    """
    candidate, word = spelled.words_of(row)
    key = group[candidate] * (spelled.word.max() + 1) + word
    is_taken = np.isin(key, key[is_chosen[candidate]])
    return _mark(len(row), candidate[is_taken])


def _mark(size: int, places: Int64Array) -> BoolArray:
    """Return truth values ``[size]``, true at these places."""
    marked = np.zeros(size, dtype=np.bool_)
    marked[places] = True
    return marked


def _join(chosen: Iterator[_Chosen], spelled: _Spelled) -> dict[int, str]:
    """Return the names of one depth by prefix."""
    terms: dict[int, list[str]] = {}
    for group, phrase in chosen:
        for each, row in zip(group.tolist(), phrase.tolist(), strict=True):
            terms.setdefault(each, []).append(spelled.texts[row])
    return {group: SEPARATOR.join(each) for group, each in terms.items()}
