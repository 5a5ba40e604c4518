"""Explanations: leave-one-out by hand, on an engine whose answers are known and on a real network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_store.bundle.registry import ModelStore
from model_store.catalogue.catalogue import Catalogue
from model_store.search.fusion import Fusion
from service.answers.explanations import (
    NO_EXPLANATIONS,
    Explanations,
    PrefixExamples,
    explanation_documents,
    leave_one_out,
    mask_of,
)
from service.engines.base import SearchRequest
from service.engines.fake_engine import STEP
from service.engines.torch_engine import TorchEngine
from tests.support.bundles import small_catalogue, small_names
from tests.support.random_worlds import random_recommender, random_vectors, reference, small_config
from tests.support.service_harness import live_store, serving

NOTHING = np.empty(0, dtype=np.int64)


@pytest.mark.anyio
async def test_without_the_newest_item_the_fake_engine_answers_from_the_one_before(tmp_path: Path) -> None:
    live_store(tmp_path)
    catalogue = ModelStore(tmp_path).bundle().catalogue()
    leaf = catalogue.trie.item_leaf
    asked = {"history": ["item-4", "item-9", "item-30"], "k": 5}
    async with serving(tmp_path) as (client, _):
        plain = (await client.post("/recommend", json=asked)).json()["items"]
        explained = (await client.post("/recommend", json=asked | {"explain": True})).json()["items"]
    assert [{name: item[name] for name in item if name != "explanation"} for item in explained] == plain

    def log_prob(item_id: str, newest: int) -> float:
        row = catalogue.row_of[item_id]
        return -STEP * (1 + (int(leaf[row]) - int(leaf[newest]) - 1) % len(catalogue))

    for item in explained:
        assert item["explanation"].keys() == {"parts", "codes", "history"}
        assert [code["code"] for code in item["explanation"]["codes"]] == item["codes"]
        had = item["explanation"]["history"]
        assert [(each["item_id"], each["title"]) for each in had] == [
            (f"item-{row}", f"Title {row}") for row in (4, 9, 30)
        ]
        lost = log_prob(item["item_id"], newest=30) - log_prob(item["item_id"], newest=9)
        assert [each["contribution"] for each in had] == pytest.approx([0, 0, lost], abs=1e-5)


@pytest.mark.anyio
@pytest.mark.parametrize("explored", [None, {"slots": 2}])
async def test_parts_of_a_score_include_what_the_request_adds(tmp_path: Path, explored: object) -> None:
    live_store(tmp_path)
    catalogue = ModelStore(tmp_path).bundle().catalogue()
    asked = {
        "history": ["item-4", "item-9"],
        "k": 8,
        "boosts": [{"nats": 2.5, "items": ["item-12", "item-13"]}],
        "steer": {str(catalogue.codes[20, 0]): 1.25},
        "pins": [{"position": 1, "item": "item-12"}],
        "exploration": explored,
    }
    async with serving(tmp_path) as (client, _):
        answers = [(await client.post("/recommend", json=asked | {"explain": True})).json() for _ in range(2)]
        plain = (await client.post("/recommend", json=asked)).json()

    assert "explanation" not in plain["items"][0]
    for item in answers[1]["items"]:
        parts = item["explanation"]["parts"]
        assert sum(parts.values()) == pytest.approx(item["score"], abs=1e-4)
        assert parts["codes"] == item["log_prob"]
        assert parts["boosts"] == (2.5 if item["item_id"] in {"item-12", "item-13"} else 0)
        assert parts["steer"] == (1.25 if item["codes"][0] == catalogue.codes[20, 0] else 0)
        assert parts["cosine"] == parts["neighbours"] == parts["ranker"] == parts["fresh_boost"] == 0


@pytest.mark.anyio
async def test_long_short_and_missing_histories_are_explained(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):

        async def first(body: dict[str, object]) -> dict[str, Any]:
            answer = (await client.post("/recommend", json=body | {"explain": True})).json()
            return dict(answer["items"][0]["explanation"])

        long = await first({"history": [f"item-{n % 40}" for n in range(70)], "exclude_seen": False})
        alone = await first({"history": ["item-4"]})
        popular = await first({})
        nothing = (await client.post("/recommend", json={"filter": {"allow": []}, "explain": True})).json()
        several = await client.post("/recommend/batch", json=[{}, {"explain": True}])
    assert [each["item_id"] for each in long["history"]] == [f"item-{n % 40}" for n in range(50, 70)]
    assert alone["history"] == [{"item_id": "item-4", "title": "Title 4", "contribution": None}]
    assert popular["history"] == []
    assert popular["parts"] is None
    assert nothing["items"] == []
    assert (several.status_code, several.json()["errors"][0]["field"]) == (422, "1.explain")


@pytest.mark.parametrize("seed", range(4))
def test_contributions_are_what_the_reference_scores_without_each_item(seed: int) -> None:
    config = small_config(layers=1)
    random = np.random.default_rng(seed)
    catalogue = replace(
        small_catalogue(seed, items=60, codebook_size=config.tokenizer.codebook_size),
        vectors=random_vectors(random, config, 60),
    )
    network = random_recommender(config, seed)
    judge = reference(config, network, catalogue.codes, catalogue.vectors)
    engine = TorchEngine({f"recommender.{name}": value.numpy() for name, value in network.state_dict().items()}, config)
    history, weight = random.choice(60, 6, replace=False), 2.0
    question = SearchRequest(
        history=history,
        k=8,
        beam_width=20,
        rule=catalogue.trie.everything,
        excluded=history,
        catalogue=catalogue,
        fusion=Fusion(weight=weight, candidates=20),
    )
    rows = random.choice(np.setdiff1d(np.arange(60), history), 8, replace=False)
    asked = leave_one_out(question, mask_of(catalogue, rows), len(rows))
    assert len(asked) == 7
    for each, left_out in zip(asked, [None, *range(6)], strict=True):
        kept = history if left_out is None else np.delete(history, left_out)
        assert each.history.tolist() == kept.tolist()
        [found] = engine.answer([each], catalogue)
        assert sorted(found.rows.tolist()) == sorted(rows.tolist())
        expected = {row: judge.score(kept, row) + weight * judge.dense_scores(kept)[row] for row in rows.tolist()}
        assert found.log_probs is not None
        np.testing.assert_allclose(found.log_probs.sum(axis=1), found.log_prob, atol=1e-4)
        assert found.score.tolist() == pytest.approx([expected[row] for row in found.rows.tolist()], abs=1e-3)


def test_examples_are_the_most_popular_visible_items_below_a_prefix(rng: np.random.Generator) -> None:
    catalogue = replace(small_catalogue(2, items=200), is_hidden=rng.random(200) < 0.3)
    examples = PrefixExamples(catalogue)
    for row in range(0, 200, 23):
        for depth in (1, 2, 3):
            prefix = tuple(catalogue.codes[row, :depth].tolist())
            below = [n for n in range(200) if tuple(catalogue.codes[n, :depth].tolist()) == prefix]
            visible = [n for n in below if not catalogue.is_hidden[n]]
            count, shown = examples.below(prefix)
            assert count == len(visible)
            popularity = sorted((int(catalogue.popularity[n]) for n in visible), reverse=True)
            assert [int(catalogue.popularity[n]) for n in shown] == popularity[:3]
            assert set(shown) <= set(visible)


def test_log_probabilities_of_codes_are_told_where_the_engine_gives_them() -> None:
    catalogue: Catalogue = small_catalogue()
    rows, by_code = np.array([5, 3]), np.array([[-1, -2, -3], [-4, -5, -6]], dtype=np.float32)
    why = Explanations(rows, np.array([7]), None, by_code)
    names = small_names(catalogue)
    [three, none] = explanation_documents(catalogue, names, np.array([3, 9]), why)
    assert [code["log_prob"] for code in three["codes"]] == [-4, -5, -6]
    assert [code["log_prob"] for code in none["codes"]] == [None] * 3
    assert explanation_documents(catalogue, names, NOTHING, NO_EXPLANATIONS) == []
