"""Similar items against the definition written out; what is learned from them; refusals of arrays that are no index."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from model_store.errors import BundleRefused
from model_store.new_items.features import Features
from model_store.new_items.similar_items import MOST_VISITED, SIMILAR, SimilarItems, at_unit_length

WIDTH = 5


def index_of(items: list[dict[int, float]], rarity: dict[int, float], directions: Any = None) -> SimilarItems:
    """Build an index of items, given as weights of features."""
    known = sorted(rarity)
    pairs = [(feature, row) for feature in known for row, item in enumerate(items) if feature in item]
    start = np.searchsorted([feature for feature, _ in pairs], [*known, known[-1] + 1])
    if directions is None:
        directions = np.random.default_rng(1).integers(-127, 128, (len(items), WIDTH)) | 1
    return SimilarItems(
        np.array(known, dtype=np.int64),
        np.array([rarity[feature] for feature in known], dtype=np.float32),
        start.astype(np.int64),
        np.array([row for _, row in pairs], dtype=np.int32),
        np.array([items[row][feature] for feature, row in pairs], dtype=np.float16),
        np.asarray(directions, dtype=np.int8),
        0.6,
        0.8,
    )


def features_of(weights: dict[int, float]) -> Features:
    ids = sorted(weights)
    return Features(np.array(ids, dtype=np.int64), np.array([weights[each] for each in ids], dtype=np.float32))


HALVES = (0.25, 0.5, 0.75, 1.0)
"""Weights without rounding, among which there are many ties."""


@pytest.mark.parametrize("seed", range(20))
def test_the_most_similar_items_are_found(seed: int) -> None:
    random = np.random.default_rng(seed)
    names = random.choice(1000, 12, replace=False).tolist()
    rarity = {name: random.choice(HALVES) for name in names}
    items = [{n: random.choice(HALVES) for n in random.choice(names, random.integers(0, 5))} for _ in range(120)]
    new = {name: random.choice(HALVES) for name in random.choice(names, 4, replace=False)} | {1001: 1.0}

    # Read it as the module's text says it.
    similarity = [sum(new[n] * rarity[n] * item[n] for n in new.keys() & item.keys()) for item in items]
    order = sorted((row for row in range(len(items)) if similarity[row]), key=lambda row: -similarity[row])[:SIMILAR]
    cubes = [similarity[row] ** 3 for row in order]

    found = index_of(items, rarity).find(features_of(new))
    assert found.rows.tolist() == order
    np.testing.assert_allclose(found.shares, np.array(cubes) / sum(cubes), rtol=1e-12)


@pytest.mark.parametrize("new", [{}, {99: 1.0}, {0: 1.0}])
def test_an_item_that_shares_nothing_has_no_similar_items(new: dict[int, float]) -> None:
    index = index_of([{3: 1.0}, {4: 1.0}], {3: 1.0, 4: 1.0, 5: 1.0})
    found = index.find(features_of(new))
    assert (len(found.rows), len(found.shares)) == (0, 0)
    np.testing.assert_array_equal(index.learned_direction(found), np.zeros(WIDTH))


def test_features_that_very_many_items_have_give_way_to_rare_ones() -> None:
    """Both features together have more items than are visited, so only the rare one counts."""
    common = MOST_VISITED - 1
    start = np.array([0, common, common + 2], dtype=np.int64)
    item = np.concatenate([np.arange(common), [7, 500]]).astype(np.int32)
    weight = np.ones(len(item), dtype=np.float16)
    directions = np.ones((common, 1), dtype=np.int8)
    index = SimilarItems(
        np.array([10, 20]),
        np.ones(2, dtype=np.float32),
        start,
        item,
        weight,
        directions,
        learned_length=1,
        content_length=0,
    )
    assert index.find(features_of({10: 9.0, 20: 1.0})).rows.tolist() == [7, 500]
    assert len(index.find(features_of({10: 9.0})).rows) == SIMILAR


def test_what_is_learned_is_the_mean_of_vectors_by_similarity() -> None:
    """Similarities 1 and .5 have shares 8/9 and 1/9, whatever the length of a stored direction."""
    index = index_of([{3: 1.0}, {3: 0.5}, {4: 1.0}], {3: 1.0, 4: 1.0}, [[100, 0], [0, -3], [1, 1]])
    found = index.find(features_of({3: 1.0}))
    np.testing.assert_allclose(found.shares, [8 / 9, 1 / 9])
    np.testing.assert_allclose(index.learned_direction(found), np.array([8, -1]) / 65**0.5)


def test_zeros_have_no_unit_length() -> None:
    np.testing.assert_array_equal(at_unit_length(np.zeros(3)), np.zeros(3))


def test_arrays_there_and_back() -> None:
    index = index_of([{3: 1.0}, {3: 0.5, 4: 0.5}], {3: 1.5, 4: 2.0})
    again = SimilarItems.from_arrays(index.arrays())
    assert {name: array.tobytes() for name, array in again.arrays().items()} == {
        name: array.tobytes() for name, array in index.arrays().items()
    }
    assert (again.learned_length, again.content_length, again.width) == (0.6, 0.8, WIDTH)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"known": np.array([4, 3])}, "known must ascend"),
        ({"rarity": np.array([1, np.nan], dtype=np.float32)}, "rarity must hold a number above 0"),
        ({"start": np.array([0, 3])}, "start must lead from 0 to the number of pairs, 3"),
        ({"start": np.array([0, 4, 3])}, "start must ascend"),
        ({"weight": np.array([1, 0, 1], dtype=np.float16)}, "weight must hold a number above 0"),
        ({"item": np.array([0, 1, 2], dtype=np.int32)}, "item must hold rows below 2"),
        ({"directions": np.array([[1, 0], [0, 0]], dtype=np.int8)}, "without rows of zeros"),
        ({"lengths": np.array([0.0, 1.0])}, "the lengths must be finite"),
        ({"lengths": np.array([1.0])}, "not enough values"),
    ],
)
def test_arrays_that_are_no_index_are_refused(changed: dict[str, Any], words: str) -> None:
    index = index_of([{3: 1.0}, {3: 0.5, 4: 0.5}], {3: 1.5, 4: 2.0})
    with pytest.raises(BundleRefused, match=words):
        SimilarItems.from_arrays(index.arrays() | changed)


def test_a_missing_array_is_named() -> None:
    arrays = index_of([{3: 1.0}], {3: 1.0}).arrays()
    del arrays["directions"]
    with pytest.raises(BundleRefused, match="directions"):
        SimilarItems.from_arrays(arrays)
