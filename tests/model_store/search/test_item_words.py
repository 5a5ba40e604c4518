"""Item words: similarities against their definition written out; items that say little, nothing, or came later."""

from __future__ import annotations

import numpy as np
import pytest

from model_store.catalogue.resemblances import MOST_WORDS, NO_WORD, Resemblances
from model_store.search.item_words import ItemWords
from tests.support.random_worlds import random_item_words
from tests.support.resemblances import random_records

ITEMS = 30
WORDS = random_item_words(np.random.default_rng(0), ITEMS)


def written_out(one: int, other: int) -> float:
    """The definition of the similarity of two catalogue rows."""
    if max(one, other) >= ITEMS:
        return 0.0
    said, also_said = (
        dict(zip(WORDS.word[row].tolist(), WORDS.weight[row].tolist(), strict=True)) for row in (one, other)
    )
    return float(
        sum(weight * also_said[word] for word, weight in said.items() if word in also_said and word != NO_WORD)
    )


def test_similarities_are_what_their_definition_says() -> None:
    random = np.random.default_rng(1)
    candidates = random.integers(0, ITEMS + 3, (5, 20))
    history = random.integers(0, ITEMS + 3, (5, 7))
    found = WORDS.similarities(candidates, history)
    expected = [
        [[written_out(row, had) for had in had_rows] for row in rows]
        for rows, had_rows in zip(candidates.tolist(), history.tolist(), strict=True)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert len(np.unique(found)) > 50


def test_new_items_are_compared_by_the_words_that_the_catalogue_keeps() -> None:
    new = Resemblances.of(ITEMS, random_records(np.random.default_rng(4), ITEMS, 6))
    both = ItemWords(
        np.concatenate([WORDS.word, new.records["word"]]), np.concatenate([WORDS.weight, new.records["word_weight"]])
    )
    random = np.random.default_rng(2)
    candidates, history = random.integers(0, ITEMS + 6, (5, 20)), random.integers(0, ITEMS + 6, (5, 7))
    found = WORDS.similarities(candidates, history, new)
    np.testing.assert_array_equal(found, both.similarities(candidates, history))
    assert found[candidates >= ITEMS].any()


def test_an_item_is_like_itself_unless_it_says_nothing() -> None:
    rows = np.arange(ITEMS)[:, None]
    found = WORDS.similarities(rows, rows)[:, 0, 0]
    says_something = WORDS.weight.any(axis=1)
    assert 0 < np.count_nonzero(says_something) < ITEMS
    np.testing.assert_allclose(found, says_something, atol=2e-3)  # weights are rounded to 16 bits


def test_requests_do_not_share_words() -> None:
    rows = np.array([[0], [1], [2]])
    history = np.array([[3, 4], [5, 6], [0, 1]])
    whole = WORDS.similarities(rows, history)
    for request in range(3):
        alone = WORDS.similarities(rows[request : request + 1], history[request : request + 1])
        np.testing.assert_array_equal(whole[request : request + 1], alone)


def test_items_that_say_nothing_are_like_none() -> None:
    rows = np.arange(4)[None]
    for items in (4, 0):
        found = ItemWords.nothing(items).similarities(rows, rows)
        assert found.shape == (1, 4, 4)
        assert not found.any()


def test_words_of_wrong_shape_or_weight_are_refused() -> None:
    with pytest.raises(ValueError, match=f"must hold {MOST_WORDS} numbers"):
        ItemWords(WORDS.word, WORDS.weight[:-1])
    for weight in (-1, np.nan):
        with pytest.raises(ValueError, match="at least 0"):
            ItemWords(WORDS.word, np.full_like(WORDS.weight, weight))
    with pytest.raises(ValueError, match="0 where there is no word"):
        ItemWords(np.full_like(WORDS.word, NO_WORD), np.ones_like(WORDS.weight))
