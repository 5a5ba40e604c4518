"""A request in terms of one model's catalogue, as the request path and batch runs ask it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from itertools import compress
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.events.event import EventType
from model_store.events.history_entry import LETTERS, NEGATIVE_LETTERS, UNKNOWN, UNTIMED
from service.answers.absences import ClosingRule
from service.answers.exploration import pool_size
from service.engines.base import SearchRequest
from service.models.loaded_model import LoadedModel
from service.ranking.checks import check_ranking
from service.ranking.compiler import NO_RANKING, CompiledRanking
from service.ranking.filters import CompiledRule, Rule, RuleKey, ViewedItem, read_filter
from service.ranking.keys import UNRANKED, RankingKey
from service.ranking.ranking import Asked, Ranking
from service.schemas.recommend import RecommendRequest
from service.settings import Settings
from service.store.base import History
from service.store.client import StoreClient, StoredHistory


class Query(NamedTuple):
    """A request in terms of one model's catalogue."""

    model: LoadedModel
    request: RecommendRequest
    item_ids: list[str]  # of the history as the model reads it, oldest first
    known: npt.NDArray[np.int64]  # rows of those that are known, in order
    rule_key: RuleKey
    rule: CompiledRule
    excluded: npt.NDArray[np.int64]  # rows of denied items, and of seen ones that must not come again
    fresh_boost: float
    ranking: CompiledRanking  # what changes the order of the answer
    left_out: Sequence[str] = ()  # further items that must not be answered
    disliked: Sequence[str] = ()  # items that the user spoke against

    @property
    def beam_width(self) -> int:
        """Width of the beam that answers at the model's quality."""
        k = self.request.k
        return self.model.beam_width(k if self.request.exploration is None else pool_size(k))

    def search_request(self, beam_width: int) -> SearchRequest:
        """Return the question to the engine, without what is arranged afterwards.

        If the request explores, all candidates are asked for.
        """
        fusion = self.model.fusion(beam_width)
        explores = self.request.exploration is not None
        return SearchRequest(
            history=self.known,
            k=beam_width + fusion.candidates if explores else self.request.k,
            beam_width=beam_width,
            rule=self.rule.mask,
            excluded=self.excluded,
            catalogue=self.model.catalogue,
            max_per_prefix=self.ranking.key.first_code_limit,
            fusion=fusion,
            neighbours=self.model.neighbours,
            ranker=self.model.ranker,
            fresh_boost=self.fresh_boost,
            steer=self.ranking.key.steer,
            with_parts=self.request.explain,
        )

    def start_ranking(self) -> Ranking:
        """Return a ranking that arranges the answer."""
        asked = Asked(self.request.k, self.rule, self.excluded)
        return Ranking(self.model.catalogue, self.model.rules, self.ranking, asked)

    @property
    def pinned_rows(self) -> npt.NDArray[np.int64]:
        """Rows of the pins that the answer obeys."""
        if not self.ranking.key.pins:
            return np.empty(0, dtype=np.int64)
        return np.array([pin.row for pin in self.start_ranking().pins], dtype=np.int64)

    def closing_rule(self, row: int) -> ClosingRule | None:
        """Return the rule that closes an item; ``None`` if it is open.

        Takes milliseconds on large catalogues: not for the event loop.
        """
        catalogue = self.model.catalogue
        if catalogue.is_hidden[row]:
            return ClosingRule("hidden", None)
        part = self.model.rules.closing_part(self.rule_key, row)
        if part is not None:
            return ClosingRule("filtered", f"filter.{part}")

        denied = (self.request.filter and self.request.filter.deny) or ()
        if catalogue.item_ids[row] in denied:
            return ClosingRule("denied", "filter.deny")
        if catalogue.item_ids[row] in self.disliked:
            return ClosingRule("disliked", None)
        return ClosingRule("seen", "exclude_seen") if row in self.excluded else None


def given_history(request: RecommendRequest) -> StoredHistory | None:
    """Return the request's own history, even an empty one; ``None`` if that of its user must be read."""
    if request.history is None and request.user_id is not None:
        return None
    return StoredHistory(History.untyped(request.history or []), is_missing=False)


async def read_history(store_client: StoreClient, request: RecommendRequest) -> StoredHistory:
    """Return the request's own history, even an empty one, else the stored one of its user."""
    given = given_history(request)
    if given is not None:
        return given
    assert request.user_id is not None
    return await store_client.history(request.user_id)


def read_rule(request: RecommendRequest, model: LoadedModel | None) -> Rule:
    """Return the rule of a request's filter, with the values of the viewed item in their places.

    Args:
        request: The request.
        model: The model that answers, in whose catalogue the item is looked up; ``None`` if none is loaded.
    """
    if request.filter is None or model is None or request.viewed_item is None:
        return read_filter(request.filter)
    return read_filter(request.filter, ViewedItem.find(model.catalogue, request.viewed_item))


class QueryBuilder:
    """Builds queries of the request path: compiles, in a thread, what is not compiled yet."""

    def __init__(self, settings: Settings) -> None:
        self._fresh_boost = settings.fresh_boost
        self._default_letters = letters_to_leave_out(settings.exclude_seen_event_types)

    async def build(
        self,
        model: LoadedModel,
        request: RecommendRequest,
        history: History,
        rule_key: RuleKey,
        left_out: Sequence[str] = (),
        at: float | None = None,
    ) -> Query:
        """Return the query of a user; see :func:`build_query`. Boosts apply as at a Unix time ``at``, or as now.

        Raises:
            InvalidFields: The model cannot obey the rules.
        """
        rule = model.rules.find(rule_key)
        if rule is None:
            rule = await asyncio.to_thread(model.rules.compile, rule_key)

        key = RankingKey.of(request, time.time() if at is None else at)
        ranking = NO_RANKING if key is UNRANKED else await self._find_ranking(model, key, rule_key, rule)
        return build_query(
            model, request, history, rule_key, rule, self._default_letters, self._fresh_boost, ranking, left_out
        )

    async def build_again(self, query: Query, request: RecommendRequest, history: History) -> Query:
        """Return the query of the same user, with the same history, for another request."""
        rule = read_rule(request, query.model)
        return await self.build(query.model, request, history, rule.key, query.left_out)

    async def steer_by_boosts(self, query: Query) -> Query:
        """Return a query whose steering is boosts, for popular items: no search steers them."""
        if not query.ranking.key.steer:
            return query
        key = query.ranking.key.for_popular_items()
        return query._replace(ranking=await self._find_ranking(query.model, key, query.rule_key, query.rule))

    async def _find_ranking(
        self, model: LoadedModel, key: RankingKey, rule_key: RuleKey, rule: CompiledRule
    ) -> CompiledRanking:
        check_ranking(key, model.catalogue.trie.levels, model.engine.can_steer)
        found = model.rankings.find(key, rule_key)
        return found if found is not None else await asyncio.to_thread(model.rankings.compile, key, rule_key, rule)


def build_query(
    model: LoadedModel,
    request: RecommendRequest,
    history: History,
    rule_key: RuleKey,
    rule: CompiledRule,
    default_letters: bytes,
    fresh_boost: float,
    ranking: CompiledRanking,
    left_out: Sequence[str] = (),
) -> Query:
    """Return the query of a user.

    Args:
        model: The model that answers.
        request: The request; the history in it, and its user, are not read.
        history: The user's history, ``[n]``.
        rule_key: The key of the request's filter.
        rule: The same, compiled for the model's catalogue.
        default_letters: Letters whose items ``exclude_seen = true`` leaves out.
        fresh_boost: Nats added to the score of new items.
        ranking: The request's boosts, pins, limits and steering, compiled for the model's catalogue and the filter.
        left_out: Ids of further items that must not be answered.
    """
    asked = request.exclude_seen
    letters = default_letters if asked is True else letters_to_leave_out(asked or ())
    read, disliked = _without_disliked(history)
    known = model.catalogue.rows(read.item_ids)
    excluded = _seen_rows(model, read, known, letters)
    denied = [*((request.filter and request.filter.deny) or ()), *left_out, *disliked]
    if denied:
        excluded = np.concatenate([excluded, model.catalogue.rows(denied)])
    return Query(
        model, request, read.item_ids, known, rule_key, rule, excluded, fresh_boost, ranking, left_out, disliked
    )


def _without_disliked(history: History) -> tuple[History, list[str]]:
    """Return the history that the model reads, and the items that the user spoke against: they are never answered."""
    letters = history.letters.translate(None, NEGATIVE_LETTERS)
    if len(letters) == len(history.letters):
        return history, []

    is_disliked = [letter in NEGATIVE_LETTERS for letter in history.letters]
    read = [item_id for item_id, against in zip(history.item_ids, is_disliked, strict=True) if not against]
    return History(read, letters), list(compress(history.item_ids, is_disliked))


def letters_to_leave_out(types: Iterable[EventType]) -> bytes:
    """Return the letters whose items are left out of answers: those of these types.

    Interactions of unknown type are left out with any of them, for they may have been of that type.
    """
    letters = [LETTERS[kind] for kind in types]
    return "".join([*letters, UNKNOWN, UNTIMED]).encode() if letters else b""


def _seen_rows(
    model: LoadedModel, history: History, known: npt.NDArray[np.int64], letters: bytes
) -> npt.NDArray[np.int64]:
    """Return the rows of the history's items that were seen in one of these ways.

    Args:
        model: The model that answers.
        history: The history, ``[n]``.
        known: Rows of its known items, in order.
        letters: Letters, each one way in which an item was seen.
    """
    if not history.letters.translate(None, letters):
        return known  # as always with a history of the request's own; needs no second look-up
    is_seen = [letter in letters for letter in history.letters]
    return model.catalogue.rows(list(compress(history.item_ids, is_seen)))
