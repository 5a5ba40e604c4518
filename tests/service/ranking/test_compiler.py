"""Compiled boosts: what matches an item, and the parts that are searched apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from pydantic import TypeAdapter

from service.ranking.compiler import FEW_ITEMS, MAX_PARTS, CompiledRanking, RankingCompiler, group_sums
from service.ranking.filters import RuleCompiler, RuleKey
from service.ranking.keys import RankingKey
from service.schemas.rules import Rules
from tests.support.bundles import small_catalogue

RULES: TypeAdapter[Rules] = TypeAdapter(Rules)
CATALOGUE = small_catalogue(items=200)


def compiled(body: str, rule_key: RuleKey = RuleKey()) -> CompiledRanking:  # noqa: B008  immutable
    rules = RuleCompiler(CATALOGUE, 8)
    key = RankingKey.of(RULES.validate_json(body), now=0.0)
    return RankingCompiler(CATALOGUE, rules, 2).compile(key, rule_key, rules.compile(rule_key))


def test_all_boosts_that_match_an_item_add_up() -> None:
    code = int(CATALOGUE.codes[5, 0])
    found = compiled(
        '{"boosts": [{"nats": 1.5, "categories": ["category-0", "category-1"]}, {"nats": -2, "items": ["item-5"]},'
        f'{{"nats": 4, "prefix": [{code}]}},'
        '{"nats": 8, "attributes": [{"field": "year", "gte": 1995}, {"field": "year", "lt": 1996}]}]}'
    )
    rows = np.arange(len(CATALOGUE))
    expected = 1.5 * (rows % 3 < 2) - 2.0 * (rows == 5) + 4.0 * (CATALOGUE.codes[:, 0] == code) + 8.0 * (rows % 10 == 5)
    assert found.nats(rows).tolist() == expected.tolist()
    assert found.nats(rows, without=1).tolist() == (expected + 2.0 * (rows == 5)).tolist()


def test_parts_hold_every_open_item_once_and_each_has_one_sum() -> None:
    found = compiled(
        '{"boosts": [{"nats": 1, "categories": ["category-0"]}, {"nats": -1, "attributes":'
        '[{"field": "year", "gte": 1995}]}]}',
        RuleKey(categories=frozenset(["category-0", "category-1"])),
    )
    open_rows = np.arange(len(CATALOGUE)) % 3 < 2
    assert np.array_equal(sum(part.open_rows.astype(int) for part in found.parts), open_rows.astype(int))
    assert len(found.parts) == 3
    for part in found.parts:
        assert len(np.unique(found.nats(np.flatnonzero(part.open_rows)))) == 1
        assert np.array_equal(part.mask.bits, CATALOGUE.trie.mask(part.open_rows).bits)


def test_a_boost_of_everything_or_of_nothing_splits_nothing() -> None:
    for condition in ('"items": ["unknown"]', '"attributes": [{"field": "year", "gte": 0}]', '"prefix": [7, 7, 7, 7]'):
        assert len(compiled(f'{{"boosts": [{{"nats": 3, {condition}}}]}}').parts) == 1


def test_hidden_items_are_in_no_part() -> None:
    hidden = replace(CATALOGUE, is_hidden=np.arange(len(CATALOGUE)) < 100)
    rules = RuleCompiler(hidden, 8)
    key = RankingKey.of(RULES.validate_json('{"boosts": [{"nats": 3, "categories": ["category-0"]}]}'), now=0.0)
    parts = RankingCompiler(hidden, rules, 2).compile(key, RuleKey(), rules.everything).parts
    assert sum(int(part.open_rows.sum()) for part in parts) == 100
    assert not any(part.open_rows[:100].any() for part in parts)


def test_sums_of_few_items_share_a_part() -> None:
    sums = np.arange(12.0)
    counts = np.array([500, *[1] * 11])
    groups = group_sums(sums, counts)
    assert sorted(group.tolist() for group in groups) == [[0.0], [float(each) for each in range(1, 12)]]


def test_many_sums_of_many_items_are_grouped_where_they_lie_closest() -> None:
    sums = np.array([0.0, 0.1, 5.0, 5.2, 9.0, 20.0])
    groups = group_sums(sums, np.full(6, FEW_ITEMS + 1))
    assert [group.tolist() for group in groups] == [[0.0, 0.1], [5.0, 5.2], [9.0], [20.0]]
    assert len(group_sums(np.arange(50.0), np.full(50, 1000))) == MAX_PARTS


def test_compiled_rankings_are_kept_and_the_oldest_is_dropped() -> None:
    rules = RuleCompiler(CATALOGUE, 8)
    compiler = RankingCompiler(CATALOGUE, rules, 2)
    keys = [
        RankingKey.of(RULES.validate_json(f'{{"boosts": [{{"nats": {nats}, "items": ["item-1"]}}]}}'), now=0.0)
        for nats in (1, 2, 3)
    ]
    first = compiler.compile(keys[0], RuleKey(), rules.everything)
    assert compiler.find(keys[0], RuleKey()) is first
    assert compiler.find(keys[0], RuleKey(categories=frozenset(["category-0"]))) is None
    for key in keys[1:]:
        compiler.compile(key, RuleKey(), rules.everything)
    assert compiler.find(keys[0], RuleKey()) is None
    assert compiler.find(keys[2], RuleKey()) is not None
