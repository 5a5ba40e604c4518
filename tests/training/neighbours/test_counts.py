"""Counts of neighbours, by hand and against plain loops."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.dataset import Sequences
from training.neighbours import counts
from training.neighbours.counts import (
    BACKWARD,
    DISTANCE_DECAY,
    PSEUDO,
    WINDOW,
    NeighbourCounts,
    NeighbourSettings,
    count_neighbours,
)


def flat(sequences: list[list[int]]) -> Sequences:
    offsets = np.cumsum([0, *map(len, sequences)])
    return Sequences(np.array([item for each in sequences for item in each], dtype=np.int32), offsets)


def by_loops(sequences: list[list[int]]) -> dict[tuple[int, int], float]:
    """C as the module's docstring says."""
    found: dict[tuple[int, int], float] = defaultdict(float)
    for sequence in sequences:
        for at, item in enumerate(sequence):
            for distance in range(1, WINDOW + 1):
                for place, factor in ((at + distance, 1.0), (at - distance, BACKWARD)):
                    if 0 <= place < len(sequence) and sequence[place] != item:
                        found[item, sequence[place]] += factor * DISTANCE_DECAY ** (distance - 1)
    return found


def pairs(found: NeighbourCounts) -> dict[tuple[int, int], float]:
    item = np.repeat(np.arange(len(found.start) - 1), np.diff(found.start)).tolist()
    return dict(zip(zip(item, found.neighbour.tolist(), strict=True), found.count.tolist(), strict=True))


def test_three_items_by_hand() -> None:
    found = count_neighbours(flat([[0, 1, 2], [2], []]), 4)
    assert pairs(found) == pytest.approx(
        {(0, 1): 1, (0, 2): 0.85, (1, 0): 0.2, (1, 2): 1, (2, 0): 0.2 * 0.85, (2, 1): 0.2}
    )
    assert found.outgoing.tolist() == pytest.approx([1.85, 1.2, 0.37, 0])
    assert found.incoming.tolist() == pytest.approx([0.37, 1.2, 1.85, 0])
    strength = found.memory(NeighbourSettings(out_exponent=0.5, in_exponent=0.3)).strength
    assert strength[1] == pytest.approx(0.85 / (11.85**0.5 * 11.85**0.3))
    assert strength[2] == pytest.approx(0.2 / (11.2**0.5 * 10.37**0.3))


@given(st.lists(st.lists(st.integers(0, 5), max_size=14), max_size=6), st.sampled_from([1, 60, 1 << 24]))
def test_counts_are_those_of_plain_loops(sequences: list[list[int]], pairs_at_once: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(counts, "PAIRS_AT_ONCE", pairs_at_once)
        found = count_neighbours(flat(sequences), 7)
    expected = by_loops(sequences)
    assert pairs(found).keys() == expected.keys()
    assert [pairs(found)[pair] for pair in expected] == pytest.approx(list(expected.values()))
    for item in range(7):
        assert found.outgoing[item] == pytest.approx(sum(expected[pair] for pair in expected if pair[0] == item))
        assert found.incoming[item] == pytest.approx(sum(expected[pair] for pair in expected if pair[1] == item))


def test_users_are_no_neighbours_of_each_other() -> None:
    assert pairs(count_neighbours(flat([[0, 1], [2]]), 3)).keys() == {(0, 1), (1, 0)}


def test_the_strongest_neighbours_of_an_item_are_kept_and_popularity_is_held_against_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(counts, "MOST_NEIGHBOURS", 1)
    often = [[0, 1]] * 12 + [[0, 2]] * 11 + [[5, 1]] * 200  # item 1 follows item 0 most, but also many others
    found = count_neighbours(flat(often), 6)
    assert pairs(found)[0, 2] == pytest.approx(11)
    assert (0, 1) not in pairs(found)
    assert found.outgoing[0] == pytest.approx(23)  # degrees are those of all pairs
    strength = found.memory(NeighbourSettings(out_exponent=0.5, in_exponent=0.3)).strength
    assert pytest.approx(strength[0], rel=1e-5) == (23 + PSEUDO) ** -0.5 * 11 * (11 + PSEUDO) ** -0.3
