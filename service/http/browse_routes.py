"""Looking around in the live catalogue: similar items, what lies below codes, what is popular and what trends."""

from __future__ import annotations

import re
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from model_store.catalogue.catalogue import Catalogue
from service.answers.popular import find_popular
from service.answers.similar import find_similar
from service.answers.trending import EventCounts
from service.errors import FieldError, InvalidFields, NotFound, NotReady
from service.filters import CompiledRule, RuleKey
from service.http.endpoints import Endpoint, check_key, id_of, json_answer, query_of
from service.http.limits import check_k
from service.models.loaded_model import LoadedModel
from service.schemas.browse import CODE_PREFIX, CodesQuery, PopularQuery, SimilarQuery
from service.service import Service

_PREFIX = re.compile(CODE_PREFIX, re.ASCII)


async def similar_items(service: Service, request: Request) -> Response:
    """Items near a given one in embedding space, with how many leading codes they share."""
    check_key(service, request, write=False)
    asked = query_of(request, SimilarQuery)
    check_k(asked.k, service.settings)
    model = _model(service)
    catalogue = model.catalogue
    row = catalogue.row(id_of(request, "item_id"))
    if row is None:
        raise NotFound("the catalogue has no item with this id")
    found = await service.lookups.run(partial(find_similar, catalogue, row, asked.k))
    cosines = [None] * len(found.rows) if found.cosine is None else found.cosine.tolist()
    items = [
        coded_item(catalogue, each) | {"similarity": cosine, "shared_codes": shared}
        for each, cosine, shared in zip(found.rows.tolist(), cosines, found.shared_codes.tolist(), strict=True)
    ]
    return json_answer({"model_version": model.version, "items": items})


async def items_below_codes(service: Service, request: Request) -> Response:
    """Items whose semantic ID begins with these codes, such as `12-200`, and what they have in common."""
    check_key(service, request, write=False)
    asked, prefix = query_of(request, CodesQuery), _prefix_of(request)
    model = _model(service)
    group = await service.lookups.run(partial(service.code_groups.below, model.catalogue, prefix))
    if group is None:
        levels, size = model.catalogue.codes.shape[1], model.catalogue.codebook_size
        raise NotFound(
            f"no semantic ID of the catalogue begins with these codes; they have {levels} codes, each 0 to {size - 1}"
        )
    page = group.rows[asked.offset : asked.offset + asked.limit].tolist()
    return json_answer(
        {
            "model_version": model.version,
            "prefix": prefix,
            "total": len(group.rows),
            "items": [coded_item(model.catalogue, row) for row in page],
            "next_codes": [{"code": code, "items": items} for code, items in group.next_codes],
            "common": [trait._asdict() | {"lift": trait.lift} for trait in group.traits],
            "measured_items": group.sample,
        }
    )


async def popular_items(service: Service, request: Request) -> Response:
    """Items popular in training and by the events of late: what users without history are recommended."""
    check_key(service, request, write=False)
    asked, model = query_of(request, PopularQuery), _model(service)
    return await _by_events(service, model, asked, await service.trends.popular_counts(model.catalogue))


async def trending_items(service: Service, request: Request) -> Response:
    """Items with the most events of late alone; fewer than `k` if fewer had any."""
    check_key(service, request, write=False)
    asked, model = query_of(request, PopularQuery), _model(service)
    return await _by_events(service, model, asked, await service.trends.trending_counts(model.catalogue))


async def _by_events(service: Service, model: LoadedModel, asked: PopularQuery, events: EventCounts) -> Response:
    check_k(asked.k, service.settings)
    catalogue = model.catalogue
    rule = await _rule(service, model, asked.category)
    found = find_popular(catalogue, rule, catalogue.rows([]), asked.k, events=events)
    items = [
        coded_item(catalogue, row)
        | {"events": events.count_of.get(row, 0.0), "popularity": int(catalogue.popularity[row])}
        for row in found.rows.tolist()
    ]
    return json_answer({"model_version": model.version, "items": items})


async def _rule(service: Service, model: LoadedModel, category: str | None) -> CompiledRule:
    key = RuleKey() if category is None else RuleKey(categories=frozenset([category]))
    rule = model.rules.find(key)
    return rule if rule is not None else await service.lookups.run(partial(model.rules.compile, key))


def coded_item(catalogue: Catalogue, row: int) -> dict[str, object]:
    """An item with its title and semantic ID."""
    return {
        "item_id": catalogue.item_ids[row],
        "title": catalogue.titles[row] or None,
        "codes": catalogue.codes[row].tolist(),
    }


def _model(service: Service) -> LoadedModel:
    model = service.models.current
    if model is None:
        raise NotReady(service.models.problem)
    return model


def _prefix_of(request: Request) -> list[int]:
    text = request.path_params["prefix"]
    if not _PREFIX.fullmatch(text):
        raise InvalidFields([FieldError("prefix", "must be 1 to 8 codes joined by hyphens, such as 12-200")])
    return [int(code) for code in text.split("-")]


ENDPOINTS = (
    Endpoint("GET", "/items/{item_id:id}/similar", similar_items),
    Endpoint("GET", "/codes/{prefix}", items_below_codes),
    Endpoint("GET", "/popular", popular_items),
    Endpoint("GET", "/trending", trending_items),
)
