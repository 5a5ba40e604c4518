"""The memory of neighbours, against the definition written out; additions; refusals of arrays that are none."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.catalogue.resemblances import MOST_LENT, Resemblances, nothing_known
from model_store.errors import BundleRefused
from model_store.search.history_encoding import encode_histories
from model_store.search.neighbours import ADDITION_SIZES, AGES, MOST_NEIGHBOURS, Neighbours, no_additions
from model_store.semantic_ids.trie import Trie

STRENGTHS = {(0, 1): 0.5, (0, 2): 0.25, (1, 2): 0.125, (3, 0): 1.0}
"""Neighbours of four items; the third has none."""


def memory(
    strengths: dict[tuple[int, int], float], items: int, decay: float = 0.5, skips_history: bool = False
) -> Neighbours:
    """Build a memory from pairs in any order."""
    pairs = sorted(strengths)
    start = np.searchsorted(np.array([item for item, _ in pairs]), np.arange(items + 1))
    neighbour = np.array([other for _, other in pairs], dtype=np.int32)
    strength = np.array([strengths[pair] for pair in pairs], dtype=np.float32)
    return Neighbours(start.astype(np.int64), neighbour, strength, decay, items, skips_history)


def written_out(known: Neighbours, strengths: dict[tuple[int, int], float], history: list[int]) -> list[float]:
    """The formula of the module, for all items."""
    newest_first = history[::-1][:AGES]
    total = [
        sum(known.decay**age * strengths.get((had, item), 0.0) for age, had in enumerate(newest_first))
        for item in range(known.items)
    ]
    if known.skips_history:
        total = [0.0 if item in history else value for item, value in enumerate(total)]
    mean = sum(total) / known.trained
    deviation = math.sqrt(sum((value - mean) ** 2 for value in total) / known.trained)
    return [value / deviation if deviation > 1e-9 else 0.0 for value in total]


def scores(known: Neighbours, histories: list[list[int]]) -> npt.NDArray[np.float64]:
    """Scores of all items, by history."""
    trie_free = np.arange(max(known.items, 1 + max(map(max, histories))))
    encoded = encode_histories([np.array(history) for history in histories], trie_free, 50)
    found = known.scores(encoded.leaves, encoded.lengths)
    dense = np.zeros((len(histories), known.items))
    dense[found.owner, found.row] = found.value
    return dense


def test_scores_by_hand() -> None:
    """Strengths .125 and .5 * .25 make item 2 .25, and .5 * .5 item 1 as much; over four items that is 1 deviation."""
    found = scores(memory(STRENGTHS, 4), [[0, 1]])
    # mean .125, deviation .125: .25 / .125 = 2
    np.testing.assert_allclose(found, [[0, 2, 2, 0]])


def test_the_newest_items_count_most_and_old_ones_not_at_all() -> None:
    known = memory(STRENGTHS | {(1, 3): 0.125}, 4)
    first, second, third = scores(known, [[0, 1], [1, 0], [0, *[2] * AGES]])
    assert first[3] / first[1] > second[3] / second[1] > 0
    assert not third.any()


def test_items_of_the_history_are_skipped_on_request() -> None:
    assert scores(memory(STRENGTHS, 4), [[1, 2, 0]])[0].tolist().count(0.0) == 2
    assert np.flatnonzero(scores(memory(STRENGTHS, 4, skips_history=True), [[2, 0]])[0]).tolist() == [1]
    # An old item is of the history, too, though its neighbours do not count any more.
    old = [1, *[2] * AGES, 0]
    assert np.flatnonzero(scores(memory(STRENGTHS, 4, skips_history=True), [old])[0]).tolist() == []
    assert np.flatnonzero(scores(memory(STRENGTHS, 4), [old])[0]).tolist() == [1, 2]


def test_it_knows_nothing_of_items_that_came_later() -> None:
    known = memory(STRENGTHS, 4)
    assert not scores(known, [[4, 7]]).any()
    np.testing.assert_allclose(scores(known, [[3, 9]]), scores(known, [[3]]))


def test_an_empty_memory_scores_nothing() -> None:
    assert not scores(memory({}, 4), [[0, 1]]).any()
    nobody = Neighbours(np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32), 0.5, 4, False)
    encoded = encode_histories([np.array([0, 1])], np.arange(2), 5)
    assert len(nobody.scores(encoded.leaves, encoded.lengths).row) == 0


def test_neighbours_that_are_all_alike_tell_nothing() -> None:
    everyone = {(item, other): 1.0 for item in range(3) for other in range(3) if item != other}
    assert not scores(memory(everyone, 3), [[0, 1, 2], [2, 1, 0]])[:, :0].any()
    alike = Neighbours(np.array([0, 2, 2]), np.array([0, 1], np.int32), np.ones(2, np.float32), 0.5, 2, False)
    assert not scores(alike, [[0]]).any()


@given(seed=st.integers(0, 2**32 - 1), skips_history=st.booleans())
def test_scores_are_the_definition(seed: int, skips_history: bool) -> None:
    rng = np.random.default_rng(seed)
    items = int(rng.integers(1, 12))
    pairs = {(int(a), int(b)): float(rng.uniform(1e-4, 1)) for a, b in rng.integers(0, items, (rng.integers(0, 40), 2))}
    histories = [rng.integers(0, items, rng.integers(1, 14)).tolist() for _ in range(3)]
    known = memory(pairs, items, float(rng.uniform(0.3, 1)), skips_history)
    expected = [written_out(known, pairs, history) for history in histories]
    np.testing.assert_allclose(scores(known, histories), expected, rtol=1e-4, atol=1e-6)


def test_additions_are_weighted_scores_by_leaf_padded_to_few_sizes() -> None:
    trie = Trie.build(np.array([[3], [1], [0], [2]], dtype=np.int16), 4)  # leaves 3, 1, 0, 2
    known = memory(STRENGTHS, 4)
    encoded = encode_histories([np.array([0, 1]), np.array([2]), np.array([3])], trie.item_leaf, 5)
    added = known.additions(encoded, trie, weight=0.25)
    assert added.leaves.shape == added.values.shape == (3, ADDITION_SIZES[1])
    assert added.leaves.dtype == np.int64
    assert added.values.dtype == np.float32
    listed = [
        {leaf: value for leaf, value in zip(leaves, values, strict=True) if leaf >= 0}
        for leaves, values in zip(added.leaves.tolist(), added.values.tolist(), strict=True)
    ]
    assert listed[0] == pytest.approx({1: 0.5, 0: 0.5})
    assert listed[1] == {}
    assert listed[2] == pytest.approx({3: 0.25 / math.sqrt(1 / 4 - 1 / 16)})
    assert not added.values[added.leaves < 0].any()


def test_histories_without_neighbours_need_no_room() -> None:
    trie = Trie.build(np.array([[3], [1], [0], [2]], dtype=np.int16), 4)
    added = memory(STRENGTHS, 4).additions(encode_histories([np.array([2])], trie.item_leaf, 5), trie, 1.0)
    assert added.leaves.shape == no_additions(1).leaves.shape == (1, 0)


def test_the_largest_history_fits() -> None:
    items = AGES * (MOST_NEIGHBOURS + 1)
    pairs = {
        (item, AGES + item * MOST_NEIGHBOURS + at): 1.0 + at for item in range(AGES) for at in range(MOST_NEIGHBOURS)
    }
    trie = Trie.build(np.stack(np.unravel_index(np.arange(items), (30, 30)), axis=1).astype(np.int16), 30)
    encoded = encode_histories([np.arange(AGES), np.array([0])], trie.item_leaf, 9)
    added = memory(pairs, items).additions(encoded, trie, 1.0)
    assert added.leaves.shape == (2, AGES * MOST_NEIGHBOURS) == (2, ADDITION_SIZES[-2])
    assert (added.leaves >= 0).sum(axis=1).tolist() == [AGES * MOST_NEIGHBOURS, MOST_NEIGHBOURS]

    records = nothing_known(100)
    records["similar"][:, 0] = items - 1  # a neighbour of the newest item
    records["share"][:, 0] = 1
    grown = Trie.build(np.stack(np.unravel_index(np.arange(items + 100), (30, 30)), axis=1).astype(np.int16), 30)
    encoded = encode_histories([np.arange(AGES), np.array([0])], grown.item_leaf, 9)
    added = memory(pairs, items).additions(encoded, grown, 1.0, Resemblances.of(items, records))
    assert added.leaves.shape == (2, ADDITION_SIZES[-1])
    assert (added.leaves >= 0).sum(axis=1).tolist() == [AGES * MOST_NEIGHBOURS + MOST_LENT, MOST_NEIGHBOURS]


def test_new_items_get_what_the_items_lend_that_they_resemble() -> None:
    trie = Trie.build(np.array([[3], [1], [0], [2], [5], [4]], dtype=np.int16), 6)
    records = nothing_known(2)
    records["similar"][:, :2] = [[1, 3], [2, -1]]
    records["share"][:, :2] = [[0.75, 0.25], [1, 0]]
    known = memory(STRENGTHS, 4)
    encoded = encode_histories([np.array([0, 1]), np.array([2]), np.array([3])], trie.item_leaf, 5)
    without = known.additions(encoded, trie, 0.5)
    added = known.additions(encoded, trie, 0.5, Resemblances.of(4, records))
    for request in range(3):
        trained, everything = (
            {
                trie.leaf_item[leaf]: value
                for leaf, value in zip(one.leaves[request], one.values[request], strict=True)
                if leaf >= 0
            }
            for one in (without, added)
        )
        lent = {
            4: 0.75 * trained.get(1, 0) + 0.25 * trained.get(3, 0),
            5: trained.get(2, 0),
        }
        assert everything == pytest.approx(trained | {row: value for row, value in lent.items() if value})
    assert trie.item_leaf[4] in added.leaves
    nothing = known.additions(encoded, trie, 0.5, Resemblances.unknown(4, 6))
    np.testing.assert_array_equal(nothing.leaves, without.leaves)


@pytest.mark.parametrize("skips_history", [True, False])
def test_new_items_of_the_history_are_lent_nothing_where_nobody_comes_back(skips_history: bool) -> None:
    trie = Trie.build(np.array([[3], [1], [0], [2], [5]], dtype=np.int16), 6)
    records = nothing_known(1)
    records["similar"][0, 0] = 1
    records["share"][0, 0] = 1
    known = memory(STRENGTHS, 4, skips_history=skips_history)
    encoded = encode_histories([np.array([4, 0]), np.array([0])], trie.item_leaf, 5)
    added = known.additions(encoded, trie, 1.0, Resemblances.of(4, records))
    is_lent = (added.leaves == trie.item_leaf[4]).any(axis=1)
    assert is_lent.tolist() == [not skips_history, True]


def test_arrays_come_back() -> None:
    known = memory(STRENGTHS, 4, decay=0.7, skips_history=True)
    again = Neighbours.from_arrays(known.arrays())
    assert (again.decay, again.trained, again.skips_history) == (0.7, 4, True)
    np.testing.assert_equal(again.arrays(), known.arrays())


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"start": np.array([0, 2])}, "start must ascend from 0 to the number of pairs, 4"),
        ({"start": np.array([0, 3, 2, 3, 4])}, "start must ascend"),
        ({"start": np.empty(0, np.int64)}, "start must ascend"),
        ({"strength": np.array([1, 1, 0, 1], "f4")}, "strength must hold a number above 0 for every pair"),
        ({"strength": np.array([1, 1, np.nan, 1], "f4")}, "strength must hold"),
        ({"strength": np.ones(3, "f4")}, "strength must hold"),
        ({"neighbour": np.array([1, 2, 2, 4], np.int32)}, "neighbour must hold rows below 4"),
        ({"neighbour": np.array([2, 1, 2, 0], np.int32)}, "neighbour must ascend within every item"),
        ({"neighbour": np.array([1, 1, 2, 0], np.int32)}, "neighbour must ascend within every item"),
        ({"decay": np.array([0.0])}, "decay must be above 0 and at most 1, not 0.0"),
        ({"decay": np.array([np.nan])}, "decay must be above 0"),
        ({"decay": np.array([0.5, 0.5])}, "size 1"),
        ({"trained": np.array([0])}, "trained must be at least 1, not 0"),
    ],
)
def test_arrays_that_are_no_memory_are_refused(wrong: dict[str, npt.NDArray[np.generic]], problem: str) -> None:
    with pytest.raises(BundleRefused, match=problem):
        Neighbours.from_arrays(memory(STRENGTHS, 4).arrays() | wrong)


def test_missing_arrays_are_refused_by_name() -> None:
    with pytest.raises(BundleRefused, match="strength"):
        Neighbours.from_arrays({"start": np.array([0]), "neighbour": np.empty(0, np.int32)})


def test_an_item_with_too_many_neighbours_is_refused() -> None:
    pairs = {(0, 1 + at): 1.0 for at in range(MOST_NEIGHBOURS + 1)}
    with pytest.raises(ValueError, match="an item has 129 neighbours, the limit is 128"):
        memory(pairs, 200)


def test_the_memory_of_some_rows_has_new_numbers_and_unknown_rows_have_no_neighbours() -> None:
    known = memory(STRENGTHS, 4)
    found = known.for_rows(np.array([0, 2, 3, 7]))
    assert (found.items, found.trained) == (4, 4)
    np.testing.assert_equal(found.arrays(), memory({(0, 1): 0.25, (2, 0): 1.0}, 4).arrays())
    np.testing.assert_equal(known.for_rows(np.arange(4)).arrays(), known.arrays())
    longer = known.for_rows(np.arange(6))
    assert (longer.items, longer.trained) == (6, 4)
    np.testing.assert_allclose(scores(longer, [[5, 0, 1]])[:, :4], scores(known, [[0, 1]]))
    assert known.for_rows(np.empty(0, dtype=np.int64)).items == 0
