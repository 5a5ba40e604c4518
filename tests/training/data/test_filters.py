"""Repeats against a plain count, and what a growing log does to the filters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data import filters
from training.data.filters import FilterOptions, first_of_repeats

LOGS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 5)), max_size=40)


def columns(rows: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    user, item, time = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return user.astype(np.int32), item.astype(np.int32), time


@settings(deadline=None)
@given(LOGS, st.integers(1, 9))
def test_the_first_of_equal_interactions_stays(rows: list[tuple[int, int, int]], chunk: int) -> None:
    rows.sort(key=lambda row: row[2])
    expected = [row[2] == 0 or row not in rows[:at] for at, row in enumerate(rows)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filters, "_CHUNK", chunk)
        assert first_of_repeats(*columns(rows)).tolist() == expected


def test_times_that_do_not_ascend_do_not_keep_the_search_going_for_ever() -> None:
    with pytest.raises(ValueError, match="must ascend"):
        first_of_repeats(*columns([(0, 0, 9), (0, 1, 9), (0, 0, 5)]))


@settings(deadline=None)
@given(LOGS, LOGS, st.integers(1, 3), st.integers(1, 3), st.integers(1, 4))
def test_what_passed_passes_still_when_more_comes(
    rows: list[tuple[int, int, int]], more: list[tuple[int, int, int]], users: int, items: int, length: int
) -> None:
    """So users and items of the base data keep their rows when events join it."""
    options = FilterOptions(min_user=users, min_item=items, min_length=length)
    user, item, _ = columns([*rows, *more])
    alone = options.keep(user[: len(rows)], item[: len(rows)])
    assert options.keep(user, item)[: len(rows)][alone].all()
