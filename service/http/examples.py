"""Examples of every operation, for GET /docs: a request that works, and an answer of the shape that it gets.

They speak of the films of ``make demo``. The tests send every request to the real app and compare the fields of the
answers; the numbers in an answer are those of some model.
"""

from __future__ import annotations

from collections.abc import Mapping

from service.http.example import NEW_ITEM, TOY_STORY, VERSION, Example
from service.http.item_examples import ITEM_EXAMPLES

_CANDIDATE = "20261124t020000z-0b54f9aa"
_REQUEST_ID = "a361cafacb95417d91e91e93fe573c66"
_ATTRIBUTION = "AWlbicCMH2P7OnRW0kNDAAAAAAAAAAAAABBK3kZ_xQYz8Zs1w6mJHd0X4b8rUQ"

_RECOMMENDED_ITEMS = [{"item_id": "1", "score": -2.174, "log_prob": -4.058, "codes": [3, 22, 13], "title": "Toy Story"}]
_PINNED = {"item_id": "new-1", "score": -6.02, "log_prob": -7.441, "codes": [3, 7, 11], "title": NEW_ITEM["title"]}
_RECOMMENDED = {
    "request_id": _REQUEST_ID,
    "model_version": VERSION,
    "served_by": "model",
    "degraded": False,
    "took_ms": 14.496,
    "attribution": _ATTRIBUTION,
    "placement": {"name": "home", "revision": 1},
    "experiment": None,
    "ignored_rules": [],
    "unknown_items": [],
    "items": _RECOMMENDED_ITEMS,
}
_PLACEMENT = {
    "name": "home",
    "revision": 1,
    "description": "The start page",
    "rules": {
        "k": 20,
        "exclude_shown": {"answers": 3},
        "filter": {"not": {"categories": ["Horror"]}},
    },
}
_EXPERIMENT = {
    "description": "Do newer films on the start page sell more?",
    "variants": [
        {"name": "control", "share": 0.5},
        {
            "name": "fresh",
            "share": 0.5,
            "rules": {"boosts": [{"nats": 0.5, "attributes": [{"field": "year", "gte": 1997}]}]},
        },
    ],
    "goal": "purchase",
    "ends": "2036-12-31T23:59:59Z",
}
_STORED_EXPERIMENT = {
    "name": "fresh-start",
    "revision": 1,
    "status": "running",
    "experiment": {**_EXPERIMENT, "ends": 2114380799, "starts": 1795910400},
}

EXAMPLES: Mapping[str, Example] = {
    **ITEM_EXAMPLES,
    "put_placement": Example(
        path={"name": "home"},
        query={"revision": 0},
        body={
            "description": "The start page",
            "k": 20,
            "exclude_shown": {"answers": 3},
            "filter": {"not": {"categories": ["Horror"]}},
        },
        answer=_PLACEMENT,
    ),
    "get_placement": Example(path={"name": "home"}, answer=_PLACEMENT),
    "list_placements": Example(answer={"revision": 1, "placements": [_PLACEMENT]}),
    "delete_placement": Example(path={"name": "home"}, answer={"name": "home", "revision": 2}),
    "preview_placement": Example(
        query={"histories": 50},
        body={"k": 10, "pins": [{"position": 1, "item": "1"}], "boosts": [{"nats": 0.5, "categories": ["Comedy"]}]},
        answer={
            "model_version": VERSION,
            "histories": 50,
            "users": 26,
            "changed": 50,
            "ignored_rules": [],
            "before": {"k": 10, "items": 500, "different_items": 183, "short": 0},
            "after": {"k": 10, "items": 500, "different_items": 177, "short": 0},
            "codes": [
                {
                    "code": 3,
                    "name": "Children's · Comedy",
                    "example": {"item_id": "1", "title": "Toy Story"},
                    "before": 41,
                    "after": 66,
                }
            ],
            "gained": [{**TOY_STORY, "before": 4, "after": 50}],
            "lost": [{"item_id": "50", "title": "Star Wars", "codes": [7, 2, 9], "before": 20, "after": 17}],
        },
    ),
    "put_experiment": Example(
        path={"name": "fresh-start"}, query={"revision": 0}, body=_EXPERIMENT, answer=_STORED_EXPERIMENT
    ),
    "get_experiment": Example(path={"name": "fresh-start"}, answer=_STORED_EXPERIMENT),
    "list_experiments": Example(answer={"revision": 1, "experiments": [_STORED_EXPERIMENT]}),
    "delete_experiment": Example(
        path={"name": "fresh-start"}, query={"force": "true"}, answer={"name": "fresh-start", "revision": 2}
    ),
    "get_experiment_report": Example(
        path={"name": "fresh-start"},
        answer={
            "name": "fresh-start",
            "hash": "5d1b6c2e",
            "status": "running",
            "goal": "purchase",
            "control": "control",
            "verdict": "fresh: no difference found so far (3.12 % reach the goal, 2.94 % in the control; the difference"
            " is between -0.71 and +1.07 percentage points)",
            "verdict_kind": "open",
            "variants": [
                {
                    "name": "control",
                    "share": 0.5,
                    "model": None,
                    "versions": [{"version": VERSION, "answers": 15210}],
                    "fallbacks": 0,
                    "subjects": 5012,
                    "answers": 15210,
                    "empty_answers": 0,
                    "errors": 0,
                    "clicks": 1310,
                    "goals": 171,
                    "clickers": 911,
                    "achievers": 147,
                    "values": {"EUR": {"payers": 147, "total": 5312.5}},
                    "latency_p99_ms": 20.0,
                }
            ],
            "days": [
                {
                    "day": "2026-11-29",
                    "variants": [
                        {"name": "control", "answers": 15210, "clicks": 1310, "goals": 171, "values": {"EUR": 5312.5}}
                    ],
                }
            ],
            "comparisons": [
                {
                    "variant": "fresh",
                    "outcome": "reached_goal",
                    "control_mean": 0.0294,
                    "mean": 0.0312,
                    "difference": {"difference": 0.0018, "low": -0.0071, "high": 0.0107},
                    "verdict": "open",
                }
            ],
            "sample_ratio": {"p_value": 1.0, "is_as_designed": True},
            "guardrails": [
                {"variant": "fresh", "figure": "latency_p99_ms", "control": 20.0, "value": 20.0, "holds": True}
            ],
        },
    ),
    "recommend": Example(
        body={
            "user_id": "u1",
            "k": 10,
            "filter": {"categories": ["Comedy"], "attributes": [{"field": "year", "gte": 1990}]},
            "boosts": [{"nats": 0.5, "attributes": [{"field": "year", "gte": 1997}], "until": "2036-12-31T23:59:59Z"}],
            "pins": [{"position": 1, "item": "new-1"}],
            "max_per_prefix": {"1": 4, "2": 2},
        },
        # Without a placement, so that trying it on the page /docs works before anybody made one.
        answer={**_RECOMMENDED, "placement": None, "items": [_PINNED, *_RECOMMENDED_ITEMS], "skipped_pins": []},
    ),
    "recommend_batch": Example(
        body=[{"user_id": "u1", "placement": "home"}, {"history": ["50", "1"], "k": 5}],
        answer=[_RECOMMENDED, _RECOMMENDED],
    ),
    "why_not": Example(
        body={"history": ["50"], "item_id": "1", "k": 10, "filter": {"categories": ["Comedy"]}},
        answer={
            **TOY_STORY,
            "model_version": VERSION,
            "verdict": "outscored",
            "closed_by": None,
            "rank": None,
            "score": -9.25,
            "log_prob": -7.5,
            "lacks": 2.75,
            "last": {"item_id": "50", "title": "Star Wars", "score": -6.5, "log_prob": -5.0},
            "levels": [
                {
                    "code": 3,
                    "name": "Children's · Comedy",
                    "log_prob": -3.5,
                    "survived": False,
                    "sibling": {
                        "code": 7,
                        "name": "Action",
                        "log_prob": -0.5,
                        "example": {"item_id": "50", "title": "Star Wars"},
                    },
                },
            ],
        },
    ),
    "record_events": Example(
        body=[
            {"user_id": "u1", "item_id": "50", "type": "view"},
            {
                "user_id": "u1",
                "item_id": "1",
                "type": "purchase",
                "timestamp": "2026-01-05T10:00:00Z",
                "value": 12.5,
                "currency": "EUR",
                "attribution": _ATTRIBUTION,
            },
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
            "recent_answers": [{"timestamp": 1767607215, "items": ["181", "172"]}],
        },
    ),
    "delete_user": Example(path={"user_id": "u1"}, answer={"history": 2, "events": 2}),
    "get_model": Example(answer={"version": VERSION, "engine": "onnx", "items": 1282}),
    "get_models": Example(
        answer={
            "live": {"version": VERSION, "problem": ""},
            "candidate": {
                "version": _CANDIDATE,
                "share": 0.05,
                "since": "2026-11-29T10:00:00+00:00",
                "state": "serving",
                "problem": "",
                "memory_mb": 212,
            },
            "shadow": None,
            "canary": {
                "version": _CANDIDATE,
                "share": 0.05,
                "here": {
                    "live": {"answers": 9502, "empty_answers": 0, "errors": 0, "latency_p99_ms": 20.0},
                    "candidate": {"answers": 498, "empty_answers": 0, "errors": 0, "latency_p99_ms": 20.0},
                    "guardrails": [
                        {
                            "variant": "candidate",
                            "figure": "error_share",
                            "control": 0.0,
                            "value": 0.0,
                            "holds": True,
                        }
                    ],
                },
                "all_replicas": None,
                "clicks": None,
            },
            "comparison": None,
            "rolled_back": [
                {
                    "version": "20261122t020000z-7c1d9e55",
                    "share": 0.05,
                    "figure": "latency_p99_ms",
                    "reason": "it answers too slowly: 99 of 100 answers within 100 ms, 20 ms by the live version",
                    "at": 1795312800,
                }
            ],
        }
    ),
    "get_attribution": Example(
        query={"days": 1},
        answer={
            "days": [
                {
                    "day": "2026-01-05",
                    "versions": [
                        {
                            "name": VERSION,
                            "answers": 1200,
                            "impressions": 12000,
                            "clicks": 342,
                            "events": {"click": 342, "purchase": 27},
                            "values": {"purchase": {"EUR": 810.5}},
                            "click_through": 0.0285,
                        }
                    ],
                    "placements": [],
                }
            ]
        },
    ),
    "get_code_attribution": Example(
        query={"days": 7},
        answer={
            "model_version": VERSION,
            "days": 7,
            "shown": 84000,
            "clicks": 2390,
            "unplaced_clicks": 4,
            "recent_events": 5210.5,
            "stability": 0.0312,
            "codes": [
                {
                    "code": 3,
                    "name": "Children's · Comedy",
                    "shown": 5120,
                    "shown_share": 0.061,
                    "clicks": 180,
                    "click_through": 0.0352,
                    "trained_share": 0.054,
                    "recent_share": 0.071,
                    "drift": 0.0047,
                }
            ],
        },
    ),
    "health_live": Example(answer={"status": "live"}),
    "health_ready": Example(
        answer={
            "status": "ready",
            "model_version": VERSION,
            "live_store": "up",
            "live_store_problem": "",
            "problem": "",
        }
    ),
    "metrics": Example(answer='etegrec_answers_total{served_by="model"} 12.0\n'),
}
"""Examples by operation id, in an order in which all requests can be sent."""
