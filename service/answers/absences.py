"""Absences: why an item is not in an answer, or at which rank it is.

The engine searches again, a few times in one batch: for the answer itself; for all beams; for the item alone, which
gives the score that it would have; and below each prefix of its semantic ID, which gives the sibling that won there.
Masks never renormalise, so all these scores can be compared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from service.answers.explanations import mask_of
from service.async_tasks import gather_or_cancel
from service.engines.base import SearchRequest, SearchResult
from service.models.loaded_model import LoadedModel
from service.models.slot import Serving
from service.ranking.filters import CompiledRule
from service.schemas.absences import CodeStanding, LastAnswered, SiblingCode, Verdict, WhyNotResponse
from service.schemas.items import build_coded_item


class ClosingRule(NamedTuple):
    """The rule that closes an item: however probable it is, it is not answered."""

    verdict: Literal["hidden", "filtered", "denied", "disliked", "seen"]
    field: str | None  # of the request; None: no field of it closes the item


@dataclass(frozen=True)
class Level:
    """One code of the item, and the code that won at its place.

    Attributes:
        log_prob: Log-probability of the code after those before it; ``None`` where the engine gives none.
        survived: Whether an item below the prefix that ends here came out of the search.
        winner: Row of the item that shows the strongest other code after the same codes; ``None`` if no other is open.
        winner_log_prob: Log-probability of that code.
    """

    log_prob: float | None
    survived: bool
    winner: int | None
    winner_log_prob: float | None


class LastPlace(NamedTuple):
    """The last item of an answer."""

    row: int
    score: float
    log_prob: float


@dataclass(frozen=True)
class Absence:
    """What was measured about one item and one answer.

    Attributes:
        verdict: Why the item is not in the answer, or ``answered``, as if no rule closed it.
        rank: Its rank in the answer, from 1; ``None`` if it is not there.
        score: Score that it has, or would have.
        log_prob: Its log-probability.
        last: The last item of the answer; ``None`` if the answer is empty.
        levels: One entry a code.
    """

    verdict: Verdict
    rank: int | None
    score: float
    log_prob: float
    last: LastPlace | None
    levels: Sequence[Level]


@dataclass(frozen=True)
class WhyNot:
    """Why an item is not in an answer, in rows of ``model``'s catalogue."""

    model: LoadedModel
    row: int
    closed: ClosingRule | None
    absence: Absence | None  # None: popular items answer


async def explain_absence(
    serving: Serving, asked: SearchRequest, rule: CompiledRule, row: int, budget_s: float
) -> Absence:
    """Measure why the item in ``row`` is not in an answer.

    Args:
        serving: The model that answers.
        asked: The search for the answer.
        rule: Its rule.
        row: The item.
        budget_s: Seconds from now until nobody waits any more.

    Raises:
        QueueFull, DeadlineMissed, NotReady: See :meth:`~service.scheduling.batcher.Batcher.submit`; it needs one place
            in the queue a code, and three more.
    """
    searches = await asyncio.to_thread(absence_searches, asked, rule, row)
    found = await gather_or_cancel([serving.batcher.submit(each, budget_s) for each in searches])
    answer, beams, own, *below = found
    codes = asked.catalogue.codes

    rank = _place_of(answer, row)
    last = None
    if len(answer.rows):
        last = LastPlace(int(answer.rows[-1]), float(answer.score[-1]), float(answer.log_prob[-1]))
    score = float(own.score[0])
    return Absence(
        verdict=_verdict(asked, answer, rank, score),
        rank=rank,
        score=score,
        log_prob=float(own.log_prob[0]),
        last=last,
        levels=[_level(codes, row, depth, own, beams, siblings) for depth, siblings in enumerate(below)],
    )


def absence_searches(asked: SearchRequest, rule: CompiledRule, row: int) -> list[SearchRequest]:
    """Return the searches: for the answer, for all beams, for the item alone, and below each prefix of its codes."""
    catalogue = asked.catalogue
    alone = asked.fusion.model_copy(update={"candidates": 0})
    beams = replace(asked, k=asked.beam_width, fusion=alone, max_per_prefix=None)
    own = replace(beams, k=1, rule=mask_of(catalogue, np.array([row])), excluded=asked.excluded[:0])

    below = []
    for depth, code in enumerate(catalogue.codes[row].tolist()):
        is_open = rule.open_rows.copy()
        is_open &= (catalogue.codes[:, :depth] == catalogue.codes[row, :depth]).all(axis=1)
        is_open &= catalogue.codes[:, depth] != code  # the siblings, not the item's own path
        below.append(replace(beams, rule=catalogue.trie.mask(is_open)))
    return [asked, beams, own, *below]


def _verdict(asked: SearchRequest, answer: SearchResult, rank: int | None, score: float) -> Verdict:
    if rank is not None:
        return "answered"
    if len(answer.rows) and score <= float(answer.score[-1]):
        return "outscored"
    return "same_prefix" if asked.max_per_prefix is not None else "not_searched"


def _place_of(answer: SearchResult, row: int) -> int | None:
    places = np.flatnonzero(answer.rows == row)
    return int(places[0]) + 1 if len(places) else None


def _level(
    codes: npt.NDArray[np.int16], row: int, depth: int, own: SearchResult, beams: SearchResult, siblings: SearchResult
) -> Level:
    shared = (codes[beams.rows, : depth + 1] == codes[row, : depth + 1]).all(axis=1)
    log_prob = None if own.log_probs is None else float(own.log_probs[0, depth])
    if not len(siblings.rows) or siblings.log_probs is None:
        return Level(log_prob, bool(shared.any()), None, None)

    best = int(np.argmax(siblings.log_probs[:, depth]))
    winner_log_prob = float(siblings.log_probs[best, depth])
    return Level(log_prob, bool(shared.any()), int(siblings.rows[best]), winner_log_prob)


def why_not_document(found: WhyNot) -> WhyNotResponse:
    """Return what was found in its documented JSON form."""
    model = found.model
    absence = found.absence
    verdict: Verdict = "popular" if absence is None else absence.verdict
    last = None if absence is None else absence.last
    return {
        **build_coded_item(model.catalogue, found.row),
        "model_version": model.version,
        "verdict": verdict if found.closed is None else found.closed.verdict,
        "closed_by": None if found.closed is None else found.closed.field,
        "rank": None if absence is None else absence.rank,
        "score": None if absence is None else absence.score,
        "log_prob": None if absence is None else absence.log_prob,
        "lacks": None if absence is None or last is None else last.score - absence.score,
        "last": None if last is None else _build_last(model, last),
        "levels": [] if absence is None else [_build_level(found, each, at) for at, each in enumerate(absence.levels)],
    }


def _build_last(model: LoadedModel, last: LastPlace) -> LastAnswered:
    item = build_coded_item(model.catalogue, last.row)
    return {"item_id": item["item_id"], "title": item["title"], "score": last.score, "log_prob": last.log_prob}


def _build_level(found: WhyNot, level: Level, depth: int) -> CodeStanding:
    prefix = found.model.catalogue.codes[found.row, : depth + 1].tolist()
    return {
        "code": prefix[-1],
        "name": found.model.names.name(prefix),
        "log_prob": level.log_prob,
        "survived": level.survived,
        "sibling": None if level.winner is None else _build_sibling(found.model, level.winner, level, depth),
    }


def _build_sibling(model: LoadedModel, winner: int, level: Level, depth: int) -> SiblingCode:
    item = build_coded_item(model.catalogue, winner)
    prefix = item["codes"][: depth + 1]
    return {
        "code": prefix[-1],
        "name": model.names.name(prefix),
        "log_prob": level.winner_log_prob,
        "example": {"item_id": item["item_id"], "title": item["title"]},
    }
