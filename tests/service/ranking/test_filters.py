from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from model_store.catalogue.catalogue import Catalogue, ItemDelete, ItemPut
from model_store.search.exclusions import closed_nodes
from service.answers.popular import find_popular
from service.engines.base import SearchRequest, SearchResult
from service.engines.fake_engine import FakeEngine
from service.ranking.filters import NumberRange, Rule, RuleCompiler, RuleKey, ViewedItem, read_filter
from service.schemas.rules import AttributeRange, Bound, Filter, ViewedNumber
from tests.support.bundles import small_catalogue

TRAINED = small_catalogue()
TAKEN = set(map(tuple, TRAINED.codes.tolist()))
FREE = [codes for codes in itertools.product(range(8), repeat=3) if codes not in TAKEN]
CATALOGUE = TRAINED.with_changes(
    [
        *(ItemPut(f"item-{row}", "", ("category-0", "category-1"), {"year": 1994.5}) for row in (4, 7)),
        *(ItemPut(f"item-{row}", "", (), {"year": "1994"}) for row in (5, 8)),
        ItemPut("new-1", "New", ("category-2",), {"year": 1996}, np.array(FREE[0], dtype=np.int16)),
        ItemPut("new-2", "Hidden", ("category-2",), {"year": 1996}, np.array(FREE[1], dtype=np.int16)),
        *(ItemDelete(item_id) for item_id in ("item-2", "item-3", "new-2")),
    ]
)


def is_range(bounds: dict[str, Any]) -> bool:
    """Tell whether anything can lie in the range; another one is refused."""
    try:
        AttributeRange.model_validate(bounds)
    except ValidationError:
        return False
    return True


HIDDEN = {"item-2", "item-3", "new-2"}
IDS = list(CATALOGUE.item_ids)
IDS_OR_UNKNOWN = st.lists(st.sampled_from([*IDS, "unknown"]), max_size=50)
CATEGORIES = st.lists(st.sampled_from(["category-0", "category-1", "category-2", "nothing"]), max_size=3)
YEARS = st.none() | st.sampled_from([1990, 1994, 1994.5, 1996, 1999])
BOUNDS = {"field": st.sampled_from(["year", "price"]), "gte": YEARS, "gt": YEARS, "lte": YEARS, "lt": YEARS}
RANGES = st.fixed_dictionaries(BOUNDS).filter(is_range).map(AttributeRange.model_validate)
FILTERS = st.builds(
    Filter,
    categories=st.none() | CATEGORIES,
    categories_all=st.none() | CATEGORIES,
    attributes=st.none() | st.lists(RANGES, max_size=2),
    allow=st.none() | IDS_OR_UNKNOWN,
    deny=st.none() | IDS_OR_UNKNOWN,
)


def allowed(rules: Filter, seen: set[str]) -> set[str]:
    """The definition, item by item."""
    found = set()
    for item_id, categories, attributes in zip(IDS, CATALOGUE.categories, CATALOGUE.attributes, strict=True):
        in_category = rules.categories is None or not set(rules.categories).isdisjoint(categories)
        in_all = set(rules.categories_all or ()) <= set(categories)
        in_ranges = all(inside(attributes.get(bounds.field), bounds) for bounds in rules.attributes or ())
        in_allow = rules.allow is None or item_id in rules.allow
        is_out = item_id in (rules.deny or ()) or item_id in seen or item_id in HIDDEN
        if in_category and in_all and in_ranges and in_allow and not is_out:
            found.add(item_id)
    return found


def inside(value: object, bounds: AttributeRange) -> bool:
    """Tell whether one attribute is a number that keeps the bounds."""
    gte, gt, lte, lt = map(number_of, (bounds.gte, bounds.gt, bounds.lte, bounds.lt))
    return (
        isinstance(value, int | float)
        and (gte is None or value >= gte)
        and (gt is None or value > gt)
        and (lte is None or value <= lte)
        and (lt is None or value < lt)
    )


def number_of(bound: Bound) -> float | None:
    assert not isinstance(bound, ViewedNumber)
    return bound


def ask(rules: Filter, seen: list[str], k: int, per_prefix: int | None) -> tuple[SearchResult, SearchResult]:
    """The answers of the search and of the fallback."""
    compiled = RuleCompiler(CATALOGUE, 8)
    rule = compiled.compile(read_filter(rules).key)
    excluded = CATALOGUE.rows([*seen, *(rules.deny or ())])
    engine = FakeEngine()
    request = SearchRequest(np.array([0]), k, 50, rule.mask, excluded, CATALOGUE, per_prefix)
    [found] = engine.answer([request], CATALOGUE)
    return found, find_popular(CATALOGUE, rule, excluded, k, per_prefix)


def names(found: SearchResult) -> list[str]:
    return [IDS[row] for row in found.rows.tolist()]


@settings(max_examples=60, deadline=None)
@given(FILTERS, st.lists(st.sampled_from(IDS), max_size=40))
def test_search_and_fallback_obey_the_rules_exactly(rules: Filter, seen: list[str]) -> None:
    expected = allowed(rules, set(seen))
    for found in ask(rules, seen, 40, None):
        assert set(names(found)) == expected
        assert len(found.rows) == len(expected)


@settings(max_examples=30, deadline=None)
@given(FILTERS, st.integers(1, 4), st.integers(1, 12))
def test_answers_share_their_first_code_only_so_often(rules: Filter, limit: int, k: int) -> None:
    possible = [int(CATALOGUE.codes[CATALOGUE.row_of[item_id], 0]) for item_id in sorted(allowed(rules, set()))]
    capped = sum(min(limit, len(list(group))) for _, group in itertools.groupby(sorted(possible)))
    for found in ask(rules, [], k, limit):
        _, counts = np.unique(CATALOGUE.codes[found.rows, 0], return_counts=True)
        assert (counts <= limit).all()
        assert len(found.rows) == min(k, capped)


def test_popular_items_come_by_popularity_with_their_log_probability() -> None:
    rules = RuleCompiler(TRAINED, 8)
    found = find_popular(TRAINED, rules.everything, np.empty(0, dtype=np.int64), 40)
    counts = TRAINED.popularity[found.rows]
    assert (np.diff(counts) <= 0).all()
    assert np.exp(found.log_prob).sum() == pytest.approx(1.0, abs=1e-5)


def test_the_fake_engine_answers_the_successors() -> None:
    everything = RuleCompiler(TRAINED, 8).everything.mask
    engine = FakeEngine()
    request = SearchRequest(np.array([3, 5]), 4, 20, everything, np.empty(0, dtype=np.int64), TRAINED)
    [found] = engine.answer([request], TRAINED)
    by_code = sorted(range(40), key=lambda row: TRAINED.codes[row].tolist())
    start = by_code.index(5)
    assert found.rows.tolist() == [by_code[(start + step) % 40] for step in range(1, 5)]
    assert found.log_prob.tolist() == pytest.approx([-0.01, -0.02, -0.03, -0.04])


def test_popular_items_are_found_however_deep_they_lie() -> None:
    rng = np.random.default_rng(0)
    catalogue = dataclasses.replace(
        small_catalogue(items=20_000, codebook_size=32),
        popularity=rng.integers(0, 50, 20_000),
        is_hidden=np.arange(20_000) % 7 == 0,
    )
    rules = RuleCompiler(catalogue, 8)
    order = catalogue.by_popularity
    open_order = order[order % 7 > 0]
    last = [f"item-{row}" for row in open_order[-3:].tolist()]
    found = find_popular(catalogue, rules.compile(RuleKey(allow=frozenset(last))), open_order[-1:].astype(np.int64), 10)
    assert found.rows.tolist() == open_order[-3:-1].tolist()
    found = find_popular(catalogue, rules.everything, order[:9_000].astype(np.int64), 10)
    assert found.rows.tolist() == [row for row in order[9_000:].tolist() if row % 7][:10]


def test_compiled_rules_are_shared_and_the_oldest_forgotten() -> None:
    rules = RuleCompiler(_catalogue_of(5), entries=2)
    keys = [RuleKey(allow=frozenset({f"item-{n}"})) for n in range(3)]
    first = rules.compile(keys[0])
    rules.compile(keys[1])
    assert rules.find(keys[0]) is first
    rules.compile(keys[2])
    assert rules.find(keys[1]) is None
    assert rules.find(keys[0]) is first
    assert rules.find(read_filter(Filter(deny=["item-1"])).key) is rules.everything


def test_a_rule_counts_what_it_names() -> None:
    assert RuleKey().name_count == 0
    wide = {"categories": ["a", "b", "a"], "categories_all": ["c"], "allow": [], "deny": ["x"]}
    assert read_filter(Filter.model_validate(wide)).key.name_count == 3
    bounds = [{"field": "year", "gte": 1}, {"field": "price", "lt": 2}]
    assert read_filter(Filter.model_validate({"attributes": bounds, "allow": ["i", "j"]})).key.name_count == 4


def test_a_rule_that_allows_nothing_says_so() -> None:
    rules = RuleCompiler(CATALOGUE, 4)
    assert rules.compile(RuleKey(allow=frozenset({"unknown"}))).is_empty
    assert rules.compile(RuleKey(categories=frozenset())).is_empty
    assert not rules.compile(RuleKey(categories=frozenset({"category-1", "nothing"}))).is_empty


def _catalogue_of(items: int, codebook_size: int = 8) -> Catalogue:
    return small_catalogue(items=items, codebook_size=codebook_size)


def test_ten_thousand_ids_are_allowed_and_denied() -> None:
    catalogue = _catalogue_of(15_000, codebook_size=32)
    rules = RuleCompiler(catalogue, 2)
    ids = list(catalogue.item_ids)
    rule = rules.compile(RuleKey(allow=frozenset([*ids[:10_000], "unknown"])))
    assert np.flatnonzero(rule.open_rows).tolist() == list(range(10_000))
    denied = catalogue.rows([*ids[5_000:], "unknown"])
    assert denied.tolist() == list(range(5_000, 15_000))
    nodes = np.unpackbits(rule.mask.bits, bitorder="little")[: catalogue.trie.nodes]
    [closed] = closed_nodes(catalogue.trie, [rule.mask], [0], [denied])
    nodes[closed[closed >= 0]] = 0
    assert np.flatnonzero(nodes[catalogue.trie.node_offset[-2] :]).tolist() == sorted(catalogue.trie.item_leaf[:5_000])


@pytest.mark.parametrize(
    "bounds",
    [{"gte": 1, "lte": 1}, {"gt": 1, "lt": 1.5}, {"gte": 2, "gt": 1}, {"lt": 0}, {"gte": -1, "gt": -2, "lte": 0}],
)
def test_ranges_that_something_can_lie_in(bounds: dict[str, float]) -> None:
    AttributeRange.model_validate({"field": "year", **bounds})


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({}, "must have a bound"),
        ({"gte": 2, "lte": 1}, "no number lies in this range"),
        ({"gt": 1, "lte": 1}, "no number lies in this range"),
        ({"gte": 1, "lt": 1}, "no number lies in this range"),
        ({"gte": 1, "gt": 3, "lte": 2}, "no number lies in this range"),
    ],
)
def test_ranges_that_nothing_can_lie_in_are_refused(bounds: dict[str, float], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AttributeRange.model_validate({"field": "year", **bounds})


VIEWED = ViewedItem(("category-1", "category-2"), {"year": 1996, "name": "text", "flag": True})


def rule_of(viewed: ViewedItem | None, **parts: Any) -> Rule:
    return read_filter(Filter.model_validate(parts), viewed)


@settings(max_examples=40, deadline=None)
@given(FILTERS, FILTERS)
def test_what_matches_all_parts_of_not_is_left_out(rules: Filter, inner: Filter) -> None:
    parts = {name: value for name, value in inner.model_dump(exclude_none=True).items() if name != "deny"}
    if not parts:
        return
    full = Filter.model_validate({**rules.model_dump(exclude_none=True), "not": parts})
    excluded = allowed(Filter.model_validate(parts), set())
    for found in ask(full, [], 40, None):
        assert set(names(found)) == allowed(rules, set()) - excluded


def test_values_of_the_viewed_item_stand_in_the_key() -> None:
    asked: dict[str, Any] = {
        "categories": {"viewed": True},
        "attributes": [{"field": "price", "lte": {"viewed": "year", "times": 0.5}, "gt": 3}],
    }
    key = RuleKey(
        categories=frozenset(VIEWED.categories),
        attributes=frozenset({NumberRange("price", None, 3.0, 998.0, None)}),
    )
    assert rule_of(VIEWED, **asked) == Rule(key, [])
    plain = {"categories": ["category-2", "category-1"], "attributes": [{"field": "price", "lte": 998, "gt": 3}]}
    assert rule_of(None, **plain).key == key  # so both share one compiled rule


@pytest.mark.parametrize("viewed", [None, ViewedItem((), {"year": "1996", "flag": True})])
def test_parts_without_a_value_restrict_nothing_and_are_named(viewed: ViewedItem | None) -> None:
    rule = rule_of(
        viewed,
        categories={"viewed": True},
        categories_all={"viewed": True},
        attributes=[
            {"field": "price", "lte": {"viewed": "year"}},
            {"field": "price", "gte": 2, "lt": {"viewed": "flag"}},
        ],
        allow=["item-1"],
    )
    assert rule.key == RuleKey(
        allow=frozenset({"item-1"}), attributes=frozenset({NumberRange("price", 2.0, None, None, None)})
    )
    assert rule.ignored == [
        *("filter.categories", "filter.categories_all"),
        *("filter.attributes.0.lte", "filter.attributes.1.lt"),
    ]


def test_a_not_that_lacks_a_value_restricts_nothing_as_a_whole() -> None:
    asked: dict[str, Any] = {"not": {"categories": {"viewed": True}, "allow": ["item-1"]}}
    assert rule_of(None, **asked) == Rule(RuleKey(), ["filter.not"])
    inner = RuleKey(categories=frozenset(VIEWED.categories), allow=frozenset({"item-1"}))
    assert rule_of(VIEWED, **asked) == Rule(RuleKey(not_=inner), [])
    assert rule_of(VIEWED, **asked).key.name_count == 3


def test_the_viewed_item_is_found_in_the_catalogue() -> None:
    assert ViewedItem.find(CATALOGUE, "item-4") == ViewedItem(("category-0", "category-1"), {"year": 1994.5})
    assert ViewedItem.find(CATALOGUE, "nobody") is None
    assert ViewedItem.find(CATALOGUE, None) is None
    assert [VIEWED.number(name) for name in ("year", "name", "flag", "none")] == [1996.0, None, None, None]
