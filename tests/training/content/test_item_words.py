"""Fit of the item words: the weightiest ones of every item, rare ones before frequent ones."""

from __future__ import annotations

import numpy as np

from model_store.catalogue.resemblances import MOST_WORDS, NO_WORD
from model_store.new_items.features import extract_features
from model_store.search.item_words import ItemWords
from tests.training.content.test_content_encoder import dataset_of
from training.content.item_words import fit_item_words
from training.content.shared_features import item_features, shared_features
from training.data.dataset import ItemInfo

TITLES = ["opi red nail polish", "opi blue nail polish", "red shampoo", "", "alone", "opi nail red", "opi polish"]
LONG = "one two three four five six seven eight nine ten opi"


def fitted(titles: list[str]) -> tuple[ItemWords, dict[int, str]]:
    """The words of items with these titles, and what their numbers mean."""
    data = dataset_of([ItemInfo(title) for title in titles])
    known = shared_features(np.concatenate([each.ids for each in item_features(data)])).tolist()
    words = {word for title in titles for word in title.split()}
    feature_of = {word: int(extract_features(word, (), {}).ids[0]) for word in words}
    return fit_item_words(data), {known.index(it): word for word, it in feature_of.items() if it in known}


def said(words: ItemWords, meaning: dict[int, str], row: int) -> dict[str, float]:
    pairs = zip(words.word[row].tolist(), words.weight[row].tolist(), strict=True)
    return {meaning[word]: weight for word, weight in pairs if word != NO_WORD}


def test_weights_are_those_of_tf_idf_by_descending_weight() -> None:
    words, meaning = fitted(TITLES)
    count = {"opi": 4, "red": 3, "nail": 3, "polish": 3}
    rarity = {word: np.log((1 + len(TITLES)) / (1 + items)) + 1 for word, items in count.items()}
    length = np.linalg.norm(list(rarity.values()))
    found = said(words, meaning, 0)
    assert found.keys() == count.keys()
    for word, weight in found.items():
        np.testing.assert_allclose(weight, rarity[word] / length, rtol=1e-3)
    assert list(found)[-1] == "opi"  # the most frequent one
    assert list(said(words, meaning, 1)) != list(found)  # nobody else says blue


def test_items_without_shared_words_say_nothing() -> None:
    words, meaning = fitted(TITLES)
    assert not said(words, meaning, 3)  # no title
    assert not said(words, meaning, 4)  # a word that no other item has
    assert not words.weight[[3, 4]].any()


def test_the_weightiest_words_are_kept_at_unit_length() -> None:
    words, meaning = fitted([LONG, LONG, *["opi"] * 20])
    found = said(words, meaning, 0)
    assert len(found) == MOST_WORDS
    assert "opi" not in found
    np.testing.assert_allclose(np.square(words.weight.astype(np.float64)).sum(axis=1), 1, atol=2e-3)


def test_no_item_says_anything() -> None:
    words, _ = fitted(["", ""])
    assert words.items == 2
    assert not words.weight.any()
