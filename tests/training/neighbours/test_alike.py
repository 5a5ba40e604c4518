"""Items that say the same: against all similarities computed one by one; bounded work; what they add to neighbours."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from model_store.search.item_words import ItemWords
from tests.support.random_worlds import random_item_words
from tests.training.neighbours.test_counts import flat
from training.neighbours import alike, counts
from training.neighbours.alike import AlikePairs, find_alike
from training.neighbours.counts import NeighbourSettings, count_neighbours

ITEMS = 40
WORDS = random_item_words(np.random.default_rng(0), ITEMS, words=60)


def by_item(found: AlikePairs) -> dict[int, dict[int, float]]:
    result: dict[int, dict[int, float]] = {item: {} for item in range(ITEMS)}
    for item, other, similarity in zip(*(part.tolist() for part in found), strict=True):
        result[item][other] = similarity
    return result


def all_similarities() -> npt.NDArray[np.float32]:
    """Similarities of all pairs, ``[item, other]``."""
    rows = np.arange(ITEMS)
    found = WORDS.similarities(np.tile(rows, (ITEMS, 1)), rows[:, None])[:, :, 0].T
    np.fill_diagonal(found, 0)
    return found


@pytest.mark.parametrize("at_once", [1, 7, 2048])
def test_pairs_are_the_most_similar_ones(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(alike, "ITEMS_AT_ONCE", at_once)
    monkeypatch.setattr(alike, "ALIKE", 5)
    expected = all_similarities()
    found = by_item(find_alike(WORDS))
    for item in range(ITEMS):
        best = np.sort(expected[item][expected[item] > 0])[::-1][:5]
        assert sorted(found[item].values(), reverse=True) == pytest.approx(best.tolist(), rel=1e-5)
        for other, similarity in found[item].items():
            assert similarity == pytest.approx(float(expected[item, other]), rel=1e-5)
    assert max(map(len, found.values())) == 5


def test_what_most_items_say_is_not_looked_at_if_it_costs_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ItemWords.nothing(ITEMS)
    words.word[:, 0], words.weight[:, 0] = 3, 0.6  # all items
    words.word[:2, 1], words.weight[:2, 1] = 9, 0.8  # two of them
    assert len(find_alike(words).item) == ITEMS * min(ITEMS - 1, alike.ALIKE)
    monkeypatch.setattr(alike, "MOST_PAIRS", ITEMS - 1)
    assert list(zip(*(part.tolist() for part in find_alike(words)), strict=True)) == [
        (0, 1, pytest.approx(0.64, abs=1e-3)),
        (1, 0, pytest.approx(0.64, abs=1e-3)),
    ]


def test_items_that_say_nothing_are_alike_none() -> None:
    assert not len(find_alike(ItemWords.nothing(3)).item)
    assert not len(find_alike(ItemWords.nothing(0)).item)


def test_words_add_to_what_people_had_together() -> None:
    words = ItemWords.nothing(4)
    words.word[[0, 3], 0], words.weight[[0, 3], 0] = 5, 1
    words.word[1, 0], words.weight[1, 0] = 6, 1
    found = count_neighbours(flat([[0, 1], [0, 1], [2, 1]]), 4, words)

    plain = found.memory(NeighbourSettings(likeness=0.0))
    without = count_neighbours(flat([[0, 1], [0, 1], [2, 1]]), 4).memory(NeighbourSettings(likeness=0.5))
    for name, array in plain.arrays().items():
        np.testing.assert_array_equal(array, without.arrays()[name])

    memory = found.memory(NeighbourSettings(likeness=0.5))
    assert memory.neighbour[memory.start[0] : memory.start[1]].tolist() == [1, 3]
    strong = float(np.maximum.reduceat(plain.strength, plain.start[:3]).mean())  # item 3 has no neighbours by counts
    assert memory.strength[memory.start[0] + 1] == pytest.approx(0.5 * strong)
    assert memory.strength[memory.start[0]] == pytest.approx(plain.strength[0])
    assert memory.neighbour[memory.start[3] :].tolist() == [0]


def test_an_item_keeps_its_strongest_neighbours_of_both_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "MOST_NEIGHBOURS", 2)
    words = ItemWords.nothing(4)
    words.word[[0, 3], 0], words.weight[[0, 3], 0] = 5, 1
    found = count_neighbours(flat([[0, 1]] * 9 + [[0, 2]] * 2), 4, words)
    for likeness, expected in ((0.0, [1, 2]), (0.1, [1, 2]), (0.8, [1, 3])):
        memory = found.memory(NeighbourSettings(likeness=likeness))
        assert memory.neighbour[: memory.start[1]].tolist() == expected


def test_where_all_say_the_same_nobody_is_everybodys_neighbour() -> None:
    words = ItemWords.nothing(100)
    words.word[:, 0], words.weight[:, 0] = 3, 1
    found = find_alike(words)
    assert found.other[found.item == 10].tolist() == list(range(11, 11 + alike.ALIKE))
    assert sorted(found.other[found.item == 90].tolist()) == [*range(23), *range(91, 100)]
    assert set(np.bincount(found.other).tolist()) == {alike.ALIKE}
