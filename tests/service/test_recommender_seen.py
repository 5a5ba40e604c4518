"""Which items of the history may be recommended again: by the type of the event that the user saw them in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from model_store.events.event import EVENT_TYPES
from service.service import Service
from tests.support.service_harness import Json, live_store, metric, serving

pytestmark = pytest.mark.anyio

ITEMS = {kind: f"item-{n}" for n, kind in enumerate(EVENT_TYPES)}


def event(item: str, kind: str, at: int, user: str = "u") -> Json:
    return {"event_id": f"{user}-{item}-{kind}", "user_id": user, "item_id": item, "type": kind, "timestamp": at}


async def see_one_of_each(client: httpx.AsyncClient) -> None:
    events = [event(item, kind, n) for n, (kind, item) in enumerate(ITEMS.items(), 1)]
    assert (await client.post("/events", json=events)).json()["accepted"] == len(ITEMS)


async def left_out(client: httpx.AsyncClient, **given: Any) -> set[str]:
    """Return the types whose items are not recommended, of a catalogue that is answered whole."""
    body = {"user_id": "u", "k": 40, **given}
    answer = (await client.post("/recommend", json=body)).json()
    found = {each["item_id"] for each in answer["items"]}
    return {kind for kind, item in ITEMS.items() if item not in found}


async def test_a_view_hides_nothing_and_a_purchase_does(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        await see_one_of_each(client)
        assert await left_out(client) == await left_out(client, exclude_seen=True) == {"purchase", "rating"}
        assert await left_out(client, exclude_seen=False) == await left_out(client, exclude_seen=[]) == set()
        assert await left_out(client, exclude_seen=["view", "cart"]) == {"view", "cart"}
        assert await left_out(client, exclude_seen=list(EVENT_TYPES)) == set(EVENT_TYPES)
        await client.post("/events", json=event(ITEMS["view"], "purchase", 50))
        await client.post("/events", json=event(ITEMS["rating"], "view", 60))
        assert await left_out(client) == {"view", "purchase", "rating"}  # one purchase is enough


async def test_all_events_are_history_for_the_model(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        await client.post("/events", json=[event("item-1", "view", 1), event("item-2", "purchase", 2)])
        stored = (await client.post("/recommend", json={"user_id": "u", "exclude_seen": False})).json()
        inline = (await client.post("/recommend", json={"history": ["item-1", "item-2"], "exclude_seen": False})).json()
    assert stored["served_by"] == "model"
    assert stored["items"] == inline["items"]


async def test_items_of_unknown_type_count_as_seen(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        for exclude_seen, expected in ((True, 38), (["view"], 38), (False, 40), ([], 40)):
            body = {"history": ["item-1", "item-2"], "k": 40, "exclude_seen": exclude_seen}
            assert len((await client.post("/recommend", json=body)).json()["items"]) == expected


@pytest.mark.parametrize(
    ("setting", "expected"), [("view, click", {"view", "click"}), ("", set()), ("rating", {"rating"})]
)
async def test_the_default_is_a_setting(setting: str, expected: set[str], tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path, exclude_seen_types=setting) as (client, _):
        await see_one_of_each(client)
        assert await left_out(client) == expected
        assert await left_out(client, exclude_seen=["purchase"]) == {"purchase"}
        inline = (await client.post("/recommend", json={"history": ["item-1"], "k": 40})).json()
        assert len(inline["items"]) == (39 if expected else 40)


async def test_batches_popular_items_and_explanations_obey_it(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        await see_one_of_each(client)
        bodies = [{"user_id": "u", "k": 40, "exclude_seen": each} for each in (True, False, ["view"])]
        batch = (await client.post("/recommend/batch", json=bodies)).json()
        assert [len(answer["items"]) for answer in batch] == [38, 40, 39]
        explained = (await client.post("/recommend", json={**bodies[2], "explain": True})).json()
        assert ITEMS["view"] not in [each["item_id"] for each in explained["items"]]
        assert ITEMS["purchase"] in [each["item_id"] for each in explained["items"]]
        shown = [each["item_id"] for each in explained["items"][0]["explanation"]["history"]]
        assert shown == list(ITEMS.values())
        hurried = (await client.post("/recommend", json={**bodies[0], "budget_ms": 0.001})).json()
        assert hurried["served_by"] == "popular"
        assert {ITEMS["purchase"], ITEMS["rating"]}.isdisjoint(each["item_id"] for each in hurried["items"])
        assert ITEMS["view"] in [each["item_id"] for each in hurried["items"]]


async def test_kept_answers_know_what_they_left_out(tmp_path: Path) -> None:
    live_store(tmp_path)
    service: Service
    async with serving(tmp_path, result_cache_entries=100) as (client, service):
        await see_one_of_each(client)
        for _ in range(2):
            assert await left_out(client) == {"purchase", "rating"}
            assert await left_out(client, exclude_seen=["view"]) == {"view"}
            assert await left_out(client, exclude_seen=False) == set()
        assert metric(service, "etegrec_result_cache_lookups_total", result="hit") == 3


@pytest.mark.parametrize("wrong", [["buy"], "purchase", 1, None, [["view"]], ["view"] * 6])
async def test_what_is_neither_a_choice_nor_types_is_refused(wrong: object, tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        refused = await client.post("/recommend", json={"history": ["item-1"], "exclude_seen": wrong})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"].startswith("exclude_seen")


@pytest.mark.parametrize("kind", ["dislike", "hide"])
async def test_what_a_user_speaks_against_leaves_the_answers_at_once(tmp_path: Path, kind: str) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        await client.post("/events", json=[event("item-1", "view", 1), event("item-2", "view", 2)])
        asked = {"user_id": "u", "k": 40, "exclude_seen": False}
        before = (await client.post("/recommend", json=asked)).json()
        await client.post("/events", json=[event("item-7", kind, 3), event("unknown", kind, 4)])
        after = (await client.post("/recommend", json=asked)).json()

    assert "item-7" in {each["item_id"] for each in before["items"]}
    # the model reads the same history as before: only the item is gone
    assert after["items"] == [each for each in before["items"] if each["item_id"] != "item-7"]
    assert after["unknown_items"] == []


async def test_a_user_who_only_spoke_against_items_gets_the_popular_ones(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, service):
        await client.post("/events", json=event("item-1", "dislike", 1))
        answer = (await client.post("/recommend", json={"user_id": "u", "k": 40})).json()
        assert metric(service, "etegrec_popular_answers_total", reason="no_history") == 1
    assert answer["served_by"] == "popular"
    assert "item-1" not in {each["item_id"] for each in answer["items"]}
    assert len(answer["items"]) == 39


async def test_an_impression_changes_no_answer(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        await client.post("/events", json=event("item-1", "view", 1))
        before = (await client.post("/recommend", json={"user_id": "u"})).json()
        await client.post("/events", json=event("item-2", "impression", 2))
        after = (await client.post("/recommend", json={"user_id": "u"})).json()
        stored = (await client.get("/users/u")).json()
    assert after["items"] == before["items"]
    assert stored["history"] == ["item-1"]
