"""Endpoints for browsing the catalogue: search, similar items, code prefixes, popular and trending items."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
from starlette.requests import Request

from service.answers.popular import find_popular
from service.answers.similar import find_similar
from service.answers.title_search import MAX_WORDS
from service.answers.trending import EventCounts
from service.errors import InvalidFields, NotFound, NotReady
from service.field_errors import FieldError
from service.http.endpoints import Endpoint, read_id, read_query
from service.http.limits import check_k
from service.models.loaded_model import LoadedModel
from service.ranking.filters import CompiledRule, RuleKey
from service.schemas.browse import (
    CODE_PREFIX,
    CodesQuery,
    CodesResponse,
    CountedItem,
    FoundItem,
    ItemsQuery,
    ItemsResponse,
    PopularQuery,
    PopularResponse,
    SimilarItem,
    SimilarQuery,
    SimilarResponse,
)
from service.schemas.items import build_coded_item
from service.service import Service

_PREFIX = re.compile(CODE_PREFIX, re.ASCII)


async def search_items(service: Service, request: Request) -> ItemsResponse:
    """Search items by words of their titles, in any order, or by their id; hidden items are found as well.

    Without a query, all items are listed, the most popular first.
    """
    query = read_query(request, ItemsQuery)
    if len(query.query.split()) > MAX_WORDS:
        raise InvalidFields([FieldError("query", f"must have at most {MAX_WORDS} words", limit=MAX_WORDS)])
    model = _current_model(service)
    catalogue = model.catalogue
    search = partial(service.titles.find, catalogue, query.query, query.limit, query.offset)
    found = await service.lookups.run(search)

    items: list[FoundItem] = [
        {
            **build_coded_item(catalogue, row),
            "categories": list(catalogue.categories[row]),
            "popularity": int(catalogue.popularity[row]),
            "hidden": bool(catalogue.is_hidden[row]),
            "is_new": row >= catalogue.trained,
        }
        for row in found.rows.tolist()
    ]
    return {"model_version": model.version, "total": found.total, "items": items}


async def similar_items(service: Service, request: Request) -> SimilarResponse:
    """Show items near a given one in embedding space, with the number of leading codes that they share."""
    query = read_query(request, SimilarQuery)
    check_k(query.k, service.settings)
    model = _current_model(service)
    catalogue = model.catalogue
    row = catalogue.row(read_id(request, "item_id"))
    if row is None:
        raise NotFound("the catalogue has no item with this id")

    if model.says_nothing(row):
        return {"model_version": model.version, "items": []}
    found = await service.lookups.run(partial(find_similar, catalogue, row, query.k))
    cosines = [None] * len(found.rows) if found.cosine is None else found.cosine.tolist()

    items: list[SimilarItem] = [
        {**build_coded_item(catalogue, each), "similarity": cosine, "shared_codes": shared}
        for each, cosine, shared in zip(found.rows.tolist(), cosines, found.shared_codes.tolist(), strict=True)
    ]
    return {"model_version": model.version, "items": items}


async def first_codes(service: Service, request: Request) -> CodesResponse:
    """Show all items and the first codes that they have: the root of the tree of codes."""
    return await _show_group(service, read_query(request, CodesQuery), [])


async def items_by_codes(service: Service, request: Request) -> CodesResponse:
    """Show items whose semantic ID begins with these codes, such as `12-200`, and what they have in common."""
    query = read_query(request, CodesQuery)
    return await _show_group(service, query, _read_prefix(request))


async def _show_group(service: Service, query: CodesQuery, prefix: list[int]) -> CodesResponse:
    model = _current_model(service)
    catalogue = model.catalogue
    group = await service.lookups.run(partial(service.code_groups.below, catalogue, prefix))
    if group is None:
        levels = catalogue.codes.shape[1]
        size = catalogue.codebook_size
        raise NotFound(
            f"no semantic ID of the catalogue begins with these codes; they have {levels} codes, each 0 to {size - 1}"
        )

    longer = np.array([[*prefix, each.code] for each in group.next_codes], dtype=np.int64).reshape(-1, len(prefix) + 1)
    next_names = model.names.find(longer)
    page = group.rows[query.offset : query.offset + query.limit].tolist()
    return {
        "model_version": model.version,
        "prefix": prefix,
        "name": model.names.name(prefix) if prefix else None,
        "total": len(group.rows),
        "items": [build_coded_item(catalogue, row) for row in page],
        "next_codes": [
            {
                "code": each.code,
                "name": name,
                "items": each.items,
                "popularity": each.popularity,
                "category": each.category,
            }
            for each, name in zip(group.next_codes, next_names, strict=True)
        ],
        "common": [
            {
                "field": trait.field,
                "value": trait.value,
                "share": trait.share,
                "catalogue_share": trait.catalogue_share,
                "lift": trait.lift,
            }
            for trait in group.traits
        ],
        "measured_items": group.sample,
    }


async def popular_items(service: Service, request: Request) -> PopularResponse:
    """Show items popular in training and by recent events: those recommended to users without history."""
    query = read_query(request, PopularQuery)
    model = _current_model(service)
    return await _rank_by_events(service, model, query, await service.trends.popular_counts(model.catalogue))


async def trending_items(service: Service, request: Request) -> PopularResponse:
    """Show items ranked by recent events only; fewer than `k` if fewer had any."""
    query = read_query(request, PopularQuery)
    model = _current_model(service)
    return await _rank_by_events(service, model, query, await service.trends.trending_counts(model.catalogue))


async def _rank_by_events(
    service: Service, model: LoadedModel, query: PopularQuery, events: EventCounts
) -> PopularResponse:
    check_k(query.k, service.settings)
    catalogue = model.catalogue
    rule = await _find_rule(service, model, query.category)
    found = find_popular(catalogue, rule, catalogue.rows([]), query.k, events=events)

    items: list[CountedItem] = [
        {
            **build_coded_item(catalogue, row),
            "events": events.count_of.get(row, 0.0),
            "popularity": int(catalogue.popularity[row]),
        }
        for row in found.rows.tolist()
    ]
    return {"model_version": model.version, "items": items}


async def _find_rule(service: Service, model: LoadedModel, category: str | None) -> CompiledRule:
    key = RuleKey() if category is None else RuleKey(categories=frozenset([category]))
    rule = model.rules.find(key)
    return rule if rule is not None else await service.lookups.run(partial(model.rules.compile, key))


def _current_model(service: Service) -> LoadedModel:
    model = service.models.current
    if model is None:
        raise NotReady(service.models.problem)
    return model


def _read_prefix(request: Request) -> list[int]:
    text = request.path_params["prefix"]
    if not _PREFIX.fullmatch(text):
        raise InvalidFields([FieldError("prefix", "must be 1 to 8 codes joined by hyphens, such as 12-200")])
    return [int(code) for code in text.split("-")]


_LOOKUP_PROBLEMS = (422, 429, 503, 504)

ENDPOINTS = (
    Endpoint("GET", "/items", search_items, "read", "browsing", problems=_LOOKUP_PROBLEMS, query=ItemsQuery),
    Endpoint(
        "GET",
        "/items/{item_id:id}/similar",
        similar_items,
        "read",
        "browsing",
        problems=(404, *_LOOKUP_PROBLEMS),
        query=SimilarQuery,
    ),
    Endpoint("GET", "/codes", first_codes, "read", "browsing", problems=_LOOKUP_PROBLEMS, query=CodesQuery),
    Endpoint(
        "GET",
        "/codes/{prefix}",
        items_by_codes,
        "read",
        "browsing",
        problems=(404, *_LOOKUP_PROBLEMS),
        query=CodesQuery,
    ),
    Endpoint("GET", "/popular", popular_items, "read", "browsing", problems=_LOOKUP_PROBLEMS, query=PopularQuery),
    Endpoint("GET", "/trending", trending_items, "read", "browsing", problems=_LOOKUP_PROBLEMS, query=PopularQuery),
)
