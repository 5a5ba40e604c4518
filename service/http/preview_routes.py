"""Endpoints of previews: what a placement or a new item would change. Nothing is stored."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request

from service.http.body import read_json
from service.http.disconnect import run_until_client_leaves
from service.http.endpoints import Endpoint, read_query
from service.http.limits import ITEM_BOUNDS, check_k, check_limits, placement_bounds
from service.models.loaded_model import LoadedModel
from service.previews.audience import Rows
from service.previews.items import PreviewedItem
from service.previews.placements import PreviewedPlacement, count_places
from service.schemas.items import ONE_ITEM, ItemBody, ShownItem, build_coded_item, build_near_item
from service.schemas.placements import ONE_PLACEMENT, Placement
from service.schemas.previews import (
    SHOWN_ITEMS,
    AnswersPreview,
    CodeExposure,
    ItemExposure,
    ItemPreviewQuery,
    ItemPreviewResponse,
    PlacementPreviewQuery,
    PlacementPreviewResponse,
)
from service.service import Service


async def preview_placement(service: Service, request: Request) -> PlacementPreviewResponse:
    """Show what rules would change, before they are stored: exposure by first code, items that gain and lose.

    A sample of histories is answered twice, under the rules so far and under these. It counts nowhere. Experiments are
    left out. It costs about as much as a batch of twice as many requests, and previews are worked on one by one.
    """
    query = read_query(request, PlacementPreviewQuery)
    rules = await read_json(request, service.settings, ONE_PLACEMENT, placement_bounds(service.settings))
    check_limits(rules, service.settings)
    found = await run_until_client_leaves(request, service.placement_previews.preview(rules, query))
    return _build_placement_preview(found)


async def preview_item(service: Service, request: Request) -> ItemPreviewResponse:
    """Show where a new item would stand, before it is stored: its codes, who would see it, and what it displaces.

    A sample of histories is answered twice, without the item and with it, under no rules but `k`. It counts nowhere.
    Another new item that comes first may take the codes.
    """
    query = read_query(request, ItemPreviewQuery)
    check_k(query.k, service.settings)
    body = await read_json(request, service.settings, ONE_ITEM, ITEM_BOUNDS)
    found = await run_until_client_leaves(request, service.item_previews.preview(body, query))
    return _build_item_preview(found)


def _build_placement_preview(found: PreviewedPlacement) -> PlacementPreviewResponse:
    model = found.model
    before = count_places(found.before)
    after = count_places(found.after)
    rows = sorted(before.keys() | after.keys())
    items: list[ItemExposure] = [
        {**build_coded_item(model.catalogue, row), "before": before[row], "after": after[row]} for row in rows
    ]
    gained = sorted(items, key=lambda each: each["before"] - each["after"])
    lost = sorted(items, key=lambda each: each["after"] - each["before"])
    return {
        "model_version": model.version,
        "histories": len(found.sample.histories),
        "users": found.sample.users,
        "changed": found.changed,
        "ignored_rules": found.ignored_rules,
        "before": _build_answers(found.before, found.k_before),
        "after": _build_answers(found.after, found.k),
        "codes": _build_codes(model, items),
        "gained": [each for each in gained[:SHOWN_ITEMS] if each["after"] > each["before"]],
        "lost": [each for each in lost[:SHOWN_ITEMS] if each["after"] < each["before"]],
    }


def _build_answers(answers: Sequence[Rows], k: int) -> AnswersPreview:
    places = count_places(answers)
    return {
        "k": k,
        "items": places.total(),
        "different_items": len(places),
        "short": sum(len(rows) < k for rows in answers),
    }


def _build_codes(model: LoadedModel, items: Sequence[ItemExposure]) -> list[CodeExposure]:
    codes: dict[int, CodeExposure] = {}
    for item in sorted(items, key=lambda each: -each["before"] - each["after"]):
        code = item["codes"][0]
        if code not in codes:
            example: ShownItem = {"item_id": item["item_id"], "title": item.get("title")}
            name = model.names.name([code])
            codes[code] = {"code": code, "name": name, "example": example, "before": 0, "after": 0}
        codes[code]["before"] += item["before"]
        codes[code]["after"] += item["after"]
    return sorted(codes.values(), key=lambda each: (-each["before"] - each["after"], each["code"]))


def _build_item_preview(found: PreviewedItem) -> ItemPreviewResponse:
    model = found.model
    codes = model.catalogue.codes[found.row].tolist()
    displaced = found.displaced.most_common(SHOWN_ITEMS)
    return {
        "model_version": model.version,
        "codes": codes,
        "names": [model.names.name(codes[: depth + 1]) for depth in range(len(codes))],
        "nearest": [build_near_item(model.catalogue, row) for row in found.nearest.tolist()],
        "histories": len(found.sample.histories),
        "users": found.sample.users,
        "ranks": found.ranks,
        "displaced": [{**build_coded_item(model.catalogue, row), "answers": count} for row, count in displaced],
    }


ENDPOINTS = (
    Endpoint(
        "POST",
        "/placements/preview",
        preview_placement,
        "read",
        "placements",
        problems=(400, 404, 429, 503, 504),
        body=Placement,
        query=PlacementPreviewQuery,
    ),
    Endpoint(
        "POST",
        "/items/preview",
        preview_item,
        "read",
        "items",
        problems=(400, 409, 429, 503, 504),
        body=ItemBody,
        query=ItemPreviewQuery,
    ),
)
