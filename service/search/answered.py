"""Answer to a query: its items, where they come from, and what chance and rules did to it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from model_store.attribution.token import Chance, new_answer_id
from service.answers.explanations import NO_EXPLANATIONS, Explanations
from service.answers.exploration import Drawn, draw
from service.answers.popular import FallbackReason
from service.engines.base import SearchResult
from service.schemas.ranking import RuleCost
from service.search.query import Query

ServedBy = Literal["model", "cache", "popular"]

NOTHING = SearchResult(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32), np.empty(0, dtype=np.float32))
"""No items."""


class Answered(NamedTuple):
    """The items that answer a query, and where they come from."""

    found: SearchResult
    served_by: ServedBy
    explanations: Explanations = NO_EXPLANATIONS
    fallback_reason: FallbackReason | None = None
    rule_costs: Sequence[RuleCost] = ()
    chance: Chance | None = None  # if the request explores


def answer_nothing(query: Query) -> Answered:
    """Return no items, labelled as the path that would have answered under a rule that allows some."""
    if len(query.known):
        return Answered(NOTHING, "model")
    return Answered(NOTHING, "popular", fallback_reason=FallbackReason.EMPTY_RULE)


async def draw_places(query: Query, pool: SearchResult) -> Drawn:
    """Leave places of an answer to chance if the request explores; else the pool is the answer."""
    exploration = query.request.exploration
    if exploration is None or not len(pool.rows):
        return Drawn(pool, None)
    return await asyncio.to_thread(draw, pool, query.pinned_rows, query.request.k, exploration, new_answer_id())


def unknown_items(query: Query) -> list[str]:
    """Return the ids of the history that the catalogue lacks, each once, in order."""
    if len(query.known) == len(query.item_ids):
        return []

    row_of = query.model.catalogue.row_of
    return list(dict.fromkeys(item_id for item_id in query.item_ids if item_id not in row_of))
