"""The ranking of one request: which parts of the catalogue to search, and the answer from what was found there.

    ranking = Ranking(...)
    while parts := ranking.next_parts():
        ranking.take([search(part) for part in parts])
    ranking.found

It searches nothing itself, so the model, popular items and batch runs share it.

An answer that limits by prefix leave short is completed by at most two more rounds. The second one searches without
the prefixes that are full. The third one searches as many items as the limits allow at the same time, the most popular
of each prefix: whatever it finds fits, so the answer is full wherever that is possible.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.catalogue.catalogue import Catalogue
from service.engines.base import SearchResult
from service.engines.score_parts import ScoreParts
from service.ranking.arrangement import Int64Array, PlacedPin, arrange, keep_limits, nodes_at
from service.ranking.compiler import CompiledRanking
from service.ranking.filters import CompiledRule, RuleCompiler
from service.schemas.ranking import SkippedPin, SkipReason


class Part(NamedTuple):
    """A part of the catalogue that is searched by itself."""

    rule: CompiledRule
    excluded: Int64Array  # rows that must not be answered
    max_per_prefix: int | None  # answers that may share a first code
    answers: int  # that are needed


class Asked(NamedTuple):
    """The request that is ranked."""

    k: int
    rule: CompiledRule
    excluded: Int64Array  # rows that must not be answered


class Ranking:
    """The ranking of one request.

    Args:
        catalogue: The catalogue that answers.
        rules: Compiler of filters for it.
        compiled: The request's boosts, pins and limits, compiled for the catalogue and the request's filter.
        asked: The request.
    """

    def __init__(self, catalogue: Catalogue, rules: RuleCompiler, compiled: CompiledRanking, asked: Asked) -> None:
        self.compiled = compiled
        self.limits = compiled.key.limits
        self.k = asked.k
        self.trie = catalogue.trie
        self.pins, self.skipped = _place_pins(catalogue, compiled, asked)

        self._catalogue = catalogue
        self._rules = rules
        self._open_rows = asked.rule.open_rows
        self._pinned = np.array([pin.row for pin in self.pins], dtype=np.int64)
        self._excluded = np.concatenate([asked.excluded, self._pinned])
        self._round = 0
        self._order = np.empty(0, dtype=np.int64)
        self.candidates = _NOTHING

    @property
    def found(self) -> SearchResult:
        """The answer: its scores include boosts."""
        return self._scored(self._order)

    @property
    def pool(self) -> SearchResult:
        """The answer, followed by all other candidates that the limits allow beside it, best first."""
        return self._scored(self.order(k=len(self.candidates.rows)))

    @property
    def is_done(self) -> bool:
        """True if no further part has to be searched."""
        return bool(self._round) and (not self.limits or len(self._order) == self.k)

    def next_parts(self) -> Sequence[Part]:
        """Return the parts to search next; none if the answer is complete.

        The first call is quick. Later ones take milliseconds on large catalogues: not for the event loop.
        """
        rounds = (self._first_parts, self._parts_below_open_prefixes, self._parts_that_fit)
        if self.is_done or self._round == len(rounds):
            return ()
        self._round += 1
        return rounds[self._round - 1]()

    def take(self, found: Sequence[SearchResult]) -> None:
        """Take what was found in the parts, with the model's own scores. No item may come twice."""
        self.candidates = _join([self.candidates, *found])
        self._order = self.order()

    def order(
        self,
        pins: Sequence[PlacedPin] | None = None,
        limits_without: int | None = None,
        boosts_without: int | None = None,
        k: int | None = None,
    ) -> Int64Array:
        """Return the places of the answer among the candidates, best first, under all rules or without one.

        Args:
            pins: Pins to obey instead of all.
            limits_without: Depth of a limit that is left out.
            boosts_without: Place of a boost that is left out.
            k: Answers to give instead of those that were asked for.
        """
        rows = self.candidates.rows
        score = self.candidates.score + self.compiled.nats(rows, boosts_without)
        limits = [each for each in self.limits if each.depth != limits_without]
        return arrange(self.trie, rows, score, self.pins if pins is None else pins, limits, self.k if k is None else k)

    def _scored(self, order: Int64Array) -> SearchResult:
        found = self.candidates.select(order)
        nats = self.compiled.nats(found.rows)
        parts = None if found.parts is None else found.parts._replace(boosts=nats.astype(np.float64))
        return found._replace(score=found.score + nats, parts=parts)

    def _first_parts(self) -> Sequence[Part]:
        limit = self.compiled.key.first_code_limit
        parts = [Part(rule, self._excluded, limit, self.k) for rule in self.compiled.parts]
        if self.pins:
            assert self.compiled.pinned is not None
            others = np.setdiff1d(np.flatnonzero(self.compiled.pinned.open_rows), self._pinned)
            parts.append(Part(self.compiled.pinned, others, None, len(self.pins)))
        return parts

    def _parts_below_open_prefixes(self) -> Sequence[Part]:
        """Return the first parts without prefixes that are full."""
        is_open = self._without_known(self._open_rows)
        rows = self.candidates.rows[self._order]
        for depth, answers in self.limits:
            _, first, count = np.unique(nodes_at(self.trie, rows, depth), return_index=True, return_counts=True)
            for row in rows[first[count >= answers]].tolist():
                leaves = self.trie.leaves_below(self._catalogue.codes[row, :depth].tolist())
                is_open[self.trie.leaf_item[leaves.start : leaves.stop]] = False

        found = [is_open & rule.open_rows for rule in self.compiled.parts]
        limit = self.compiled.key.first_code_limit
        return [Part(self._rules.compile_rows(rows), self._excluded, limit, self.k) for rows in found if rows.any()]

    def _parts_that_fit(self) -> Sequence[Part]:
        """Return one part: as many items as keep the limits together, beside those of the answer."""
        known = self.candidates.rows[self._order]
        others = self._without_known(self._open_rows)
        others[self._excluded] = False
        popular = self._catalogue.by_popularity
        rows = np.concatenate([known, popular[others[popular]]])
        kept = keep_limits(self.trie, rows, np.arange(len(rows)), len(known), self.limits)[len(known) :]
        if not len(kept):
            return ()

        is_open = np.zeros(len(self._catalogue), dtype=np.bool_)
        is_open[rows[kept]] = True
        return [Part(self._rules.compile_rows(is_open), self._excluded, None, self.k)]

    def _without_known(self, is_open: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return a copy of a mask ``[items]`` with what was found already closed."""
        others = is_open.copy()
        others[self.candidates.rows] = False
        return others


_NOTHING = SearchResult(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32), np.empty(0, dtype=np.float32))


def _place_pins(
    catalogue: Catalogue, compiled: CompiledRanking, asked: Asked
) -> tuple[list[PlacedPin], list[SkippedPin]]:
    """Return the pins that the answer obeys, and those that it cannot."""
    placed: list[PlacedPin] = []
    skipped: list[SkippedPin] = []
    excluded = set(asked.excluded.tolist()) if compiled.key.pins else set()

    for position, item, place in compiled.key.pins:
        row = catalogue.row(item)
        reason: SkipReason | None = None
        if row is None:
            reason = "unknown"
        elif catalogue.is_hidden[row]:
            reason = "hidden"
        elif not asked.rule.open_rows[row]:
            reason = "filtered"
        elif row in excluded:
            reason = "excluded"
        elif position > asked.k:
            reason = "beyond_k"

        if row is None or reason is not None:
            skipped.append({"position": position, "item": item, "reason": reason or "unknown"})
        else:
            placed.append(PlacedPin(position, row, place))
    return placed, skipped


def _join(found: Sequence[SearchResult]) -> SearchResult:
    """Return several results as one; contributions of codes and parts of scores are kept where all have them."""
    filled = [each for each in found if len(each.rows)] or [_NOTHING]
    by_code = [each.log_probs for each in filled if each.log_probs is not None]
    parts = [each.parts for each in filled if each.parts is not None]
    return SearchResult(
        np.concatenate([each.rows for each in filled]),
        np.concatenate([each.score for each in filled]),
        np.concatenate([each.log_prob for each in filled]),
        np.concatenate(by_code) if len(by_code) == len(filled) else None,
        ScoreParts.join(parts) if len(parts) == len(filled) else None,
    )
