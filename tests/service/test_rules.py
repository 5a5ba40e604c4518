from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.catalogue import Catalogue
from service.engines.base import Found, SearchRequest
from service.engines.fake import FakeEngine
from service.fallback import popular
from service.rules import RuleKey, Rules
from service.schemas import Filter
from tests.model_store.bundles import small_catalogue

CATALOGUE = small_catalogue()
IDS = list(CATALOGUE.item_ids)
IDS_OR_UNKNOWN = st.lists(st.sampled_from([*IDS, "unknown"]), max_size=50)
CATEGORIES = st.lists(st.sampled_from(["category-0", "category-1", "category-2", "nothing"]), max_size=3)
FILTERS = st.builds(
    Filter,
    categories=st.none() | CATEGORIES,
    allow=st.none() | IDS_OR_UNKNOWN,
    deny=st.none() | IDS_OR_UNKNOWN,
)


def allowed(rules: Filter, seen: set[str]) -> set[str]:
    """The definition, item by item."""
    found = set()
    for item_id, categories in zip(CATALOGUE.item_ids, CATALOGUE.categories, strict=True):
        in_category = rules.categories is None or not set(rules.categories).isdisjoint(categories)
        in_allow = rules.allow is None or item_id in rules.allow
        if in_category and in_allow and item_id not in (rules.deny or ()) and item_id not in seen:
            found.add(item_id)
    return found


def ask(rules: Filter, seen: list[str], k: int, per_prefix: int | None) -> tuple[Found, Found]:
    """The answers of the search and of the fallback."""
    compiled = Rules(CATALOGUE, 8)
    rule = compiled.compile(RuleKey.of(rules))
    excluded = compiled.rows([*seen, *(rules.deny or ())])
    engine = FakeEngine()
    request = SearchRequest(np.array([0]), k, 50, rule.mask, excluded, per_prefix)
    inputs = engine.prepare([request], CATALOGUE)
    [found] = engine.finish(engine.compute(inputs, CATALOGUE), [request], CATALOGUE)
    return found, popular(CATALOGUE, rule, excluded, k, per_prefix)


def names(found: Found) -> list[str]:
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
    rules = Rules(CATALOGUE, 8)
    found = popular(CATALOGUE, rules.everything, np.empty(0, dtype=np.int64), 40)
    counts = CATALOGUE.popularity[found.rows]
    assert (np.diff(counts) <= 0).all()
    assert np.exp(found.log_prob).sum() == pytest.approx(1.0, abs=1e-5)


def test_the_fake_engine_answers_the_successors() -> None:
    everything = Rules(CATALOGUE, 8).everything.mask
    engine = FakeEngine()
    request = SearchRequest(np.array([3, 5]), 4, 20, everything, np.empty(0, dtype=np.int64))
    inputs = engine.prepare([request], CATALOGUE)
    [found] = engine.finish(engine.compute(inputs, CATALOGUE), [request], CATALOGUE)
    by_code = sorted(range(40), key=lambda row: CATALOGUE.codes[row].tolist())
    start = by_code.index(5)
    assert found.rows.tolist() == [by_code[(start + step) % 40] for step in range(1, 5)]
    assert found.log_prob.tolist() == pytest.approx([-0.01, -0.02, -0.03, -0.04])


def test_compiled_rules_are_shared_and_the_oldest_forgotten() -> None:
    rules = Rules(_catalogue_of(5), entries=2)
    keys = [RuleKey(allow=frozenset({f"item-{n}"})) for n in range(3)]
    first = rules.compile(keys[0])
    rules.compile(keys[1])
    assert rules.find(keys[0]) is first
    rules.compile(keys[2])
    assert rules.find(keys[1]) is None
    assert rules.find(keys[0]) is first
    assert rules.find(RuleKey.of(Filter(deny=["item-1"]))) is rules.everything


def test_a_rule_that_allows_nothing_says_so() -> None:
    rules = Rules(CATALOGUE, 4)
    assert rules.compile(RuleKey(allow=frozenset({"unknown"}))).is_empty
    assert rules.compile(RuleKey(categories=frozenset())).is_empty
    assert not rules.compile(RuleKey(categories=frozenset({"category-1", "nothing"}))).is_empty


def _catalogue_of(items: int) -> Catalogue:
    return small_catalogue(items=items)
