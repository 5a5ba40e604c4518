"""Examples of every operation, for GET /docs: a request that works, and an answer of the shape that it gets.

They speak of the films of ``make demo``. The tests send every request to the real app and compare the fields of the
answers; the numbers in an answer are those of some model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Example:
    """Example of one operation.

    Attributes:
        answer: The answer, JSON or text.
        body: Body of the request; text if it is not JSON, ``None`` if there is none.
        path: Parameters in the path, by name.
        query: Parameters of the query string, by name.
    """

    answer: Any
    body: Any = None
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str | int] = field(default_factory=dict)


_VERSION = "20261123t233548z-1a39742d"
_REQUEST_ID = "a361cafacb95417d91e91e93fe573c66"
_TOY_STORY = {"item_id": "1", "title": "Toy Story", "codes": [3, 22, 13]}
_NEW_ITEM = {"title": "A New Comedy", "categories": ["Comedy"], "attributes": {"year": 1998, "price": 9.5}}

_RECOMMENDED = {
    "request_id": _REQUEST_ID,
    "model_version": _VERSION,
    "served_by": "model",
    "degraded": False,
    "took_ms": 14.496,
    "unknown_items": [],
    "items": [{"item_id": "1", "score": -2.174, "log_prob": -4.058, "codes": [3, 22, 13], "title": "Toy Story"}],
}
_COUNTED = {
    "model_version": _VERSION,
    "items": [{**_TOY_STORY, "events": 2.75, "popularity": 452}],
}
_SHOWN = {
    "item_id": "new-1",
    "model_version": _VERSION,
    "revision": 2,
    **_NEW_ITEM,
    "codes": [3, 7, 11],
    "hidden": False,
    "is_new": True,
}

EXAMPLES: Mapping[str, Example] = {
    "recommend": Example(
        body={
            "user_id": "u1",
            "k": 10,
            "filter": {"categories": ["Comedy"], "attributes": [{"field": "year", "gte": 1990}]},
        },
        answer=_RECOMMENDED,
    ),
    "recommend_batch": Example(
        body=[{"user_id": "u1", "k": 5}, {"history": ["50", "1"], "k": 5}],
        answer=[_RECOMMENDED, _RECOMMENDED],
    ),
    "record_events": Example(
        body=[
            {"user_id": "u1", "item_id": "50", "type": "view"},
            {"user_id": "u1", "item_id": "1", "type": "purchase", "timestamp": "2026-01-05T10:00:00Z"},
        ],
        answer={
            "accepted": 2,
            "duplicates": 0,
            "event_ids": ["0f7b9d0c51a54f0d8a4bb6f6c0a0e3d1", "9a1c2e4f60718293a4b5c6d7e8f90a1b"],
            "timestamps": [1767607210, 1767607200],
        },
    ),
    "get_user": Example(
        path={"user_id": "u1"},
        answer={
            "user_id": "u1",
            "count": 2,
            "history": ["1", "50"],
            "interactions": [
                {"item_id": "1", "type": "purchase", "timestamp": 1767607200},
                {"item_id": "50", "type": "view", "timestamp": 1767607210},
            ],
            "newest_event_at": 1767607210,
        },
    ),
    "delete_user": Example(path={"user_id": "u1"}, answer={"history": 2, "events": 2}),
    "upload_items": Example(
        body="".join(
            json.dumps(item) + "\n"
            for item in (
                {"item_id": "1", "title": "Toy Story", "categories": ["Comedy"], "attributes": {"year": 1995}},
                {"item_id": "50", "title": "Star Wars", "categories": ["Action"], "attributes": {"year": 1977}},
            )
        ),
        answer={"items": 2, "new": 2, "revision": 3, "recommendable_after_ms": 9.25},
    ),
    "put_item": Example(
        path={"item_id": "new-1"},
        body=_NEW_ITEM,
        answer={
            "item_id": "new-1",
            "model_version": _VERSION,
            "revision": 1,
            "codes": [3, 7, 11],
            "is_new": True,
            "nearest": [_TOY_STORY],
            "recommendable_after_ms": 6.125,
        },
    ),
    "patch_item": Example(
        path={"item_id": "new-1"},
        body={"attributes": {"price": 8.0}, "hidden": False},
        answer={**_SHOWN, "revision": 3, "attributes": {"year": 1998, "price": 8.0}},
    ),
    "get_item": Example(path={"item_id": "new-1"}, answer=_SHOWN),
    "delete_item": Example(path={"item_id": "new-1"}, answer={"item_id": "new-1", "revision": 4, "hidden": True}),
    "similar_items": Example(
        path={"item_id": "1"},
        query={"k": 5},
        answer={"model_version": _VERSION, "items": [{**_TOY_STORY, "similarity": 0.83, "shared_codes": 1}]},
    ),
    "items_by_codes": Example(
        path={"prefix": "3"},
        query={"limit": 5, "offset": 0},
        answer={
            "model_version": _VERSION,
            "prefix": [3],
            "name": "Children's · Comedy",
            "total": 1,
            "items": [_TOY_STORY],
            "next_codes": [{"code": 22, "name": "Animation", "items": 1}],
            "common": [
                {"field": "category", "value": "Comedy", "share": 1.0, "catalogue_share": 0.31, "lift": 3.2},
            ],
            "measured_items": 1,
        },
    ),
    "popular_items": Example(query={"category": "Comedy", "k": 5}, answer=_COUNTED),
    "trending_items": Example(query={"k": 5}, answer=_COUNTED),
    "get_model": Example(answer={"version": _VERSION, "engine": "onnx", "items": 1282}),
    "health_live": Example(answer={"status": "live"}),
    "health_ready": Example(
        answer={
            "status": "ready",
            "model_version": _VERSION,
            "live_store": "up",
            "live_store_problem": "",
            "problem": "",
        }
    ),
    "metrics": Example(answer='etegrec_answers_total{served_by="model"} 12.0\n'),
}
"""Examples by operation id, in an order in which all requests can be sent."""
