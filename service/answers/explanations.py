"""Explanations of answers: parts of scores, log-probabilities of codes, items below prefixes, history.

The parts of a score are those of the answer itself (:mod:`service.engines.score_parts`): they add up to it.

The contribution of a history item is what the score of the answer loses without it (leave-one-out). The engine repeats
the search once, and once more without each of the newest items, all in one batch, over a trie in which only the answers
are open. Masks never renormalise and the beam is wider than the answer is long, so exactly the answers come back, with
the scores that they have anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.code_names import CodeNames
from model_store.semantic_ids.trie import RuleMask
from service.async_tasks import gather_or_cancel
from service.engines.base import SearchRequest, SearchResult
from service.engines.score_parts import ScoreParts
from service.models.slot import Serving
from service.schemas.explanations import CodeReason, Explanation, HistoryReason
from service.schemas.explanations import ScoreParts as ScorePartsDocument
from service.schemas.items import ShownItem

LEFT_OUT = 20
"""History items, the newest ones, whose contribution is measured."""

EXAMPLES = 3
"""Items shown below each prefix, the most popular ones."""


class AnswerScores(NamedTuple):
    """The measured parts of one answer's explanation."""

    contributions: npt.NDArray[np.float32] | None  # [t]
    code_log_probs: npt.NDArray[np.float32] | None  # [L]
    parts: ScoreParts | None  # a number each


@dataclass(frozen=True)
class Explanations:
    """The measured explanations of n answers.

    Attributes:
        rows: The answers, ``[n]``.
        history: Rows of the newest history items, oldest first, ``[t]``.
        contributions: ``[n, t]``, score with all of the history less score without the item; ``None`` where the history
            is that one item.
        code_log_probs: ``[n, L]``, summing up to each answer's log-probability; ``None`` where the engine gives none.
        parts: Of the answers' scores.
    """

    rows: npt.NDArray[np.int64]
    history: npt.NDArray[np.int64]
    contributions: npt.NDArray[np.float32] | None
    code_log_probs: npt.NDArray[np.float32] | None
    parts: ScoreParts | None = None

    def of(self, row: int) -> AnswerScores:
        """Return what was measured of the answer ``row``; nothing is known of a row that is none of ``rows``."""
        places = np.flatnonzero(self.rows == row)[:1]
        if not len(places):
            return AnswerScores(None, None, None)

        contributions = None if self.contributions is None else self.contributions[places[0]]
        by_code = None if self.code_log_probs is None else self.code_log_probs[places[0]]
        parts = None if self.parts is None else self.parts.select(places[0])
        return AnswerScores(contributions, by_code, parts)


_NO_ROWS = np.empty(0, dtype=np.int64)
NO_EXPLANATIONS = Explanations(_NO_ROWS, _NO_ROWS, None, None)
"""Explanations of answers that the model did not give: empty."""


async def explain(serving: Serving, asked: SearchRequest, answers: SearchResult, budget_s: float) -> Explanations:
    """Measure why the model gave these answers.

    Args:
        serving: The model that answered.
        asked: The search that it answered.
        answers: Its answers, with the parts of their scores.
        budget_s: Seconds from now until the explanations are worthless.

    Raises:
        QueueFull, DeadlineMissed, NotReady: See :meth:`~service.scheduling.batcher.Batcher.submit`; one explained
            answer needs up to :data:`LEFT_OUT` + 1 places in the queue.
    """
    rows = answers.rows
    if not len(rows):
        return NO_EXPLANATIONS

    # Cut the history first: leaving one item out must not let an older one in.
    longest = serving.model.engine.max_history
    asked = replace(asked, history=asked.history[-longest:])
    answers_only = await asyncio.to_thread(mask_of, asked.catalogue, rows)
    searches = leave_one_out(asked, answers_only, len(rows))
    found = await gather_or_cancel([serving.batcher.submit(each, budget_s) for each in searches])

    places = [_places(each, rows) for each in found]
    scores = np.stack([each.score[place] for each, place in zip(found, places, strict=True)])
    contributions = (scores[0] - scores[1:]).T if len(searches) > 1 else None
    log_probs = found[0].log_probs
    by_code = None if log_probs is None else log_probs[places[0]]
    return Explanations(rows, asked.history[-LEFT_OUT:], contributions, by_code, answers.parts)


def leave_one_out(asked: SearchRequest, mask: RuleMask, answers: int) -> list[SearchRequest]:
    """Return the search over the mask, then the same without each of the newest history items, oldest first."""
    again = replace(
        asked,
        k=answers,
        rule=mask,
        excluded=asked.excluded[:0],
        max_per_prefix=None,
        steer=(),  # the same for a score with and without an item of the history
        # Every answer is a beam: no need for dense candidates.
        fusion=asked.fusion.model_copy(update={"candidates": 0}),
        with_parts=False,
    )

    history = asked.history
    if len(history) <= 1:
        return [again]
    places = range(max(0, len(history) - LEFT_OUT), len(history))
    return [again, *(replace(again, history=np.delete(history, place)) for place in places)]


def mask_of(catalogue: Catalogue, rows: npt.NDArray[np.int64]) -> RuleMask:
    """Return the mask that leaves these rows open and nothing else."""
    is_open = np.zeros(len(catalogue), dtype=np.bool_)
    is_open[rows] = True
    return catalogue.trie.mask(is_open)


def _places(found: SearchResult, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the place of each of ``rows`` in ``found``, which holds exactly these items."""
    order = np.argsort(found.rows)
    return order[np.searchsorted(found.rows, rows, sorter=order)]


class PrefixExamples:
    """The most popular visible items below prefixes of one catalogue; each prefix is looked up once."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._known: dict[tuple[int, ...], tuple[int, Sequence[int]]] = {}

    def below(self, prefix: tuple[int, ...]) -> tuple[int, Sequence[int]]:
        """Return the number of visible items below a prefix, and the rows of the most popular ones."""
        if prefix not in self._known:
            self._known[prefix] = self._look_up(prefix)
        return self._known[prefix]

    def _look_up(self, prefix: tuple[int, ...]) -> tuple[int, Sequence[int]]:
        leaves = self._catalogue.trie.leaves_below(prefix)
        rows = self._catalogue.trie.leaf_item[leaves.start : leaves.stop]
        rows = rows[~self._catalogue.is_hidden[rows]]
        order = np.argsort(-self._catalogue.popularity[rows], kind="stable")
        return len(rows), rows[order[:EXAMPLES]].tolist()


def explanation_documents(
    catalogue: Catalogue, names: CodeNames, rows: npt.NDArray[np.int64], explanations: Explanations
) -> list[Explanation]:
    """Return explanations in their documented JSON form, one for each of ``rows``.

    Takes milliseconds on large catalogues: not for the event loop.
    """
    examples = PrefixExamples(catalogue)
    return [_build_explanation(catalogue, names, row, explanations, examples) for row in rows.tolist()]


def _build_explanation(
    catalogue: Catalogue, names: CodeNames, row: int, explanations: Explanations, examples: PrefixExamples
) -> Explanation:
    codes = catalogue.codes[row].tolist()
    measured = explanations.of(row)
    return {
        "parts": _build_parts(measured.parts),
        "codes": _build_code_reasons(catalogue, names, codes, measured.code_log_probs, examples),
        "history": _build_history_reasons(catalogue, explanations.history.tolist(), measured.contributions),
    }


def _build_parts(parts: ScoreParts | None) -> ScorePartsDocument | None:
    if parts is None:
        return None
    return {
        "codes": float(parts.codes),
        "cosine": float(parts.cosine),
        "neighbours": float(parts.neighbours),
        "ranker": float(parts.ranker),
        "fresh_boost": float(parts.fresh_boost),
        "steer": float(parts.steer),
        "boosts": float(parts.boosts),
    }


def _build_code_reasons(
    catalogue: Catalogue,
    names: CodeNames,
    codes: list[int],
    measured: npt.NDArray[np.float32] | None,
    examples: PrefixExamples,
) -> list[CodeReason]:
    log_probs = [None] * len(codes) if measured is None else measured.tolist()
    reasons: list[CodeReason] = []
    for depth, (code, log_prob) in enumerate(zip(codes, log_probs, strict=True)):
        prefix = tuple(codes[: depth + 1])
        count, below = examples.below(prefix)
        shown = [_build_shown_item(catalogue, each) for each in below]
        reasons.append(
            {"code": code, "name": names.name(prefix), "log_prob": log_prob, "items": count, "examples": shown}
        )
    return reasons


def _build_history_reasons(
    catalogue: Catalogue, history: list[int], measured: npt.NDArray[np.float32] | None
) -> list[HistoryReason]:
    contributions = [None] * len(history) if measured is None else measured.tolist()
    return [
        {**_build_shown_item(catalogue, row), "contribution": contribution}
        for row, contribution in zip(history, contributions, strict=True)
    ]


def _build_shown_item(catalogue: Catalogue, row: int) -> ShownItem:
    return {"item_id": catalogue.item_ids[row], "title": catalogue.titles[row] or None}
