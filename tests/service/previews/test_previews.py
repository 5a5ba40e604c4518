"""Previews over HTTP: they say what a write would do, and do nothing themselves."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.app import create_app
from service.errors import TooManyPreviews
from service.previews.turn import MOST_WAITING, Turn
from service.service import Service
from service.store.base import Store
from tests.support.flaky_store import FlakyStore
from tests.support.hash_coder import hash_coder
from tests.support.service_harness import Json, fast_settings, live_store, metric, running, serving, until

pytestmark = pytest.mark.anyio

EXAMPLES = 3
"""Histories that the small bundle of the tests brings along."""


def fast_app(folder: Path, store: Store | None = None) -> FastAPI:
    """Return an app that can place new items."""
    return create_app(fast_settings(folder, catalogue_poll_s=0.01), store=store, coders=hash_coder)


async def _visit(client: httpx.AsyncClient, users: int) -> None:
    """Give users a history of one item each, and answer them once."""
    events = [{"user_id": f"u{row}", "item_id": f"item-{row}", "type": "view"} for row in range(users)]
    assert (await client.post("/events", json=events)).status_code == 200
    for row in range(users):
        await client.post("/recommend", json={"user_id": f"u{row}"})


async def _answers(client: httpx.AsyncClient, users: int, **rules: Any) -> list[list[str]]:
    """Return the ids that each user is answered under these rules."""
    asked = [{"user_id": f"u{row}", **rules} for row in range(users)]
    answers = (await client.post("/recommend/batch", json=asked)).json()
    return [[item["item_id"] for item in each["items"]] for each in answers]


async def test_a_placement_preview_counts_what_the_answers_then_are(tmp_path: Path) -> None:
    live_store(tmp_path)
    rules = {
        "k": 5,
        "boosts": [{"nats": 20, "categories": ["category-1"]}],
        "pins": [{"position": 1, "item": "item-9"}],
    }
    async with serving(tmp_path) as (client, _):
        await _visit(client, 4)
        found = (await client.post("/placements/preview", params={"histories": 4}, json=rules)).json()
        assert (found["histories"], found["users"]) == (4, 4)

        before = Counter(item for ids in await _answers(client, 4, k=5) for item in ids)
        after = Counter(item for ids in await _answers(client, 4, **rules) for item in ids)
        assert {each["item_id"]: each["after"] - each["before"] for each in found["gained"]} == {
            item: after[item] - before[item] for item in after if after[item] > before[item]
        }
        assert {each["item_id"] for each in found["lost"]} == {item for item in before if after[item] < before[item]}
        assert found["gained"][0]["after"] >= found["gained"][-1]["after"]
        assert sum(each["before"] for each in found["codes"]) == found["before"]["items"] == before.total()
        assert sum(each["after"] for each in found["codes"]) == found["after"]["items"] == after.total()
        assert found["after"]["different_items"] == len(after)
        assert found["changed"] == 4
        for code in found["codes"]:
            shown = (await client.get(f"/items/{code['example']['item_id']}")).json()
            assert (shown["codes"][0], shown["title"]) == (code["code"], code["example"]["title"])
        assert (await client.get("/placements")).json()["placements"] == []


async def test_a_preview_compares_with_the_stored_rules_and_with_a_moment(tmp_path: Path) -> None:
    live_store(tmp_path)
    later = {"nats": 20, "items": ["item-7"], "from": 2_000_000_000, "until": 2_000_000_100}
    rules = {"k": 3, "filter": {"categories": ["category-1", "category-2"]}, "boosts": [later]}
    async with serving(tmp_path) as (client, _):
        await client.put("/placements/home", json={"k": 3, "filter": {"categories": ["category-1", "category-2"]}})
        now = (await client.post("/placements/preview", params={"replaces": "home"}, json=rules)).json()
        assert (now["changed"], now["gained"], now["lost"]) == (0, [], [])

        then: dict[str, Any] = {"replaces": "home", "at": 2_000_000_050}
        found = (await client.post("/placements/preview", params=then, json=rules)).json()
        assert [each["item_id"] for each in found["gained"]] == ["item-7"]
        assert found["histories"] == EXAMPLES

        unknown = await client.post("/placements/preview", params={"replaces": "away"}, json=rules)
        assert unknown.status_code == 404
        assert unknown.json()["type"].endswith("no-such-placement")


async def test_rules_that_need_someone_are_named_and_short_answers_counted(tmp_path: Path) -> None:
    live_store(tmp_path)
    rules = {
        "k": 9,
        "exclude_shown": {"answers": 3},
        "filter": {"categories": {"viewed": True}, "allow": ["item-1", "item-2"]},
    }
    async with serving(tmp_path) as (client, _):
        found = (await client.post("/placements/preview", json=rules)).json()
        assert found["ignored_rules"] == ["filter.categories", "exclude_shown"]
        assert found["before"] == {
            "k": 9,
            "items": 27,
            "different_items": found["before"]["different_items"],
            "short": 0,
        }
        assert found["after"]["short"] == EXAMPLES

        nothing = (await client.post("/placements/preview", json={"filter": {"categories": ["none"]}})).json()
        assert nothing["after"] == {"k": 10, "items": 0, "different_items": 0, "short": EXAMPLES}


@pytest.mark.parametrize(
    ("params", "body", "field"),
    [
        ({}, {"k": 0}, "k"),
        ({}, {"k": 100_000}, "k"),
        ({}, {"filter": {"attributes": [{"field": "weight", "gte": 1}]}}, "filter.attributes.0.field"),
        ({"histories": 0}, {}, "histories"),
        ({"histories": 201}, {}, "histories"),
        ({"replaces": "Home"}, {}, "replaces"),
        ({"at": -1}, {}, "at"),
    ],
)
async def test_wrong_rules_are_named_as_when_they_are_stored(
    params: dict[str, Any], body: Json, field: str, tmp_path: Path
) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        refused = await client.post("/placements/preview", params=params, json=body)
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["field"] == field


async def test_an_item_preview_says_what_a_put_then_does(tmp_path: Path) -> None:
    live_store(tmp_path)
    app = fast_app(tmp_path)
    new = {"title": "A new one", "categories": ["category-1"], "attributes": {"year": 1999}}
    async with running(app) as client:
        await until(lambda: app.state.service.models.current is not None)
        await _visit(client, 6)
        before = await _answers(client, 6, k=8)
        found = (await client.post("/items/preview", params={"k": 8, "histories": 6}, json=new)).json()
        assert (await client.get("/items", params={"query": "A new one"})).json()["total"] == 0
        assert await _answers(client, 6, k=8) == before

        put = (await client.put("/items/n1", json=new)).json()
        assert found["codes"] == put["codes"]
        assert [each["item_id"] for each in found["nearest"]] == [each["item_id"] for each in put["nearest"]]
        assert len(found["names"]) == len(put["codes"])

        after = await _answers(client, 6, k=8)
        assert found["ranks"] == sorted(ids.index("n1") + 1 for ids in after if "n1" in ids)
        gone = Counter(item for old, ids in zip(before, after, strict=True) if "n1" in ids for item in {*old} - {*ids})
        assert {each["item_id"]: each["answers"] for each in found["displaced"]} == gone
        assert found["ranks"], "the test shows nothing if nobody is shown the item"


async def test_items_that_cannot_join_are_refused_as_when_they_are_put(tmp_path: Path) -> None:
    live_store(tmp_path)
    app = fast_app(tmp_path)
    async with running(app) as client:
        await until(lambda: app.state.service.models.current is not None)
        for body in ({"title": "refused"}, {"title": "t", "embedding": [1.0]}, {}, {"attributes": {"a": "x" * 70_000}}):
            refused = await client.post("/items/preview", json=body)
            put = await client.put("/items/n1", json=body)
            assert refused.status_code == put.status_code == 422
            assert refused.json()["errors"] == put.json()["errors"]


async def test_a_preview_counts_nowhere_and_goes_on_while_the_store_is_away(tmp_path: Path) -> None:
    live_store(tmp_path)
    store = FlakyStore(tmp_path / "events")
    app = fast_app(tmp_path, store)
    service: Service = app.state.service
    async with running(app) as client:
        await until(lambda: service.models.current is not None)
        await _visit(client, 2)
        answered = metric(service, "etegrec_answers_total", served_by="model")
        store.is_away = True
        found = (await client.post("/placements/preview", json={"k": 4})).json()
        assert (found["histories"], found["users"]) == (EXAMPLES, 0)
        assert metric(service, "etegrec_answers_total", served_by="model") == answered


async def test_a_forgotten_user_is_in_no_sample(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        await _visit(client, 2)
        await client.delete("/users/u0")
        assert (await client.post("/placements/preview", json={})).json()["users"] == 1


async def test_previews_wait_for_each_other_and_too_many_are_refused() -> None:
    turn = Turn()
    running_now = 0
    order: list[int] = []

    async def work(number: int) -> None:
        nonlocal running_now
        async with turn.taken():
            running_now += 1
            assert running_now == 1
            await asyncio.sleep(0)
            order.append(number)
            running_now -= 1

    tasks = [asyncio.create_task(work(number)) for number in range(MOST_WAITING)]
    await asyncio.gather(*tasks)
    assert order == list(range(MOST_WAITING))

    async with turn.taken():
        waiting = [asyncio.create_task(work(number)) for number in range(MOST_WAITING)]
        await asyncio.sleep(0)
        with pytest.raises(TooManyPreviews):
            await work(99)
    await asyncio.gather(*waiting)


async def test_a_campaign_that_is_stored_already_can_be_looked_at_before_it_begins(tmp_path: Path) -> None:
    live_store(tmp_path)
    rules = {"k": 3, "boosts": [{"nats": 20, "items": ["item-7"], "from": 2_000_000_000}]}
    async with serving(tmp_path) as (client, _):
        await client.put("/placements/home", json=rules)
        params: dict[str, Any] = {"replaces": "home", "at": 2_000_000_050}
        found = (await client.post("/placements/preview", params=params, json=rules)).json()
        assert [each["item_id"] for each in found["gained"]] == ["item-7"]
