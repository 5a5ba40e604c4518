"""Examples of the operations on items."""

from __future__ import annotations

import json
from collections.abc import Mapping

from service.http.example import NEW_ITEM, TOY_STORY, VERSION, Example

_COUNTED = {
    "model_version": VERSION,
    "items": [{**TOY_STORY, "events": 2.75, "popularity": 452}],
}
_SHOWN = {
    "item_id": "new-1",
    "model_version": VERSION,
    "revision": 2,
    **NEW_ITEM,
    "codes": [3, 7, 11],
    "hidden": False,
    "is_new": True,
}

ITEM_EXAMPLES: Mapping[str, Example] = {
    "upload_items": Example(
        body="".join(
            json.dumps(item) + "\n"
            for item in (
                {"item_id": "1", "title": "Toy Story", "categories": ["Comedy"], "attributes": {"year": 1995}},
                {"item_id": "50", "title": "Star Wars", "categories": ["Action"], "attributes": {"year": 1977}},
            )
        ),
        answer={"items": 2, "new": 2, "say_nothing": 0, "revision": 3, "recommendable_after_ms": 9.25},
    ),
    "put_item": Example(
        path={"item_id": "new-1"},
        body=NEW_ITEM,
        answer={
            "item_id": "new-1",
            "model_version": VERSION,
            "revision": 1,
            "codes": [3, 7, 11],
            "is_new": True,
            "says_nothing": False,
            "nearest": [TOY_STORY],
            "recommendable_after_ms": 6.125,
        },
    ),
    "preview_item": Example(
        query={"histories": 50, "k": 10},
        body=NEW_ITEM,
        answer={
            "model_version": VERSION,
            "codes": [3, 7, 11],
            "names": ["Children's · Comedy", "Comedy", None],
            "nearest": [TOY_STORY],
            "histories": 50,
            "users": 26,
            "ranks": [2, 5, 5, 9],
            "displaced": [{**TOY_STORY, "answers": 2}],
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
        answer={"model_version": VERSION, "items": [{**TOY_STORY, "similarity": 0.83, "shared_codes": 1}]},
    ),
    "search_items": Example(
        query={"query": "toy story", "limit": 5, "offset": 0},
        answer={
            "model_version": VERSION,
            "total": 1,
            "items": [
                {**TOY_STORY, "categories": ["Comedy"], "popularity": 452, "hidden": False, "is_new": False},
            ],
        },
    ),
    "first_codes": Example(
        query={"limit": 5, "offset": 0},
        answer={
            "model_version": VERSION,
            "prefix": [],
            "name": None,
            "total": 1,
            "items": [TOY_STORY],
            "next_codes": [
                {"code": 3, "name": "Children's · Comedy", "items": 1, "popularity": 452, "category": "Comedy"},
            ],
            "common": [],
            "measured_items": 1,
        },
    ),
    "items_by_codes": Example(
        path={"prefix": "3"},
        query={"limit": 5, "offset": 0},
        answer={
            "model_version": VERSION,
            "prefix": [3],
            "name": "Children's · Comedy",
            "total": 1,
            "items": [TOY_STORY],
            "next_codes": [
                {"code": 22, "name": "Animation", "items": 1, "popularity": 452, "category": "Comedy"},
            ],
            "common": [
                {"field": "category", "value": "Comedy", "share": 1.0, "catalogue_share": 0.31, "lift": 3.2},
            ],
            "measured_items": 1,
        },
    ),
    "popular_items": Example(query={"category": "Comedy", "k": 5}, answer=_COUNTED),
    "trending_items": Example(query={"k": 5}, answer=_COUNTED),
}
