"""Ids as numbers, orders and filters on arrays, against their plain definitions."""

from collections import Counter

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.filters import has_min_length, k_core, shuffle_ties
from training.data.numbering import categorical, number_ids, stable_order

pairs = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=60)


@settings(deadline=None)
@given(st.lists(st.text(max_size=3), max_size=40), st.booleans())
def test_ids_are_numbered_by_first_appearance(ids: list[str], as_categorical: bool) -> None:
    series = pl.Series(ids, dtype=pl.String)
    if as_categorical:
        kind = categorical()
        noise = pl.Series(sorted(ids, reverse=True), dtype=pl.String).cast(kind)  # other numbers inside the category
        assert len(noise) == len(ids)
        series = series.cast(kind)
    found = number_ids(series)
    assert found.ids.to_list() == list(dict.fromkeys(ids))
    assert [found.ids[int(row)] for row in found.rows] == ids


@settings(deadline=None)
@given(st.lists(st.integers(-5, 5) | st.integers(-(2**62), 2**62), max_size=50))
def test_the_order_is_stable_for_narrow_and_wide_values(values: list[int]) -> None:
    array = np.array(values, dtype=np.int64)
    assert stable_order(array).tolist() == sorted(range(len(values)), key=values.__getitem__)


@settings(deadline=None)
@given(pairs, st.integers(1, 4), st.integers(1, 4))
def test_the_core_is_the_fixed_point_of_dropping(rows: list[tuple[int, int]], min_user: int, min_item: int) -> None:
    left = list(enumerate(rows))
    while True:
        users, items = Counter(user for _, (user, _) in left), Counter(item for _, (_, item) in left)
        kept = [row for row in left if users[row[1][0]] >= min_user and items[row[1][1]] >= min_item]
        if len(kept) == len(left):
            break
        left = kept
    columns = np.array(rows, dtype=np.int32).reshape(-1, 2)
    found = k_core(columns[:, 0], columns[:, 1], min_user, min_item)
    assert np.flatnonzero(found).tolist() == [position for position, _ in left]


def test_short_users_are_found() -> None:
    assert has_min_length(np.array([0, 2, 2, 0, 2], dtype=np.int32), 3).tolist() == [False, True, True, False, True]


@settings(deadline=None)
@given(st.permutations(range(12)))
def test_shuffled_ties_are_the_same_for_every_order_of_the_input(order: list[int]) -> None:
    items = [f"i{number}" for number in range(12)]

    def shuffled(names: list[str], times: np.ndarray) -> list[str]:
        user = number_ids(pl.Series(["u"] * len(names)))
        chosen = shuffle_ties(user, number_ids(pl.Series(names)), times)
        return [names[row] for row in chosen]

    times = np.array([number // 6 for number in range(12)])
    reference = shuffled(items, times)
    assert shuffled([items[at] for at in order], times[order]) == reference
    assert set(reference[:6]) == set(items[:6])
    assert reference != items
