"""Whole rankings against the best of all items: nothing is missed although each search returns a few."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import TypeAdapter

from service.engines.base import SearchResult
from service.ranking.arrangement import arrange
from service.ranking.compiler import RankingCompiler
from service.ranking.filters import RuleCompiler, read_filter
from service.ranking.keys import RankingKey
from service.ranking.ranking import Asked, Part, Ranking
from service.schemas.rules import Rules
from tests.support.bundles import small_catalogue

RULES: TypeAdapter[Rules] = TypeAdapter(Rules)
CATALOGUE = small_catalogue(items=400)
COMPILER = RuleCompiler(CATALOGUE, 64)
EVERYTHING = COMPILER.everything
NOTHING = np.empty(0, dtype=np.int64)
FOUND = 20
"""Items that a search returns."""


def search(part: Part, scores: npt.NDArray[np.float32]) -> SearchResult:
    """Return the best items of a part, as an exact search of so many beams would."""
    is_open = part.rule.open_rows.copy()
    is_open[part.excluded] = False
    rows = np.flatnonzero(is_open)
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    if part.max_per_prefix is not None:
        seen = CATALOGUE.codes[rows, 0].tolist()
        rows = rows[[seen[:place].count(code) < part.max_per_prefix for place, code in enumerate(seen)]]
    rows = rows[:FOUND]
    return SearchResult(rows, scores[rows], scores[rows])


def start(body: dict[str, Any], excluded: npt.NDArray[np.int64] = NOTHING) -> Ranking:
    rules = RULES.validate_json(json.dumps(body))
    key = RankingKey.of(rules, now=0.0)
    rule_key = read_filter(rules.filter).key
    rule = COMPILER.compile(rule_key)
    compiled = RankingCompiler(CATALOGUE, COMPILER, 4).compile(key, rule_key, rule)
    return Ranking(CATALOGUE, COMPILER, compiled, Asked(rules.k, rule, excluded))


def finish(ranking: Ranking, scores: npt.NDArray[np.float32]) -> int:
    """Search until the answer is complete; return the number of rounds."""
    rounds = 0
    while parts := ranking.next_parts():
        ranking.take([search(part, scores) for part in parts])
        rounds += 1
    return rounds


def best_of_all(ranking: Ranking, asked: Asked, scores: npt.NDArray[np.float32]) -> list[int]:
    is_open = asked.rule.open_rows.copy()
    is_open[asked.excluded] = False
    rows = np.flatnonzero(is_open)
    boosted = scores[rows] + ranking.compiled.nats(rows)
    best: list[int] = rows[arrange(ranking.trie, rows, boosted, ranking.pins, ranking.limits, asked.k)].tolist()
    return best


BOOSTS: list[dict[str, Any]] = [
    {"nats": 3.0, "categories": ["category-1"]},
    {"nats": -6.0, "attributes": [{"field": "year", "gte": 1993}]},
    {"nats": 20.0, "items": [f"item-{row}" for row in range(5)]},
    {"nats": -20.0, "categories": ["category-0", "category-2"]},
]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("boosts", [[0], [1], [3], [0, 2], [0, 1], [2, 3]])
def test_boosted_answers_are_the_best_of_all_items(seed: int, boosts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(scale=3, size=len(CATALOGUE)).astype(np.float32)
    excluded = rng.choice(len(CATALOGUE), 50, replace=False).astype(np.int64)
    body: dict[str, Any] = {"k": 10, "boosts": [BOOSTS[place] for place in boosts]}
    if seed % 3 == 1:
        body["filter"] = {"categories": ["category-1", "category-2"]}
    if seed % 3 == 2:
        body["pins"] = [{"position": 2, "item": f"item-{np.argmin(scores)}"}]
        excluded = excluded[excluded != np.argmin(scores)]

    ranking = start(body, excluded)
    assert finish(ranking, scores) == 1
    rule = COMPILER.compile(read_filter(RULES.validate_json(json.dumps(body)).filter).key)
    assert ranking.found.rows.tolist() == best_of_all(ranking, Asked(10, rule, excluded), scores)
    nats = ranking.compiled.nats(ranking.found.rows)
    np.testing.assert_allclose(ranking.found.score, scores[ranking.found.rows] + nats)
    np.testing.assert_array_equal(ranking.found.log_prob, scores[ranking.found.rows])


@pytest.mark.parametrize("seed", range(12))
def test_limits_leave_no_answer_short_that_could_be_full(seed: int) -> None:
    """The best items all share few prefixes, so that one search finds hardly anything that may be shown."""
    rng = np.random.default_rng(seed)
    limits: dict[str, int] = [{"2": 1}, {"1": 2, "2": 1}, {"1": 3, "3": 1}, {"2": 2}][seed % 4]
    scores = rng.normal(scale=0.1, size=len(CATALOGUE)).astype(np.float32) - 4.0 * CATALOGUE.codes[:, 0]
    scores -= CATALOGUE.codes[:, 1].astype(np.float32)
    k = 12
    ranking = start({"k": k, "max_per_prefix": limits})
    finish(ranking, scores.astype(np.float32))
    assert len(ranking.found.rows) == min(k, len(best_of_all(ranking, Asked(k, EVERYTHING, NOTHING), scores)))
    for depth, most in limits.items():
        prefixes = [tuple(codes) for codes in CATALOGUE.codes[ranking.found.rows, : int(depth)].tolist()]
        assert max(map(prefixes.count, prefixes)) <= most


def test_a_third_round_fills_what_two_leave_short() -> None:
    """So strict limits that each search finds one item more."""
    scores = (-100.0 * CATALOGUE.codes[:, 0] - 10.0 * CATALOGUE.codes[:, 1]).astype(np.float32)
    ranking = start({"k": 40, "max_per_prefix": {"2": 1}})
    assert finish(ranking, scores) == 3
    found = ranking.found.rows
    assert len({tuple(codes) for codes in CATALOGUE.codes[found, :2].tolist()}) == len(found) > FOUND


def test_an_answer_that_cannot_be_full_ends() -> None:
    ranking = start({"k": 20, "max_per_prefix": {"2": 1}, "filter": {"allow": ["item-1", "item-2", "item-3"]}})
    finish(ranking, np.zeros(len(CATALOGUE), dtype=np.float32))
    assert sorted(ranking.found.rows.tolist()) == [1, 2, 3]


def test_pins_that_cannot_stand_say_why() -> None:
    reasons = {1: "excluded", 2: "filtered", 3: "unknown", 9: "beyond_k"}
    pins = [
        {"position": 1, "item": "item-4"},
        {"position": 2, "item": "item-0"},
        {"position": 3, "item": "nobody"},
        {"position": 4, "item": "item-7"},
        {"position": 9, "item": "item-1"},
    ]
    ranking = start({"k": 5, "pins": pins, "filter": {"categories": ["category-1"]}}, np.array([4]))
    assert {each["position"]: each["reason"] for each in ranking.skipped} == reasons
    finish(ranking, -np.arange(len(CATALOGUE), dtype=np.float32))
    assert ranking.found.rows.tolist() == [1, 10, 13, 7, 16]


def test_pins_count_to_the_limits() -> None:
    rows = np.flatnonzero(CATALOGUE.codes[:, 0] == CATALOGUE.codes[0, 0])
    scores = np.zeros(len(CATALOGUE), dtype=np.float32)
    scores[rows] = 5.0
    pins = [{"position": place + 1, "item": f"item-{row}"} for place, row in enumerate(rows[:3])]
    ranking = start({"k": 6, "pins": pins, "max_per_prefix": {"1": 2}})
    finish(ranking, scores)
    found = ranking.found.rows
    assert found[:3].tolist() == rows[:3].tolist()
    assert not set(found[3:]) & set(rows.tolist())
    assert len(found) == 6
