"""Why an answer was given: what each code contributed, what lies below each prefix, and what the history spoke for.

The contribution of a history item is what the score of the answer loses without it (leave-one-out). The engine is asked
the same question once more, and once per left-out item, all in one batch, over a trie in which nothing but the answers
is open: masks never renormalise and the beam is wider than the answer is long, so that exactly the answers come back,
with the scores that they have anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.catalogue.catalogue import Catalogue
from model_store.semantic_ids.trie import RuleMask
from service.async_tasks import gather_or_cancel
from service.engines.base import SearchRequest, SearchResult
from service.models.manager import Serving

LEFT_OUT = 20
"""History items, the newest ones, whose contribution is measured."""

EXAMPLES = 3
"""Items shown below each prefix, the most popular ones."""


class Reason(NamedTuple):
    """Why one answer was given."""

    contributions: npt.NDArray[np.float32] | None  # [t]
    code_log_probs: npt.NDArray[np.float32] | None  # [L]


@dataclass(frozen=True)
class Reasons:
    """Why each of n answers was given.

    Attributes:
        rows: The answers, ``[n]``.
        history: Rows of the newest history items, oldest first, ``[t]``.
        contributions: ``[n, t]``, score with all of the history less score without the item; ``None`` where the history
            is that one item.
        code_log_probs: ``[n, L]``, summing up to each answer's log-probability; ``None`` where the engine tells none.
    """

    rows: npt.NDArray[np.int64]
    history: npt.NDArray[np.int64]
    contributions: npt.NDArray[np.float32] | None
    code_log_probs: npt.NDArray[np.float32] | None

    def of(self, row: int) -> Reason:
        """Why one of ``rows`` was answered; of any other row nothing is known."""
        places = np.flatnonzero(self.rows == row)[:1]
        if not len(places):
            return Reason(None, None)
        contributions = None if self.contributions is None else self.contributions[places[0]]
        by_code = None if self.code_log_probs is None else self.code_log_probs[places[0]]
        return Reason(contributions, by_code)


_NO_ROWS = np.empty(0, dtype=np.int64)
NO_REASONS = Reasons(_NO_ROWS, _NO_ROWS, None, None)
"""Of answers that no model gave."""


async def reasons(serving: Serving, question: SearchRequest, rows: npt.NDArray[np.int64], budget_s: float) -> Reasons:
    """Measure why the model answered ``rows``, in that order, to a question.

    Args:
        serving: The model that answered.
        question: What it was asked.
        rows: Its answers, ``[n]``.
        budget_s: Seconds from now until the answer is worthless.

    Raises:
        QueueFull, DeadlineMissed, NotReady: See :meth:`~service.scheduling.batcher.Batcher.submit`; one search needs
            up to :data:`LEFT_OUT` + 1 places in the queue.
    """
    if not len(rows):
        return NO_REASONS
    longest = serving.model.engine.max_history
    question = replace(question, history=question.history[-longest:])  # leaving one out must not let an older one in
    asked = questions(question, await asyncio.to_thread(restricted_to, question.catalogue, rows), len(rows))
    found = await gather_or_cancel([serving.batcher.submit(each, budget_s) for each in asked])
    places = [_places(each, rows) for each in found]
    scores = np.stack([each.score[place] for each, place in zip(found, places, strict=True)])
    contributions = (scores[0] - scores[1:]).T if len(asked) > 1 else None
    by_code = found[0].log_probs
    by_code = None if by_code is None else by_code[places[0]]
    return Reasons(rows, question.history[-LEFT_OUT:], contributions, by_code)


def questions(question: SearchRequest, mask: RuleMask, answers: int) -> list[SearchRequest]:
    """The question over the mask, then without each of the newest history items, oldest first."""
    again = replace(
        question,
        k=answers,
        rule=mask,
        excluded=question.excluded[:0],
        max_per_prefix=None,
        # Every answer is a beam: no need for dense candidates.
        fusion=question.fusion.model_copy(update={"candidates": 0}),
    )
    history = question.history
    places = range(max(0, len(history) - LEFT_OUT), len(history)) if len(history) > 1 else ()
    return [again, *(replace(again, history=np.delete(history, place)) for place in places)]


def restricted_to(catalogue: Catalogue, rows: npt.NDArray[np.int64]) -> RuleMask:
    """The mask that leaves these rows open and nothing else."""
    is_open = np.zeros(len(catalogue), dtype=np.bool_)
    is_open[rows] = True
    return catalogue.trie.mask(is_open)


def _places(found: SearchResult, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where each of ``rows`` is in ``found``, which holds exactly these items."""
    order = np.argsort(found.rows)
    return order[np.searchsorted(found.rows, rows, sorter=order)]


class PrefixExamples:
    """The most popular visible items below prefixes of one catalogue; what answers share is looked up once."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._known: dict[tuple[int, ...], tuple[int, Sequence[int]]] = {}

    def below(self, prefix: tuple[int, ...]) -> tuple[int, Sequence[int]]:
        """How many visible items are below, and rows of the most popular ones."""
        if prefix not in self._known:
            self._known[prefix] = self._look_up(prefix)
        return self._known[prefix]

    def _look_up(self, prefix: tuple[int, ...]) -> tuple[int, Sequence[int]]:
        leaves = self._catalogue.trie.leaves_below(prefix)
        rows = self._catalogue.trie.leaf_item[leaves.start : leaves.stop]
        rows = rows[~self._catalogue.is_hidden[rows]]
        order = np.argsort(-self._catalogue.popularity[rows], kind="stable")
        return len(rows), rows[order[:EXAMPLES]].tolist()


def explanations_of(catalogue: Catalogue, rows: npt.NDArray[np.int64], why: Reasons) -> list[dict[str, object]]:
    """The documented form of reasons, one for each of ``rows``. Milliseconds on large catalogues."""
    examples = PrefixExamples(catalogue)
    return [_explanation(catalogue, row, why, examples) for row in rows.tolist()]


def _explanation(catalogue: Catalogue, row: int, why: Reasons, examples: PrefixExamples) -> dict[str, object]:
    codes, reason = catalogue.codes[row].tolist(), why.of(row)
    log_probs = [None] * len(codes) if reason.code_log_probs is None else reason.code_log_probs.tolist()
    parts = []
    for depth, (code, log_prob) in enumerate(zip(codes, log_probs, strict=True)):
        count, below = examples.below(tuple(codes[: depth + 1]))
        shown = [_shown(catalogue, each) for each in below]
        parts.append({"code": code, "log_prob": log_prob, "items": count, "examples": shown})
    had = why.history.tolist()
    values = [None] * len(had) if reason.contributions is None else reason.contributions.tolist()
    history = [_shown(catalogue, each) | {"contribution": value} for each, value in zip(had, values, strict=True)]
    return {"codes": parts, "history": history}


def _shown(catalogue: Catalogue, row: int) -> dict[str, object]:
    return {"item_id": catalogue.item_ids[row], "title": catalogue.titles[row] or None}
