"""Rows that repeat an earlier one, against a set of tuples."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.duplicates import first_of_equals


@pytest.mark.parametrize("spread", [1, 5, 10**6])
def test_the_same_rows_are_found_as_by_a_set(spread: int) -> None:
    rng = np.random.default_rng(spread)
    times = np.sort(rng.integers(0, spread, 3000)).astype(np.int64)
    columns = [rng.integers(0, 40, 3000).astype(np.uint32) for _ in range(2)]
    seen: set[tuple[int, ...]] = set()
    expected = []
    for row in zip(times.tolist(), *(column.tolist() for column in columns), strict=True):
        expected.append(row not in seen)
        seen.add(row)
    found = first_of_equals(times, columns)
    assert (np.ones(3000, dtype=bool) if found is None else found).tolist() == expected


def test_without_repetitions_nothing_is_marked() -> None:
    times = np.array([1, 1, 1, 2], dtype=np.int64)
    assert first_of_equals(times, [np.array([0, 1, 2, 0]), np.array([0, 0, 0, 0])]) is None
    assert first_of_equals(np.arange(4, dtype=np.int64), [np.zeros(4, dtype=np.int64)]) is None
    assert first_of_equals(np.empty(0, dtype=np.int64), [np.empty(0, dtype=np.int64)]) is None
