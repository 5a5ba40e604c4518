"""Requests with boosts, pins, limits by prefix and steering, over HTTP, in every path that answers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from model_store.bundle.bundle import Bundle
from model_store.bundle.registry import ModelStore
from service.engines.base import Engine
from service.engines.fake_engine import STEP, FakeEngine
from service.settings import Settings
from tests.support.service_harness import live_store, metric, serving

pytestmark = pytest.mark.anyio

HISTORY = {"history": ["item-3"]}
POPULAR: dict[str, Any] = {"history": []}


def ids(answer: dict[str, Any]) -> list[str]:
    return [each["item_id"] for each in answer["items"]]


async def ask(folder: Path, *bodies: dict[str, Any], **given: Any) -> list[dict[str, Any]]:
    async with serving(folder, **given) as (client, _):
        answers = [await client.post("/recommend", json=body) for body in bodies]
    assert [answer.status_code for answer in answers] == [200] * len(bodies), answers[-1].text
    return [answer.json() for answer in answers]


async def refusal(folder: Path, body: dict[str, Any], **given: Any) -> dict[str, Any]:
    async with serving(folder, **given) as (client, _):
        answer = await client.post("/recommend", json=body)
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    return dict(error)


@pytest.mark.parametrize("asked", [HISTORY, POPULAR], ids=["model", "popular"])
async def test_a_boost_brings_items_that_no_search_would_find(tmp_path: Path, asked: dict[str, Any]) -> None:
    live_store(tmp_path)
    asked = {**asked, "k": 5}
    plain, everything = await ask(tmp_path, asked, {**asked, "k": 37})
    last = ids(everything)[-1]
    boosts = [{"nats": 20.0, "items": [last, "unknown"]}, {"nats": -20.0, "items": ids(plain)[:2]}]
    [boosted] = await ask(tmp_path, {**asked, "boosts": boosts})
    assert ids(boosted) == [last, *[item for item in ids(everything) if item not in ids(plain)[:2]][:4]]
    scores = {each["item_id"]: each["log_prob"] for each in everything["items"]}
    assert boosted["items"][0]["score"] == pytest.approx(20.0 + scores[last])
    assert [each["log_prob"] for each in boosted["items"]] == pytest.approx([scores[item] for item in ids(boosted)])
    assert "rules" not in boosted
    assert "skipped_pins" not in boosted


async def test_boosts_apply_within_their_time_only(tmp_path: Path) -> None:
    live_store(tmp_path)
    now = int(time.time())
    times: list[dict[str, int]] = [{}, {"until": now - 5}, {"from": now + 600}, {"from": now - 5, "until": now + 600}]
    bodies = [{**HISTORY, "boosts": [{"nats": 9, "items": ["item-30"], **each}]} for each in times]
    plain, *found = await ask(tmp_path, HISTORY, *bodies)
    assert [ids(each)[0] == "item-30" for each in found] == [True, False, False, True]
    assert ids(found[1]) == ids(found[2]) == ids(plain)


@pytest.mark.parametrize("asked", [HISTORY, POPULAR], ids=["model", "popular"])
async def test_pins_stand_where_they_are_wanted(tmp_path: Path, asked: dict[str, Any]) -> None:
    live_store(tmp_path)
    pins = [{"position": 3, "item": "item-30"}, {"position": 1, "item": "item-8"}, {"position": 9, "item": "item-9"}]
    plain, pinned = await ask(tmp_path, {**asked, "k": 8}, {**asked, "k": 6, "pins": pins})
    others = [item for item in ids(plain) if item not in ("item-30", "item-8")]
    assert ids(pinned) == ["item-8", others[0], "item-30", *others[1:4]]
    assert pinned["skipped_pins"] == [{"position": 9, "item": "item-9", "reason": "beyond_k"}]


async def test_a_pin_keeps_to_filter_exclusions_and_visibility(tmp_path: Path) -> None:
    live_store(tmp_path)
    pins = [{"position": n + 1, "item": f"item-{row}"} for n, row in enumerate((3, 4, 5, 7))]
    body = {**HISTORY, "k": 4, "pins": pins, "filter": {"categories": ["category-0", "category-1"], "deny": ["item-4"]}}
    async with serving(tmp_path) as (client, _):
        await client.delete("/items/item-7")
        answer = (await client.post("/recommend", json=body)).json()
    reasons = {each["item"]: each["reason"] for each in answer["skipped_pins"]}
    assert reasons == {"item-3": "excluded", "item-4": "excluded", "item-5": "filtered", "item-7": "hidden"}
    assert len(answer["items"]) == 4


@pytest.mark.parametrize("asked", [HISTORY, POPULAR], ids=["model", "popular"])
async def test_limits_hold_at_every_depth(tmp_path: Path, asked: dict[str, Any]) -> None:
    live_store(tmp_path)
    as_number, by_depth, deep = await ask(
        tmp_path,
        {**asked, "k": 6, "max_per_prefix": 2},
        {**asked, "k": 6, "max_per_prefix": {"1": 2}},
        {**asked, "k": 8, "max_per_prefix": {"1": 2, "2": 1}},
    )
    assert as_number["items"] == by_depth["items"]
    codes = [each["codes"] for each in deep["items"]]
    assert len(codes) == 8
    assert len({tuple(each[:2]) for each in codes}) == 8
    assert max([each[0] for each in codes].count(code) for code in range(8)) <= 2


@pytest.mark.parametrize("asked", [HISTORY, POPULAR], ids=["model", "popular"])
async def test_steering_raises_a_region_and_leaves_probabilities(tmp_path: Path, asked: dict[str, Any]) -> None:
    live_store(tmp_path)
    asked = {**asked, "k": 6}
    plain, everything = await ask(tmp_path, asked, {**asked, "k": 37})
    code = everything["items"][-1]["codes"][0]
    region = [each for each in everything["items"] if each["codes"][0] == code]
    [steered] = await ask(tmp_path, {**asked, "steer": {str(code): 15.0, "99": 3.0}})
    assert ids(steered) == [*[each["item_id"] for each in region], *ids(plain)][:6]
    scores = {each["item_id"]: each["log_prob"] for each in everything["items"]}
    for each in steered["items"]:
        assert each["log_prob"] == pytest.approx(scores[each["item_id"]])
        nats = 15.0 if each["codes"][0] == code else 0.0
        assert each["score"] == pytest.approx(each["log_prob"] + nats)


async def test_cached_answers_are_those_of_the_same_rules(tmp_path: Path) -> None:
    live_store(tmp_path)
    rules: list[dict[str, Any]] = [
        {},
        {"boosts": [{"nats": 9, "items": ["item-30"]}]},
        {"boosts": [{"nats": 8, "items": ["item-30"]}]},
        {"pins": [{"position": 2, "item": "item-30"}, {"position": 1, "item": "nobody"}]},
        {"steer": {"5": 1.0}},
        {"max_per_prefix": {"2": 1}},
    ]
    async with serving(tmp_path, result_cache_entries=10) as (client, service):
        first = [(await client.post("/recommend", json={**HISTORY, **each})).json() for each in rules]
        again = [(await client.post("/recommend", json={**HISTORY, **each})).json() for each in rules]
        assert metric(service, "etegrec_result_cache_lookups_total", result="hit") == len(rules)
    assert {each["served_by"] for each in again} == {"cache"}
    assert [each["items"] for each in again] == [each["items"] for each in first]
    assert again[3]["skipped_pins"] == [{"position": 1, "item": "nobody", "reason": "unknown"}]


@pytest.mark.parametrize("asked", [HISTORY, POPULAR], ids=["model", "popular"])
async def test_an_explained_answer_says_what_each_rule_cost(tmp_path: Path, asked: dict[str, Any]) -> None:
    live_store(tmp_path)
    asked = {**asked, "k": 4, "explain": True}
    plain, everything = await ask(tmp_path, asked, {**asked, "k": 37})
    last = ids(everything)[-1]
    body: dict[str, Any] = {
        **asked,
        "boosts": [{"nats": 0.001, "items": ["item-12"], "until": 5}, {"nats": 20, "items": [last]}],
        "pins": [{"position": 2, "item": "nobody"}, {"position": 4, "item": ids(everything)[-2]}],
    }
    [answer] = await ask(tmp_path, body)
    assert ids(answer) == [last, *ids(plain)[:2], ids(everything)[-2]]
    costs = {each["rule"]: each for each in answer["rules"]}
    assert list(costs) == ["boosts.0", "boosts.1", "pins.0", "pins.1"]
    assert [costs[rule]["applied"] for rule in costs] == [False, True, False, True]
    assert costs["boosts.1"]["displaced"] == [ids(plain)[2]]

    own = {each["item_id"]: each["log_prob"] for each in everything["items"]}
    given_up = own[ids(plain)[2]] - own[last]
    assert costs["boosts.1"]["nats"] == pytest.approx(given_up, abs=1e-5)
    assert costs["pins.1"]["nats"] == pytest.approx(own[ids(plain)[2]] - own[ids(everything)[-2]], abs=1e-5)
    assert costs["pins.0"]["nats"] == 0
    assert plain["rules"] == []


async def test_rules_inside_the_search_are_measured_by_another_search(tmp_path: Path) -> None:
    live_store(tmp_path)
    catalogue = ModelStore(tmp_path).bundle().catalogue()
    plain, everything = await ask(tmp_path, {**HISTORY, "k": 5}, {**HISTORY, "k": 37})
    filter_ = {"categories": ["category-1"]}
    code = everything["items"][-1]["codes"][0]
    bodies: list[dict[str, Any]] = [{"filter": filter_}, {"max_per_prefix": 1}, {"steer": {str(code): 15.0}}]
    found = await ask(tmp_path, *[{**HISTORY, "k": 5, "explain": True, **body} for body in bodies])
    own = {each["item_id"]: each["log_prob"] for each in everything["items"]}
    for answer, rule in zip(found, ("filter", "max_per_prefix.1", "steer"), strict=True):
        [cost] = answer["rules"]
        assert cost["rule"] == rule
        given_up = sum(own[item] for item in ids(plain)) - sum(own[item] for item in ids(answer))
        assert cost["nats"] == pytest.approx(given_up, abs=1e-5)
        assert cost["nats"] >= STEP / 2
        assert cost["displaced"] == [item for item in ids(plain) if item not in ids(answer)]
    assert {catalogue.categories[catalogue.row_of[item]] for item in ids(found[0])} == {("category-1",)}


class UnsteeredEngine(FakeEngine):
    """Engine of a release that knew no steering."""

    can_steer = False


def open_unsteered(_: Bundle, __: Settings) -> Engine:
    return UnsteeredEngine()


async def test_a_model_that_cannot_steer_says_so_and_answers_everything_else(tmp_path: Path) -> None:
    live_store(tmp_path)
    for asked in (HISTORY, POPULAR):
        error = await refusal(tmp_path, {**asked, "steer": {"3": 1.0}}, opener=open_unsteered)
        assert error["field"] == "steer"
        assert "publish it again" in error["message"]
    [answer] = await ask(tmp_path, {**HISTORY, "boosts": [{"nats": 9, "items": ["item-30"]}]}, opener=open_unsteered)
    assert ids(answer)[0] == "item-30"


@pytest.mark.parametrize(
    ("rules", "field", "message"),
    [
        ({"max_per_prefix": {"4": 1}}, "max_per_prefix.4", "at most 3 codes"),
        (
            {"boosts": [{"nats": 1, "attributes": [{"field": "price", "gte": 1}]}]},
            "boosts.0.attributes.0.field",
            "year",
        ),
        ({"boosts": [{"nats": 21, "items": ["a"]}]}, "boosts.0.nats", "20"),
        ({"boosts": [{"nats": 1}]}, "boosts.0", "exactly one of categories, attributes, items, prefix"),
        ({"boosts": [{"nats": 1, "items": ["a"], "prefix": [1]}]}, "boosts.0", "exactly one"),
        ({"boosts": [{"nats": 1, "items": ["a"], "from": 9, "until": 9}]}, "boosts.0", "before until"),
        ({"boosts": [{"nats": 1, "items": ["a"]}] * 65}, "boosts", "64"),
        (
            {"boosts": [{"nats": 1, "items": ["a"] * 6}, {"nats": 1, "categories": ["a"] * 5}]},
            "boosts",
            "max_filter_ids",
        ),
        ({"pins": [{"position": 1, "item": "a"}, {"position": 1, "item": "b"}]}, "pins", "two pins have position 1"),
        ({"pins": [{"position": 1, "item": "a"}, {"position": 2, "item": "a"}]}, "pins", "of one item"),
        ({"pins": [{"position": 0, "item": "a"}]}, "pins.0.position", "1"),
    ],
)
async def test_rules_that_make_no_sense_are_refused_by_name(
    tmp_path: Path, rules: dict[str, Any], field: str, message: str
) -> None:
    live_store(tmp_path)
    error = await refusal(tmp_path, {**HISTORY, **rules}, max_filter_ids=10)
    assert error["field"] == field
    assert message in error["message"] + error.get("expected", "")


@pytest.mark.parametrize("steer", [{"3--7": 1.0}, {"x": 1.0}, {"": 1.0}, {"3": 20.5}, {"3": "1"}])
async def test_steering_takes_prefixes_and_nats(tmp_path: Path, steer: dict[str, Any]) -> None:
    live_store(tmp_path)
    error = await refusal(tmp_path, {**HISTORY, "steer": steer})
    assert error["field"].startswith("steer")
