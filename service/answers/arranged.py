"""Answers that are arranged after the search: their parts are searched by the model, or among popular items."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from model_store.catalogue.catalogue import Catalogue
from service.answers.popular import find_popular
from service.answers.trending import EventCounts
from service.async_tasks import gather_or_cancel
from service.engines.base import SearchRequest
from service.models.loaded_model import LoadedModel
from service.models.slot import Serving
from service.ranking.ranking import Part, Ranking

POPULAR_CANDIDATES = 200
"""Popular items that are looked at in each part of a ranking."""


async def search_parts(serving: Serving, ranking: Ranking, asked: SearchRequest, deadline: float) -> None:
    """Search all parts of a ranking, those of a round in one batch if possible.

    Args:
        serving: The model that answers.
        ranking: What is asked; it takes what is found.
        asked: The search without boosts, pins and limits of more than one code.
        deadline: Monotonic time, in seconds, when the answer is worthless.

    Raises:
        QueueFull, QueueTooLong, DeadlineMissed, NotReady: See :meth:`~service.scheduling.batcher.Batcher.submit`.
    """
    parts = ranking.next_parts()
    while parts:
        budget_s = deadline - time.monotonic()
        searches = [part_request(serving.model, asked, part) for part in parts]
        ranking.take(await gather_or_cancel([serving.batcher.submit(each, budget_s) for each in searches]))
        parts = () if ranking.is_done else await asyncio.to_thread(ranking.next_parts)


def part_request(model: LoadedModel, asked: SearchRequest, part: Part) -> SearchRequest:
    """Return the search of one part, which is asked for all its candidates."""
    width = asked.beam_width if part.answers <= asked.beam_width else model.beam_width(part.answers)
    fusion = model.fusion(width)
    return replace(
        asked,
        k=width + fusion.candidates,
        beam_width=width,
        fusion=fusion,
        rule=part.rule.mask,
        excluded=part.excluded,
        max_per_prefix=part.max_per_prefix,
    )


def find_popular_parts(catalogue: Catalogue, ranking: Ranking, events: EventCounts | None) -> None:
    """Find popular items in all parts of a ranking. Takes milliseconds: not for the event loop."""
    while parts := ranking.next_parts():
        ranking.take(
            [
                find_popular(catalogue, part.rule, part.excluded, POPULAR_CANDIDATES, part.max_per_prefix, events)
                for part in parts
            ]
        )
