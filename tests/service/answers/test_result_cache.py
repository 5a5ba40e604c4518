from __future__ import annotations

import gc
import weakref

import numpy as np

from model_store.catalogue.catalogue import Catalogue
from service.answers.result_cache import AnswerKey, ResultCache
from service.engines.base import SearchRequest, SearchResult
from service.ranking.filters import RuleKey
from service.ranking.keys import UNRANKED
from tests.support.bundles import small_catalogue

CATALOGUE = small_catalogue()


def key(newest: int, max_history: int = 3) -> AnswerKey:
    history = np.array([9, 8, 7, newest])
    question = SearchRequest(history, 5, 20, CATALOGUE.trie.everything, history[:0], CATALOGUE)
    return AnswerKey.of(question, RuleKey(), UNRANKED, max_history, 5)


def answer(row: int) -> SearchResult:
    return SearchResult(np.array([row]), np.zeros(1, dtype=np.float32), np.zeros(1, dtype=np.float32))


def rows(cache: ResultCache, catalogue: Catalogue, newest: int) -> list[int] | None:
    found = cache.find(catalogue, key(newest))
    return None if found is None else found.rows.tolist()


def test_the_least_recently_used_answer_goes_first() -> None:
    cache = ResultCache(2, 60.0)
    assert rows(cache, CATALOGUE, 1) is None
    for newest in (1, 2):
        cache.keep(CATALOGUE, key(newest), answer(newest))
    assert rows(cache, CATALOGUE, 1) == [1]
    cache.keep(CATALOGUE, key(3), answer(3))
    assert [rows(cache, CATALOGUE, newest) for newest in (1, 2, 3)] == [[1], None, [3]]


def test_long_questions_are_not_kept() -> None:
    cache = ResultCache(10, 60.0)
    plain = key(1)
    ids = [frozenset(f"item-{n}" for n in range(count)) for count in (50, 5000)]
    short, long = (plain._replace(rule=RuleKey(allow=each)) for each in ids)
    many = plain._replace(excluded=bytes(8 * 5000))
    for asked in (short, long, many):
        assert cache.find(CATALOGUE, asked) is None
        cache.keep(CATALOGUE, asked, answer(1))
    assert [cache.find(CATALOGUE, asked) is not None for asked in (short, long, many)] == [True, False, False]
    assert len(cache) == 1


def test_answers_grow_old() -> None:
    now = 100.0
    cache = ResultCache(2, 60.0, lambda: now)
    assert rows(cache, CATALOGUE, 1) is None
    cache.keep(CATALOGUE, key(1), answer(1))
    now = 159.0
    assert rows(cache, CATALOGUE, 1) == [1]
    now = 160.0
    assert rows(cache, CATALOGUE, 1) is None
    assert len(cache) == 0


def test_another_catalogue_begins_anew_and_late_answers_about_the_old_one_are_not_kept() -> None:
    cache, newer = ResultCache(2, 60.0), small_catalogue()
    assert rows(cache, CATALOGUE, 1) is None
    cache.keep(CATALOGUE, key(1), answer(1))
    assert rows(cache, newer, 1) is None
    cache.keep(CATALOGUE, key(2), answer(2))
    assert rows(cache, newer, 2) is None
    cache.keep(newer, key(2), answer(4))
    assert rows(cache, newer, 2) == [4]


def test_the_key_ends_where_the_model_stops_reading_and_an_empty_cache_keeps_nothing() -> None:
    assert key(1, 1) != key(2, 1)
    far = SearchRequest(np.array([5, 8, 7, 1]), 5, 20, CATALOGUE.trie.everything, np.arange(0), CATALOGUE)
    assert AnswerKey.of(far, RuleKey(), UNRANKED, 3, 5) == key(1)
    assert AnswerKey.of(far, RuleKey(), UNRANKED, 4, 5) != key(1, 4)
    cache = ResultCache(0, 60.0)
    cache.keep(CATALOGUE, key(1), answer(1))
    assert rows(cache, CATALOGUE, 1) is None


def test_a_catalogue_that_nobody_else_uses_is_freed() -> None:
    """Else a model that lost its alias would stay in memory for as long as nobody asks for the next one."""
    catalogue = small_catalogue()
    is_there = weakref.ref(catalogue)
    cache = ResultCache(10, 60.0)
    assert rows(cache, catalogue, 1) is None
    cache.keep(catalogue, key(1), answer(1))
    assert rows(cache, catalogue, 1) == [1]

    del catalogue
    gc.collect()
    assert is_there() is None
    assert rows(cache, small_catalogue(), 1) is None
