"""History encoding: the newest items, in order, padded on the right."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.search.history_encoding import encode_histories

LEAVES = np.random.default_rng(0).permutation(40) + 100  # leaf of each row


def rows(*items: int) -> npt.NDArray[np.int64]:
    return np.array(items, dtype=np.int64)


def test_leaves_are_padded_on_the_right_to_the_longest() -> None:
    batch = encode_histories([rows(4), rows(5, 6, 4)], LEAVES, 10)
    assert batch.lengths.tolist() == [1, 3]
    assert batch.leaves.shape == (2, 3)
    assert batch.leaves.dtype == batch.lengths.dtype == np.int64
    assert batch.leaves[0].tolist() == [LEAVES[4], 0, 0]
    assert batch.leaves[1].tolist() == LEAVES[[5, 6, 4]].tolist()


def test_the_newest_items_are_kept_in_order() -> None:
    batch = encode_histories([rows(1, 2, 3, 4, 5), rows(6, 7)], LEAVES, 2)
    np.testing.assert_array_equal(batch.leaves, LEAVES[np.array([[4, 5], [6, 7]])])
    assert batch.lengths.tolist() == [2, 2]


@pytest.mark.parametrize(("pad_to", "longest"), [(0, 3), (2, 3), (3, 3), (8, 8)])
def test_pad_to_is_a_lower_bound(pad_to: int, longest: int) -> None:
    batch = encode_histories([rows(1, 2, 3), rows(4)], LEAVES, 10, pad_to)
    assert batch.leaves.shape == (2, longest)
    assert (batch.leaves[0, 3:] == 0).all()
    assert batch.lengths.tolist() == [3, 1]


@given(st.lists(st.lists(st.integers(0, 39), min_size=1, max_size=12), min_size=1, max_size=6), st.integers(1, 9))
def test_every_row_holds_the_leaves_of_its_own_tail(histories: list[list[int]], max_history: int) -> None:
    batch = encode_histories([np.array(history) for history in histories], LEAVES, max_history)
    assert batch.leaves.shape[1] == batch.lengths.max()
    for history, leaves, length in zip(histories, batch.leaves, batch.lengths, strict=True):
        assert length == min(len(history), max_history)
        assert leaves[:length].tolist() == LEAVES[history[-length:]].tolist()
        assert (leaves[length:] == 0).all()


def test_an_empty_history_is_named() -> None:
    with pytest.raises(ValueError, match="history 1 is empty"):
        encode_histories([rows(1), rows(), rows(2)], LEAVES, 5)


def test_no_histories_give_an_empty_batch() -> None:
    batch = encode_histories([], LEAVES, 5, pad_to=4)
    assert batch.leaves.shape == (0, 4)
    assert batch.lengths.shape == (0,)
