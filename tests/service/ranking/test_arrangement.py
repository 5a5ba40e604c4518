"""Arranged answers against an obvious reference: items one by one, while all limits hold."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from service.ranking.arrangement import PlacedPin, arrange, nodes_at
from service.ranking.keys import PrefixLimit
from tests.support.bundles import small_catalogue

CATALOGUE = small_catalogue(items=300)
TRIE = CATALOGUE.trie


def one_by_one(
    rows: list[int], scores: list[float], pins: list[PlacedPin], limits: list[PrefixLimit], k: int
) -> list[int]:
    """Return the rows of the answer, by the definition."""
    used: Counter[tuple[int, ...]] = Counter()

    def prefixes(row: int) -> list[tuple[tuple[int, ...], int]]:
        codes = tuple(CATALOGUE.codes[row].tolist())
        return [(codes[: limit.depth], limit.answers) for limit in limits]

    pinned = {pin.row for pin in pins}
    for row in pinned:
        used.update(prefix for prefix, _ in prefixes(row))

    others = []
    for _, row in sorted(zip([-score for score in scores], rows, strict=True), key=lambda each: each[0]):
        if row not in pinned and all(used[prefix] < most for prefix, most in prefixes(row)):
            others.append(row)
            used.update(prefix for prefix, _ in prefixes(row))
    others = others[: k - len(pins)]

    answer = [*others]
    for pin in pins:
        answer.insert(pin.position - 1, pin.row)  # past the end: last
    return answer


@pytest.mark.parametrize("seed", range(60))
def test_an_answer_is_what_taking_items_one_by_one_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(CATALOGUE), int(rng.integers(5, 120)), replace=False).astype(np.int64)
    scores = rng.normal(size=len(rows)).astype(np.float32)
    k = int(rng.integers(1, 30))
    positions = sorted(rng.choice(np.arange(1, k + 1), min(k, int(rng.integers(0, 4))), replace=False).tolist())
    pins = [PlacedPin(position, int(rows[place]), place) for place, position in enumerate(positions)]
    depths = sorted(rng.choice([1, 2, 3], int(rng.integers(0, 4)), replace=False).tolist(), reverse=True)
    limits = [PrefixLimit(depth, int(rng.integers(1, 5))) for depth in depths]

    found = rows[arrange(TRIE, rows, scores, pins, limits, k)].tolist()
    assert found == one_by_one(rows.tolist(), scores.tolist(), pins, limits, k)


def test_nodes_are_equal_where_prefixes_are() -> None:
    rows = np.arange(len(CATALOGUE))
    for depth in (1, 2, 3):
        nodes = nodes_at(TRIE, rows, depth)
        _, expected = np.unique(CATALOGUE.codes[:, :depth], axis=0, return_inverse=True)
        assert np.array_equal(nodes, expected.reshape(-1))


def test_a_pin_beyond_the_others_closes_up() -> None:
    rows = np.array([4, 7, 9])
    order = arrange(TRIE, rows, np.array([3.0, 2.0, 1.0], np.float32), [PlacedPin(8, 4, 0)], [], 10)
    assert rows[order].tolist() == [7, 9, 4]
