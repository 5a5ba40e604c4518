"""Growing rows are what concatenation gives, whoever else grows from the same rows, and seldom copied."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.catalogue.growing_rows import MIN_SPARE_ROWS, ROWS_PER_SPARE_ROW, GrowingRows

WIDTH = 3
THREADS = 8


def rows(count: int, first: int = 0) -> np.ndarray:
    """Rows that differ from all others with another first number."""
    return np.arange(first, first + count * WIDTH, dtype=np.float32).reshape(count, WIDTH)


def shares(one: GrowingRows, other: GrowingRows) -> bool:
    return np.shares_memory(one.rows, other.rows)


# From which of the arrays made so far the next one grows, and by how many rows.
growths = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 8) | st.integers(0, MIN_SPARE_ROWS + 5)), max_size=30)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 20), growths)
def test_any_growth_and_forks_give_what_concatenation_gives(start: int, steps: list[tuple[int, int]]) -> None:
    made, expected = [GrowingRows(rows(start))], [rows(start)]
    for number, (parent, count) in enumerate(steps, start=1):
        new = rows(count, first=-10_000 * number)
        made.append(made[parent % number].with_rows(new))
        expected.append(np.concatenate([expected[parent % number], new]))
    for found, wanted in zip(made, expected, strict=True):  # at the end: nobody has written into another's rows
        np.testing.assert_array_equal(found.rows, wanted)
        assert found.rows.dtype == np.float32
        assert found.rows.flags.c_contiguous


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=40), st.integers(1, 20_000))
def test_a_line_of_growth_copies_when_spare_rows_are_used_up(counts: list[int], start: int) -> None:
    current = GrowingRows(rows(start - 1)).with_rows(rows(1))
    spare = max(start // ROWS_PER_SPARE_ROW, MIN_SPARE_ROWS)
    for count in counts:
        longer = current.with_rows(rows(count))
        assert shares(longer, current) == (count <= spare)
        spare = spare - count if count <= spare else max(len(longer.rows) // ROWS_PER_SPARE_ROW, MIN_SPARE_ROWS)
        current = longer


def test_of_two_that_grow_from_one_the_second_copies() -> None:
    parent = GrowingRows(rows(5)).with_rows(rows(1))
    first, second = parent.with_rows(rows(2, 100)), parent.with_rows(rows(2, 200))
    assert shares(first, parent)
    assert not shares(second, parent)
    assert shares(second.with_rows(rows(1)), second)
    assert first.rows[6:].tolist() == rows(2, 100).tolist()


def test_the_rows_it_began_with_are_never_written_and_others_cannot_be() -> None:
    given_rows = rows(900)
    part = given_rows[:3]
    longer = GrowingRows(part).with_rows(rows(2, 5000))
    assert not np.shares_memory(longer.rows, given_rows)
    np.testing.assert_array_equal(given_rows, rows(900))
    for array in (longer.rows, longer.with_rows(rows(1)).rows):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1


def test_of_threads_that_grow_at_once_one_gets_the_spare_rows() -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(50):
            parent, ready = GrowingRows(rows(4)).with_rows(rows(1)), Barrier(THREADS)

            def grow(number: int, parent: GrowingRows = parent, ready: Barrier = ready) -> GrowingRows:
                ready.wait()
                return parent.with_rows(rows(3, 1000 * number))

            grown = list(pool.map(grow, range(THREADS)))
            assert sum(shares(found, parent) for found in grown) == 1
            for number, found in enumerate(grown):
                np.testing.assert_array_equal(found.rows[5:], rows(3, 1000 * number))


def test_room_is_made_once_and_then_used() -> None:
    given = np.arange(6, dtype=np.float32).reshape(3, 2)
    roomy = GrowingRows(given).with_room()
    assert not np.shares_memory(roomy.rows, given)
    assert roomy.rows.tolist() == given.tolist()
    assert roomy.with_room() is roomy
    longer = roomy.with_rows(np.ones((2, 2), dtype=np.float32))
    assert np.shares_memory(longer.rows, roomy.rows)
    assert longer.rows.tolist() == [*given.tolist(), [1, 1], [1, 1]]
    with pytest.raises(ValueError, match="read-only"):
        roomy.rows[0] = 0
