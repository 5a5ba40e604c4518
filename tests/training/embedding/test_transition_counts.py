"""Counting successions, against plain loops."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.search.transitions import Transitions
from training.embedding import transition_counts
from training.embedding.transition_counts import WINDOW, count_transitions


def by_loops(sequences: list[list[int]]) -> dict[tuple[int, int], float]:
    """P(j follows i) as the function's docstring says."""
    weight: dict[tuple[int, int], float] = defaultdict(float)
    times: dict[int, int] = defaultdict(int)
    for sequence in sequences:
        for at, before in enumerate(sequence):
            times[before] += 1
            for distance, after in enumerate(sequence[at + 1 : at + 1 + WINDOW], 1):
                if after != before:
                    weight[before, after] += 1 / distance
    return {pair: found / times[pair[0]] for pair, found in weight.items()}


def pairs(found: Transitions) -> dict[tuple[int, int], float]:
    before = np.repeat(np.arange(found.items), np.diff(found.start)).tolist()
    return dict(zip(zip(before, found.successor.tolist(), strict=True), found.share.tolist(), strict=True))


@given(st.lists(st.lists(st.integers(0, 5), max_size=9), max_size=6))
def test_shares_are_those_of_plain_loops(sequences: list[list[int]]) -> None:
    found = count_transitions([np.array(sequence, dtype=np.int32) for sequence in sequences], 7)
    expected = by_loops(sequences)
    assert found.items == 7
    assert pairs(found).keys() == expected.keys()
    np.testing.assert_allclose([pairs(found)[pair] for pair in expected], list(expected.values()), rtol=1e-6)


def test_users_do_not_follow_each_other() -> None:
    assert pairs(count_transitions([np.array([0, 1]), np.array([2])], 3)) == {(0, 1): 1.0}


def test_only_the_most_frequent_successors_of_an_item_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transition_counts, "MOST_SUCCESSORS", 2)
    sequences = [np.array([0, after]) for after in (1, 2, 2, 3, 3, 3)] + [np.array([4, 1])]
    assert pairs(count_transitions(sequences, 5)) == {(0, 2): np.float32(2 / 6), (0, 3): 0.5, (4, 1): 1.0}
