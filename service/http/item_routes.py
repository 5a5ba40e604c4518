"""Changing the live catalogue: one item, or many at once."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from model_store.catalogue.catalogue import Catalogue
from service.answers.similar import similar
from service.errors import FieldError, InvalidFields
from service.http.body import parse_aside
from service.http.bulk_upload import read_lines
from service.http.endpoints import Endpoint, body_of, check_key, id_of, json_answer
from service.schemas.items import MAX_PAYLOAD_BYTES, ItemBody
from service.service import Service

NEAREST = 5
"""Items that the answer to a PUT shows as being like it."""


async def put_item(service: Service, request: Request) -> Response:
    """Add an item, or replace the content of a known one, which also brings it back after a DELETE.

    Whatever is left out is empty afterwards. A new item gets its semantic ID from what is said of it; an update never
    changes it. The answer comes once this replica can recommend the item; others follow within a second.
    """
    check_key(service, request, write=True)
    item_id = id_of(request, "item_id")
    body = await parse_aside(await body_of(service, request), partial(ItemBody.model_validate_json, strict=True))
    size = len(body.payload())
    if size > MAX_PAYLOAD_BYTES:
        raise InvalidFields([FieldError("", f"must be at most {MAX_PAYLOAD_BYTES} bytes long, not {size}")])
    written = await service.catalogue.put(item_id, body)
    catalogue, row = written.model.catalogue, written.row
    near = await service.lookups.run(partial(similar, catalogue, row, NEAREST))
    return json_answer(
        {
            "item_id": item_id,
            "model_version": written.model.version,
            "revision": written.revision,
            "codes": catalogue.codes[row].tolist(),
            "is_new": row >= catalogue.trained,
            "nearest": [_near(catalogue, each) for each in near.rows.tolist()],
            "recommendable_after_ms": round(written.took_ms, 3),
        }
    )


async def delete_item(service: Service, request: Request) -> Response:
    """Hide an item: no answer that is computed from now on contains it. A PUT brings it back."""
    check_key(service, request, write=True)
    item_id = id_of(request, "item_id")
    written = await service.catalogue.delete(item_id)
    hidden = bool(written.model.catalogue.is_hidden[written.row])
    return json_answer({"item_id": item_id, "revision": written.revision, "hidden": hidden})


async def show_item(service: Service, request: Request) -> Response:
    """An item of the catalogue with its semantic ID, hidden or not."""
    check_key(service, request, write=False)
    item_id = id_of(request, "item_id")
    model, row = await service.catalogue.find(item_id)
    catalogue = model.catalogue
    return json_answer(
        {
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
    )


async def put_items(service: Service, request: Request) -> Response:
    """Add or replace many items, one JSON object with an `item_id` a line: all of them or, with a report, none."""
    check_key(service, request, write=True)
    written = await service.catalogue.put_all(await read_lines(request, service.settings))
    return json_answer(
        {
            "items": written.items,
            "new": written.new,
            "revision": written.revision,
            "recommendable_after_ms": round(written.took_ms, 3),
        }
    )


ENDPOINTS = (
    Endpoint("POST", "/items/bulk", put_items),
    Endpoint("PUT", "/items/{item_id:id}", put_item),
    Endpoint("DELETE", "/items/{item_id:id}", delete_item),
    Endpoint("GET", "/items/{item_id:id}", show_item),
)
"""In the order in which they are matched; the last ones take every path below /items, since ids may hold slashes."""


def _near(catalogue: Catalogue, row: int) -> dict[str, object]:
    return {
        "item_id": catalogue.item_ids[row],
        "title": catalogue.titles[row] or None,
        "codes": catalogue.codes[row].tolist(),
    }
