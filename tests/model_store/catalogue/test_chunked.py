"""A column in chunks is the column in one piece, whatever changes, and shares the chunks that did not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.catalogue.chunked import ChunkedNumbers, ChunkedRagged
from model_store.catalogue.packed import PackedStrings
from model_store.catalogue.ragged import Ragged

texts = st.lists(st.text(max_size=3), min_size=1, max_size=25)
# Rows that change (by their remainder), what they change to, and what is appended.
Step = tuple[set[int], list[str], int]
steps = st.lists(st.tuples(st.sets(st.integers(0, 50), max_size=5), texts, st.integers(0, 9)), max_size=6)


def packed(values: list[str]) -> Ragged:
    return PackedStrings.of(values).ragged


@settings(max_examples=150, deadline=None)
@given(texts, steps, st.integers(0, 3))
def test_any_changes_give_the_column_in_one_piece(start: list[str], steps: list[Step], bits: int) -> None:
    column, expected = ChunkedRagged.of(packed(start), bits), list(start)
    for replaced, pool, appended in steps:
        known = sorted({row % len(expected) for row in replaced})
        rows = np.array([*known, *range(len(expected), len(expected) + appended)], dtype=np.int64)
        content = [pool[row % len(pool)] for row in rows.tolist()]

        before, was = column, PackedStrings(column)
        column = column.with_rows(rows, packed(content))
        assert list(was) == expected  # the column before stays as it is
        expected += [""] * appended
        for row, text in zip(rows.tolist(), content, strict=True):
            expected[row] = text
        untouched = set(range(len(before.chunks))) - set((rows >> bits).tolist())
        assert all(column.chunks[number] is before.chunks[number] for number in untouched)

    assert len(column) == len(expected)
    strings = PackedStrings(column)
    assert list(strings) == [strings[row] for row in range(len(expected))] == expected
    assert strings == PackedStrings.of(expected)
    asked = np.array([row % len(expected) for row in (7, 0, 3, 3, 24, 11)])
    assert list(strings.take(asked)) == [expected[row] for row in asked.tolist()]
    with pytest.raises(IndexError):
        strings.raw(len(expected) + (2 << bits))


@settings(deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20), st.sets(st.integers(0, 30), max_size=6), st.integers(0, 3))
def test_numbers_change_as_one_array_would(start: list[float], replaced: set[int], bits: int) -> None:
    column = ChunkedNumbers.of(np.array(start), bits)
    known = sorted({row % len(start) for row in replaced})
    rows = np.array([*known, *range(len(start), len(start) + 5)], dtype=np.int64)
    changed = column.with_rows(rows, -rows.astype(np.float64))

    expected = np.append(np.array(start), np.zeros(5))
    expected[rows] = -rows
    np.testing.assert_array_equal(changed.flat(), expected)
    np.testing.assert_array_equal(column.flat(), start)


def test_a_column_that_nobody_changed_is_not_copied() -> None:
    whole = packed(["a", "bc"] * 20)
    assert ChunkedRagged.of(whole, 2).flat() is whole
    assert ChunkedRagged.of(whole, 2).with_rows(np.empty(0, dtype=np.int64), packed([])).flat() is whole


def test_another_type_of_values_is_kept_by_later_changes() -> None:
    column = ChunkedRagged.of(packed(["a", "bc", "d"]), 1)
    assert column.astype(np.uint8) is column
    wide = column.astype(np.uint32)
    assert wide.flat().values.dtype == np.uint32
    assert wide.flat().values.tolist() == [ord(letter) for letter in "abcd"]
