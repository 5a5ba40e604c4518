"""Endpoints that change and show items of the catalogue: one item, or many at once."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request

from service.answers.similar import find_similar
from service.http.body import read_json
from service.http.bulk_upload import MEDIA_TYPES, read_lines
from service.http.endpoints import Endpoint, key_usage, read_id
from service.http.limits import ITEM_BOUNDS
from service.models.loaded_model import LoadedModel
from service.schemas.items import (
    ONE_ITEM,
    ONE_PATCH,
    BulkItem,
    BulkResponse,
    DeleteResponse,
    ItemBody,
    ItemPatch,
    ItemResponse,
    PutResponse,
    build_near_item,
)
from service.service import Service

NEAREST = 5
"""Number of similar items that the answer to a PUT shows."""


async def put_item(service: Service, request: Request) -> PutResponse:
    """Add an item, or replace the content of a known one, which also brings it back after a DELETE.

    Fields that are left out become empty. A new item gets its semantic ID from its content; an update never changes
    it. The answer comes once this replica can recommend the item; others follow within a second.
    """
    item_id = read_id(request, "item_id")
    body = await read_json(request, service.settings, ONE_ITEM, ITEM_BOUNDS)
    written = await service.catalogue.put(item_id, body)
    catalogue = written.model.catalogue
    row = written.row
    is_unread = written.model.says_nothing(row)
    near = None if is_unread else await service.lookups.run(partial(find_similar, catalogue, row, NEAREST))

    return {
        "item_id": item_id,
        "model_version": written.model.version,
        "revision": written.revision,
        "codes": catalogue.codes[row].tolist(),
        "is_new": row >= catalogue.trained,
        "says_nothing": is_unread,
        "nearest": [] if near is None else [build_near_item(catalogue, each) for each in near.rows.tolist()],
        "recommendable_after_ms": round(written.took_ms, 3),
    }


async def patch_item(service: Service, request: Request) -> ItemResponse:
    """Change some fields of an item, hide it, or bring it back with its content (JSON merge patch, RFC 7396).

    Fields that are given change, null empties one, absent fields stay; so do keys inside `attributes`. A hidden item
    stays hidden unless `hidden` is false. The answer comes once this replica answers with the item as it shows it.
    """
    item_id = read_id(request, "item_id")
    patch = await read_json(request, service.settings, ONE_PATCH, ITEM_BOUNDS)
    written = await service.catalogue.patch(item_id, patch)
    return _build_item(written.model, written.row)


async def delete_item(service: Service, request: Request) -> DeleteResponse:
    """Hide an item: no answer that is computed from now on contains it.

    A PATCH of `{"hidden": false}` brings it back with its content, a PUT with another one.
    """
    item_id = read_id(request, "item_id")
    written = await service.catalogue.delete(item_id)
    is_hidden = bool(written.model.catalogue.is_hidden[written.row])
    return {"item_id": item_id, "revision": written.revision, "hidden": is_hidden}


async def get_item(service: Service, request: Request) -> ItemResponse:
    """Show an item of the catalogue with its semantic ID, hidden or not."""
    item_id = read_id(request, "item_id")
    model, row = await service.catalogue.find(item_id)
    return _build_item(model, row)


async def upload_items(service: Service, request: Request) -> BulkResponse:
    """Add or replace many items, one JSON object with an `item_id` a line: all of them or, with a report, none."""
    with service.upload_slots.taken():
        lines = await read_lines(request, service.settings, key_usage(request))
        written = await service.catalogue.put_all(lines)

    return {
        "items": written.items,
        "new": written.new,
        "say_nothing": written.say_nothing,
        "revision": written.revision,
        "recommendable_after_ms": round(written.took_ms, 3),
    }


def _build_item(model: LoadedModel, row: int) -> ItemResponse:
    catalogue = model.catalogue
    return {
        "item_id": catalogue.item_ids[row],
        "model_version": model.version,
        "revision": model.revision,
        "title": catalogue.titles[row] or None,
        "categories": list(catalogue.categories[row]),
        "attributes": catalogue.attributes[row],
        "codes": catalogue.codes[row].tolist(),
        "hidden": bool(catalogue.is_hidden[row]),
        "is_new": row >= catalogue.trained,
    }


ENDPOINTS = (
    Endpoint(
        "POST",
        "/items/bulk",
        upload_items,
        "catalogue",
        "items",
        problems=(409, 429, 503),
        body=BulkItem,
        body_media=MEDIA_TYPES[0],
    ),
    Endpoint(
        "PUT",
        "/items/{item_id:id}",
        put_item,
        "catalogue",
        "items",
        problems=(400, 409, 429, 503, 504),
        body=ItemBody,
    ),
    Endpoint(
        "PATCH",
        "/items/{item_id:id}",
        patch_item,
        "catalogue",
        "items",
        problems=(400, 404, 503),
        body=ItemPatch,
    ),
    Endpoint("DELETE", "/items/{item_id:id}", delete_item, "catalogue", "items", problems=(404, 422, 503)),
    Endpoint("GET", "/items/{item_id:id}", get_item, "read", "items", problems=(404, 422, 503)),
)
"""Endpoints in the order in which they are matched; the last ones take every path below /items, as ids hold slashes."""
