"""Endpoints that change and show items of the catalogue: one item, or many at once."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request

from service.answers.similar import find_similar
from service.errors import FieldError, InvalidFields
from service.http.body import read_json
from service.http.bulk_upload import MEDIA_TYPES, read_lines
from service.http.endpoints import Endpoint, key_usage, read_id
from service.http.limits import ITEM_BOUNDS
from service.schemas.items import (
    MAX_PAYLOAD_BYTES,
    ONE_ITEM,
    BulkItem,
    BulkResponse,
    DeleteResponse,
    ItemBody,
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
    size = len(body.payload())
    if size > MAX_PAYLOAD_BYTES:
        raise InvalidFields([FieldError("", f"must be at most {MAX_PAYLOAD_BYTES} bytes long, not {size}")])

    written = await service.catalogue.put(item_id, body)
    catalogue = written.model.catalogue
    row = written.row
    near = await service.lookups.run(partial(find_similar, catalogue, row, NEAREST))

    return {
        "item_id": item_id,
        "model_version": written.model.version,
        "revision": written.revision,
        "codes": catalogue.codes[row].tolist(),
        "is_new": row >= catalogue.trained,
        "nearest": [build_near_item(catalogue, each) for each in near.rows.tolist()],
        "recommendable_after_ms": round(written.took_ms, 3),
    }


async def delete_item(service: Service, request: Request) -> DeleteResponse:
    """Hide an item: no answer that is computed from now on contains it. A PUT brings it back."""
    item_id = read_id(request, "item_id")
    written = await service.catalogue.delete(item_id)
    is_hidden = bool(written.model.catalogue.is_hidden[written.row])
    return {"item_id": item_id, "revision": written.revision, "hidden": is_hidden}


async def show_item(service: Service, request: Request) -> ItemResponse:
    """Show an item of the catalogue with its semantic ID, hidden or not."""
    item_id = read_id(request, "item_id")
    model, row = await service.catalogue.find(item_id)
    catalogue = model.catalogue

    return {
        "item_id": item_id,
        "model_version": model.version,
        "revision": model.revision,
        "title": catalogue.titles[row] or None,
        "categories": list(catalogue.categories[row]),
        "attributes": catalogue.attributes[row],
        "codes": catalogue.codes[row].tolist(),
        "hidden": bool(catalogue.is_hidden[row]),
        "is_new": row >= catalogue.trained,
    }


async def put_items(service: Service, request: Request) -> BulkResponse:
    """Add or replace many items, one JSON object with an `item_id` a line: all of them or, with a report, none."""
    with service.upload_slots.taken():
        lines = await read_lines(request, service.settings, key_usage(request))
        written = await service.catalogue.put_all(lines)

    return {
        "items": written.items,
        "new": written.new,
        "revision": written.revision,
        "recommendable_after_ms": round(written.took_ms, 3),
    }


ENDPOINTS = (
    Endpoint(
        "POST",
        "/items/bulk",
        put_items,
        "catalogue",
        problems=(409, 429, 503),
        body=BulkItem,
        body_media=MEDIA_TYPES[0],
    ),
    Endpoint(
        "PUT",
        "/items/{item_id:id}",
        put_item,
        "catalogue",
        problems=(400, 409, 429, 503, 504),
        body=ItemBody,
    ),
    Endpoint("DELETE", "/items/{item_id:id}", delete_item, "catalogue", problems=(404, 422, 503)),
    Endpoint("GET", "/items/{item_id:id}", show_item, "read", problems=(404, 422, 503)),
)
"""Endpoints in the order in which they are matched; the last ones take every path below /items, as ids hold slashes."""
