"""The memory of what follows what, against the definition written out; refusals of arrays that are none."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.errors import BundleRefused
from model_store.search.transitions import AGES, DECAY, FLOOR, Transitions, newest_items

SHARES = {(0, 1): 0.5, (0, 2): 0.25, (1, 2): 0.125, (3, 0): 1.0}
"""Transitions of four items; nothing follows the third."""


def memory(shares: dict[tuple[int, int], float], items: int) -> Transitions:
    """Build transitions from pairs in any order."""
    pairs = sorted(shares)
    start = np.searchsorted(np.array([before for before, _ in pairs]), np.arange(items + 1))
    successor = np.array([after for _, after in pairs], dtype=np.int32)
    return Transitions(start.astype(np.int64), successor, np.array([shares[pair] for pair in pairs], dtype=np.float32))


def written_out(shares: dict[tuple[int, int], float], history: list[int], item: int) -> float:
    """The formula of the module."""
    newest_first = history[::-1][:AGES]
    followed = sum(DECAY**age * shares.get((had, item), 0.0) for age, had in enumerate(newest_first))
    return math.log(1 + followed / FLOOR)


def scores(known: Transitions, histories: list[list[int]], items: list[list[int]]) -> npt.NDArray[np.float32]:
    return known.scores(newest_items([np.array(history) for history in histories]), np.array(items))


def test_the_newest_items_count_most_and_old_ones_not_at_all() -> None:
    known = memory(SHARES, 4)
    found = scores(known, [[0, 1], [1, 0], [0, *[2] * AGES]], [[2, 3], [2, 0], [2, 1]])
    first, second = written_out(SHARES, [0, 1], 2), written_out(SHARES, [1, 0], 2)
    np.testing.assert_allclose(found, np.array([[first, 0], [second, 0], [0, 0]]), rtol=1e-6)
    assert second > first > 0


def test_it_knows_nothing_of_rows_that_it_lacks() -> None:
    known = memory(SHARES, 4)
    assert not scores(known, [[-1, 4, 7], [3]], [[1, 2], [4, -1]]).any()
    assert scores(known, [[4, 3]], [[0]])[0, 0] == pytest.approx(written_out(SHARES, [3], 0))


def test_an_empty_memory_scores_nothing() -> None:
    assert scores(memory({}, 4), [[0, 1]], [[2, 3]]).tolist() == [[0, 0]]


@given(seed=st.integers(0, 2**32 - 1))
def test_scores_are_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items = int(rng.integers(1, 12))
    pairs = {(int(a), int(b)): float(rng.uniform(1e-4, 1)) for a, b in rng.integers(0, items, (rng.integers(0, 40), 2))}
    histories = [rng.integers(0, items, rng.integers(1, 14)).tolist() for _ in range(3)]
    asked = rng.integers(0, items, (3, 5)).tolist()
    expected = [
        [written_out(pairs, history, item) for item in row] for history, row in zip(histories, asked, strict=True)
    ]
    np.testing.assert_allclose(scores(memory(pairs, items), histories, asked), expected, rtol=1e-5)


def test_arrays_come_back() -> None:
    known = memory(SHARES, 4)
    again = Transitions.from_arrays(known.arrays())
    assert all(np.array_equal(array, again.arrays()[name]) for name, array in known.arrays().items())


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"start": np.array([0, 2])}, "start must ascend from 0 to the number of pairs, 4"),
        ({"start": np.array([0, 3, 2, 3, 4])}, "start must ascend"),
        ({"start": np.empty(0, np.int64)}, "start must ascend"),
        ({"share": np.array([1, 1, 0, 1], "f4")}, "share must hold a number above 0 for every pair"),
        ({"share": np.array([1, 1, np.nan, 1], "f4")}, "share must hold"),
        ({"share": np.ones(3, "f4")}, "share must hold"),
        ({"successor": np.array([1, 2, 2, 4], np.int32)}, "successor must hold rows below 4"),
        ({"successor": np.array([2, 1, 2, 0], np.int32)}, "successor must ascend within every item"),
        ({"successor": np.array([1, 1, 2, 0], np.int32)}, "successor must ascend within every item"),
    ],
)
def test_arrays_that_are_no_memory_are_refused(wrong: dict[str, npt.NDArray[np.generic]], problem: str) -> None:
    with pytest.raises(BundleRefused, match=problem):
        Transitions.from_arrays(memory(SHARES, 4).arrays() | wrong)


def test_missing_arrays_are_refused_by_name() -> None:
    with pytest.raises(BundleRefused, match="share"):
        Transitions.from_arrays({"start": np.array([0]), "successor": np.empty(0, np.int32)})


def test_the_memory_of_some_rows_has_new_numbers_and_unknown_rows_have_no_successors() -> None:
    known = memory(SHARES, 4)
    found = known.for_rows(np.array([0, 2, 3, 7]))
    assert found.items == 4
    np.testing.assert_equal(found.arrays(), memory({(0, 1): 0.25, (2, 0): 1.0}, 4).arrays())
    np.testing.assert_equal(known.for_rows(np.arange(4)).arrays(), known.arrays())
    longer = known.for_rows(np.arange(6))
    assert longer.items == 6
    np.testing.assert_array_equal(scores(longer, [[5, 0, 1]], [[2, 5]]), [[*scores(known, [[0, 1]], [[2]])[0], 0.0]])
    assert known.for_rows(np.empty(0, dtype=np.int64)).items == 0
