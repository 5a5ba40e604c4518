"""Features of items: the same everywhere and for ever, bounded, whatever the item holds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.new_items.features import (
    HASH_BUCKETS,
    MAX_FEATURES,
    Attributes,
    extract_features,
    hash_feature,
    says_something,
    split_words,
)

HEAT = ("Heat", ("Action", "Crime"), {"year": 1995, "studio": "Warner Bros.", "length": 170.0})


GOLDEN = {
    30647: 1.0000,
    70980: 0.4082,
    88265: 0.8165,
    108784: 0.4082,
    120126: 0.6362,
    178389: 0.7071,
    189821: 0.5774,
    189864: 0.1251,
    220009: 0.7613,
    241436: 0.7071,
    253879: 0.5774,
    256165: 0.5774,
}


def similarity(one: Attributes | str, other: Attributes | str) -> float:
    """Cosine of two items that have nothing but these attributes."""
    first, second = extract_features("", (), one), extract_features("", (), other)
    by_id = dict(zip(second.ids.tolist(), second.weights.tolist(), strict=True))
    shared = sum(w * by_id.get(i, 0.0) for i, w in zip(first.ids.tolist(), first.weights.tolist(), strict=True))
    return float(shared / (np.linalg.norm(first.weights) * np.linalg.norm(second.weights)))


def test_features_never_change() -> None:
    """Golden: models in stores were trained on these very numbers."""
    found = extract_features(*HEAT)
    assert found.ids.dtype == np.int64
    assert found.ids.tolist() == list(GOLDEN)
    np.testing.assert_allclose(found.weights, list(GOLDEN.values()), atol=1e-4)
    assert hash_feature("t:heat") in found.ids
    assert hash_feature("a:year=1995.0") in found.ids


def test_nothing_known_is_no_features() -> None:
    nothing: list[Attributes | str] = [{}, ""]
    nothing.append({"a": None, "b": [], "c": {}, "d": math.nan, "e": math.inf, "f": 10**400, "g": "…"})
    for attributes in nothing:
        ids, weights = extract_features("", (), attributes)
        assert (len(ids), len(weights)) == (0, 0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"year": 1995}, {"year": 1995.0}),
        ({"year": 1995}, {"Year": " 1995 "}),
        ({"colour": "Dark BLUE"}, {"colour": "dark blue"}),
        ({"colour": "ﬁne"}, {"colour": "FINE"}),
        ({"tags": ["a", "b"]}, {"tags": ("b", "a")}),
        ({"size": {"height": 3}}, {"size.height": 3}),
        ("Two words", "two, WORDS!"),
    ],
)
def test_the_same_thing_said_otherwise(one: Attributes | str, other: Attributes | str) -> None:
    assert similarity(one, other) == pytest.approx(1.0)


def test_values_are_of_their_keys() -> None:
    assert similarity({"year": 1995}, {"pages": 1995}) == 0
    assert similarity({"is_new": True}, {"is_new": False}) == 0
    assert similarity({"is_new": True}, {"is_new": 1}) == 0


def test_close_numbers_are_alike() -> None:
    years = [similarity({"year": 1995}, {"year": other}) for other in (1995, 1996, 2000, 2004, 2030)]
    assert years == sorted(years, reverse=True)
    assert years[1] > 0.3
    assert years[-1] == 0
    prices = [similarity({"price": 9.99}, {"price": other}) for other in (9.99, 10.5, 14.0, 100.0, -9.99)]
    assert prices == sorted(prices, reverse=True)
    assert prices[1] > 0.3
    assert prices[3:] == [0, 0]


def test_long_and_short_titles_weigh_the_same() -> None:
    for title in ("One", "One two three four"):
        assert np.linalg.norm(extract_features(title, (), {}).weights) == pytest.approx(1.0)


def test_scripts_without_spaces_become_pairs() -> None:
    assert split_words("七人の侍") == ["七人", "人の", "の侍"]
    assert split_words("Ёлки 2: Déjà VU, déjà vu") == ["ёлки", "2", "déjà", "vu"]
    assert split_words("  ") == []


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(st.text(), st.lists(st.text(), max_size=5), st.dictionaries(st.text(), values, max_size=5) | st.text())
def test_whatever_an_item_holds(title: str, categories: list[str], attributes: dict[str, Any] | str) -> None:
    ids, weights = extract_features(title, categories, attributes)
    again = extract_features(title, categories, attributes)
    assert len(ids) == len(weights) <= MAX_FEATURES
    assert (np.diff(ids) > 0).all()
    assert ((ids >= 0) & (ids < HASH_BUCKETS)).all()
    assert (np.isfinite(weights) & (weights > 0)).all()
    np.testing.assert_array_equal(ids, again.ids)
    np.testing.assert_array_equal(weights, again.weights)


def test_work_is_bounded() -> None:
    many = {f"key-{number}": [f"word-{number}-{each}" for each in range(1000)] for number in range(1000)}
    found = extract_features("long " * 100_000, [f"c{number}" for number in range(10_000)], many)
    assert len(found.ids) == MAX_FEATURES
    assert hash_feature("t:long") in found.ids


def test_a_lone_surrogate_is_text_too() -> None:
    assert len(extract_features("\ud800", ("\ud800x",), {"\ud800": "\ud800"}).ids) > 0


@given(
    st.text(max_size=5),
    st.lists(st.text(max_size=3), max_size=2),
    st.dictionaries(st.text(max_size=2), st.none() | st.booleans() | st.floats() | st.text(max_size=4), max_size=2),
)
def test_an_item_says_something_if_it_has_a_feature(
    title: str, categories: list[str], attributes: dict[str, Any]
) -> None:
    has_features = len(extract_features(title, categories, attributes).ids) > 0
    assert says_something(title, categories, attributes) is has_features


@pytest.mark.parametrize("title", ["", "  ", "!!! ---", "\x00\x01\x1b", "😀", "\uff9e", "." * 2000 + "word"])
def test_what_holds_no_word_says_nothing(title: str) -> None:
    assert not says_something(title, (title,), {"text": title})
    assert not says_something("", (), title)
