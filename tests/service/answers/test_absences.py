"""Why an item is not in an answer: rules by their fields, and scores and siblings by a search by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from model_store.bundle.registry import ModelStore
from service.answers.absences import absence_searches
from service.engines.base import SearchRequest
from service.engines.fake_engine import STEP
from service.engines.torch_engine import TorchEngine
from service.ranking.filters import RuleCompiler
from tests.support.bundles import small_catalogue
from tests.support.random_worlds import random_recommender, small_config
from tests.support.service_harness import live_store, serving

pytestmark = pytest.mark.anyio

Json = dict[str, Any]


async def ask(client: httpx.AsyncClient, **body: Any) -> Json:
    answer = await client.post("/recommend/why-not", json={"history": ["item-4"], **body})
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


async def test_ranks_and_what_is_lacking_agree_with_the_answer(tmp_path: Path) -> None:
    live_store(tmp_path)
    catalogue = ModelStore(tmp_path).bundle().catalogue()
    leaf = catalogue.trie.item_leaf
    async with serving(tmp_path) as (client, _):
        body = {"history": ["item-4"], "k": 5, "exclude_seen": False}
        items = (await client.post("/recommend", json=body)).json()["items"]
        places = {item["item_id"]: rank for rank, item in enumerate(items, start=1)}
        for row in range(40):
            found = await ask(client, item_id=f"item-{row}", k=5, exclude_seen=False)
            distance = (int(leaf[row]) - int(leaf[4]) - 1) % 40
            assert found["log_prob"] == pytest.approx(-STEP * (1 + distance), abs=1e-6)
            assert found["rank"] == places.get(f"item-{row}")
            assert found["verdict"] == ("answered" if found["rank"] else "outscored")
            assert found["last"]["item_id"] == items[-1]["item_id"]
            assert found["lacks"] == pytest.approx(STEP * (distance - 4), abs=1e-6)


async def test_every_rule_that_closes_an_item_is_named(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        await client.delete("/items/item-9")
        cases: list[tuple[str, Json, str, str | None]] = [
            ("item-9", {}, "hidden", None),
            ("item-5", {"filter": {"categories": ["category-0"]}}, "filtered", "filter.categories"),
            ("item-5", {"filter": {"categories_all": ["category-2", "x"]}}, "filtered", "filter.categories_all"),
            ("item-5", {"filter": {"attributes": [{"field": "year", "lt": 1995}]}}, "filtered", "filter.attributes"),
            ("item-5", {"filter": {"allow": ["item-6"]}}, "filtered", "filter.allow"),
            ("item-5", {"filter": {"not": {"categories": ["category-2"]}}}, "filtered", "filter.not"),
            ("item-5", {"filter": {"deny": ["item-5"]}}, "denied", "filter.deny"),
            ("item-4", {}, "seen", "exclude_seen"),
        ]
        for item_id, rules, verdict, field in cases:
            found = await ask(client, item_id=item_id, **rules)
            assert (found["verdict"], found["closed_by"], found["rank"]) == (verdict, field, None)
            assert found["score"] < 0  # what it would have, were it open


@pytest.mark.parametrize("kind", ["dislike", "hide"])
async def test_what_the_user_spoke_against_is_told_from_what_was_seen(tmp_path: Path, kind: str) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        for item_id, type_ in (("item-4", "purchase"), ("item-5", kind)):
            event = {"user_id": "u", "item_id": item_id, "type": type_}
            assert (await client.post("/events", json=event)).status_code == 200
        for exclude_seen in (True, False):
            rules = {"history": None, "user_id": "u", "exclude_seen": exclude_seen}
            disliked = await ask(client, item_id="item-5", **rules)
            assert (disliked["verdict"], disliked["closed_by"]) == ("disliked", None)
        assert (await ask(client, item_id="item-4", history=None, user_id="u"))["verdict"] == "seen"


async def test_without_a_known_history_popular_items_answer(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        found = await ask(client, item_id="item-5", history=["nobody"])
        assert (found["verdict"], found["score"], found["levels"], found["last"]) == ("popular", None, [], None)
        closed = await ask(client, item_id="item-5", history=[], filter={"deny": ["item-5"]})
        assert (closed["verdict"], closed["closed_by"]) == ("denied", "filter.deny")


async def test_what_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        for body, status in (
            ({"item_id": "no-such-item", "history": ["item-1"]}, 404),
            ({"history": ["item-1"]}, 422),
            ({"item_id": "item-1", "explain": True}, 422),
            ({"item_id": "item-1", "k": 100_000}, 422),
            ({"item_id": ""}, 422),
        ):
            assert (await client.post("/recommend/why-not", json=body)).status_code == status, body


async def test_only_max_per_prefix_leaves_out_an_item_that_would_win(tmp_path: Path) -> None:
    live_store(tmp_path)
    catalogue = ModelStore(tmp_path).bundle().catalogue()
    async with serving(tmp_path) as (client, _):
        rules = {"k": 10, "exclude_seen": False}
        items = (await client.post("/recommend", json={"history": ["item-4"], **rules})).json()["items"]
        first = [item["codes"][0] for item in items]
        left_out = next(item for at, item in enumerate(items) if item["codes"][0] in first[:at])
        assert catalogue.row(left_out["item_id"]) is not None
        found = await ask(client, item_id=left_out["item_id"], max_per_prefix=1, **rules)
        assert found["verdict"] == "same_prefix"
        assert found["lacks"] < 0


def test_siblings_and_scores_of_a_real_network_are_those_of_a_whole_search() -> None:
    """With a beam as wide as the catalogue, the strongest sibling is the one that a search of everything shows."""
    config = small_config(layers=1)
    catalogue = small_catalogue(items=40, codebook_size=config.tokenizer.codebook_size)
    network = random_recommender(config, 3)
    engine = TorchEngine({f"recommender.{name}": value.numpy() for name, value in network.state_dict().items()}, config)
    rule = RuleCompiler(catalogue, 4).everything
    asked = SearchRequest(
        history=np.array([3, 7, 1]), k=5, beam_width=50, rule=rule.mask, excluded=np.array([7]), catalogue=catalogue
    )
    [whole] = search(engine, [replace(asked, k=40, excluded=asked.excluded[:0])])
    assert whole.log_probs is not None
    log_probs = {int(row): whole.log_probs[at] for at, row in enumerate(whole.rows)}
    assert len(log_probs) == 40

    for row in (0, 13, 7):
        answer, beams, own, *below = [search(engine, [each])[0] for each in absence_searches(asked, rule, row)]
        assert len(answer.rows) == 5
        assert 7 not in beams.rows
        assert own.log_probs is not None
        assert own.rows.tolist() == [row]
        assert own.log_probs[0] == pytest.approx(log_probs[row], abs=1e-4)
        for depth, siblings in enumerate(below):
            expected = [
                each
                for each in range(40)
                if each != 7
                and (catalogue.codes[each, :depth] == catalogue.codes[row, :depth]).all()
                and catalogue.codes[each, depth] != catalogue.codes[row, depth]
            ]
            assert sorted(siblings.rows.tolist()) == expected
            if expected:
                assert siblings.log_probs is not None
                strongest = max(log_probs[each][depth] for each in expected)
                assert siblings.log_probs[:, depth].max() == pytest.approx(strongest, abs=1e-4)


def search(engine: TorchEngine, requests: list[SearchRequest]) -> list[Any]:
    catalogue = requests[0].catalogue
    return engine.answer(requests, catalogue)
