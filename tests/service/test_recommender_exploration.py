"""Requests that explore, over HTTP, in every path that answers."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from model_store.attribution.keys import AttributionKeys
from model_store.attribution.token import Attribution, verify
from tests.support.service_harness import GatedEngine, live_store, serving, until

pytestmark = pytest.mark.anyio

SECRET = "a secret of the shop"
KEYS = AttributionKeys.of([SECRET.encode()], "")
HISTORY: dict[str, Any] = {"history": ["item-3"], "k": 8}
PIN = {"position": 1, "item": "item-30"}
POPULAR: dict[str, Any] = {"history": [], "k": 8}
WILD = {"temperature": 20.0, "share": 1.0}


def ids(answer: dict[str, Any]) -> list[str]:
    return [each["item_id"] for each in answer["items"]]


def token_of(answer: dict[str, Any]) -> Attribution:
    found = verify(answer["attribution"], KEYS, 60, int(time.time()))
    assert isinstance(found, Attribution)
    return found


async def asked(client: httpx.AsyncClient, body: dict[str, Any]) -> dict[str, Any]:
    answer = await client.post("/recommend", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.mark.parametrize("who", [HISTORY, POPULAR], ids=["model", "popular"])
async def test_the_token_and_explain_hold_the_probability_of_each_item(tmp_path: Path, who: dict[str, Any]) -> None:
    live_store(tmp_path)
    async with serving(tmp_path, attribution_keys=SECRET) as (client, _):
        plain = await asked(client, who)
        explored = await asked(client, {**who, "exploration": {"temperature": 2.0, "slots": 3}, "explain": True})
        metrics = (await client.get("/metrics")).text
    assert "etegrec_explored_answers_total 1.0" in metrics
    assert "etegrec_explored_places_total 3.0" in metrics
    assert token_of(plain).propensities is None
    assert ids(explored)[:5] == ids(plain)[:5]

    found = token_of(explored)
    told = [each["propensity"] for each in explored["items"]]
    assert found.propensities is not None
    assert told[:5] == [1.0] * 5
    assert all(0 < each < 1 for each in told[5:])
    assert found.propensities.tolist() == pytest.approx(told, rel=0.033)
    assert [found.rank(item) for item in ids(explored)] == list(range(1, 9))

    [cost] = [each for each in explored["rules"] if each["rule"] == "exploration"]
    assert set(cost["displaced"]) == set(ids(plain)) - set(ids(explored))
    assert "propensity" not in plain["items"][0]


@pytest.mark.parametrize("who", [HISTORY, POPULAR], ids=["model", "popular"])
async def test_filters_exclusions_limits_and_pins_hold_whatever_chance_brings(
    tmp_path: Path, who: dict[str, Any]
) -> None:
    live_store(tmp_path)
    rules = {
        "pins": [{"position": 2, "item": "item-30"}],
        "filter": {"deny": ["item-7"]},
        "max_per_prefix": {"1": 3, "2": 1},
        "boosts": [{"nats": 1.0, "items": ["item-9", "item-12"]}],
    }
    async with serving(tmp_path, attribution_keys=SECRET) as (client, _):
        answers = [await asked(client, {**who, **rules, "exploration": WILD, "explain": True}) for _ in range(30)]
        plain = await asked(client, {**who, **rules})
    assert len({tuple(ids(answer)) for answer in answers}) > 10
    for answer in answers:
        assert ids(answer)[1] == "item-30"
        assert answer["items"][1]["propensity"] == 1.0
        assert len(set(ids(answer))) == len(ids(answer)) == len(ids(plain))
        assert not {"item-7", "item-3" if who is HISTORY else "item-7"} & set(ids(answer))
        others = [each["codes"] for each in answer["items"] if each["item_id"] != "item-30"]
        assert len({tuple(codes[:2]) for codes in others}) == len(others)
        assert max(sum(other[0] == codes[0] for other in others) for codes in others) <= 3


async def test_cached_answers_are_drawn_anew_and_unexplored_ones_stay(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path, attribution_keys=SECRET, result_cache_entries=100) as (client, _):
        plain = [await asked(client, HISTORY) for _ in range(2)]
        wild = [await asked(client, {**HISTORY, "exploration": WILD}) for _ in range(6)]
        pinned = [await asked(client, {**HISTORY, "exploration": WILD, "pins": [PIN]}) for _ in range(6)]
        off = await asked(client, {**HISTORY, "exploration": None})
    assert ids(plain[0]) == ids(plain[1]) == ids(off)
    assert [each["served_by"] for each in (*plain, off)] == ["model", "cache", "cache"]
    for answers in (wild, pinned):
        assert [each["served_by"] for each in answers] == ["model", *["cache"] * 5]
        assert len({tuple(ids(each)) for each in answers}) > 1
        assert all(token_of(each).propensities is not None for each in answers)
    assert {ids(each)[0] for each in pinned} == {"item-30"}


async def test_a_placement_explores_and_a_request_switches_it_off(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path, attribution_keys=SECRET) as (client, _):
        put = await client.put("/placements/home", json={"k": 5, "exploration": {"share": 0.4}})
        assert put.status_code == 200, put.text
        explored = await asked(client, {"history": ["item-3"], "placement": "home"})
        off = await asked(client, {"history": ["item-3"], "placement": "home", "exploration": None})
        batch = await client.post("/recommend/batch", json=[{"history": ["item-3"], "placement": "home"}])
    found = token_of(explored).propensities
    assert found is not None
    assert (found == 1).tolist() == [True, True, True, False, False]
    assert token_of(off).propensities is None
    assert token_of(batch.json()[0]).propensities is not None


async def test_what_explored_answers_showed_is_not_shown_again(tmp_path: Path) -> None:
    live_store(tmp_path)
    body = {"user_id": "u", "history": ["item-3"], "k": 5, "exclude_shown": {"answers": 3}, "exploration": WILD}
    async with serving(tmp_path) as (client, _):
        pages = [ids(await asked(client, body)) for _ in range(3)]
    assert len({item for page in pages for item in page}) == 15


async def test_an_answer_that_lost_an_item_on_its_way_holds_no_probabilities(tmp_path: Path) -> None:
    live_store(tmp_path)
    engine = GatedEngine()
    engine.gate.set()
    body = {**HISTORY, "exploration": {"slots": 1}}
    settings = {"catalogue_poll_s": 0.01, "attribution_keys": SECRET}
    async with serving(tmp_path, engine.opened, **settings) as (client, _):
        before = await asked(client, body)
        engine.gate.clear()
        computed = len(engine.batches)
        waiting = asyncio.create_task(client.post("/recommend", json=body))
        await until(lambda: len(engine.batches) > computed)
        assert (await client.delete(f"/items/{ids(before)[1]}")).status_code == 200
        engine.gate.set()
        answer = (await waiting).json()
    assert token_of(before).propensities is not None
    assert ids(answer)[:6] == [ids(before)[0], *ids(before)[2:7]]
    assert token_of(answer).propensities is None


@pytest.mark.parametrize(
    ("exploration", "field", "message"),
    [
        ({"share": 1.5}, "exploration.share", "1"),
        ({"slots": 26}, "exploration.slots", "25"),
        ({"slots": 0}, "exploration.slots", "1"),
        ({"slots": 2, "temperature": 0.01}, "exploration.temperature", "0.05"),
        ({"slots": 2, "temperature": 1001}, "exploration.temperature", "1000"),
        ({"slots": 2, "share": 0.5}, "exploration", "exactly one of share and slots"),
        ({"temperature": 1}, "exploration", "exactly one of share and slots"),
    ],
)
async def test_bad_values_are_refused_by_name_and_limit(
    tmp_path: Path, exploration: dict[str, float], field: str, message: str
) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        answers = [
            await client.post("/recommend", json={**HISTORY, "exploration": exploration}),
            await client.put("/placements/home", json={"exploration": exploration}),
        ]
    for answer in answers:
        assert answer.status_code == 422
        [error] = answer.json()["errors"]
        assert error["field"] == field
        assert message in error["message"]
