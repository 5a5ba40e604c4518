"""Exploration of one answer: places, pins, and probabilities that are those of what happens."""

from __future__ import annotations

import numpy as np
import pytest

from model_store.attribution.token import MAX_EXPLORED_RANKS
from service.answers.exploration import Int64Array, distribution, draw, pool_size
from service.engines.base import SearchResult
from service.schemas.ranking import Exploration

NO_PINS = np.empty(0, dtype=np.int64)


def pool_of(count: int, spread: float = 4.0) -> SearchResult:
    """Candidates whose rows are 100, 101 …, best first."""
    score = np.linspace(0, -spread, count).astype(np.float32)
    return SearchResult(np.arange(100, 100 + count), score, score)


def test_chance_has_the_last_places_and_the_best_have_the_others() -> None:
    found, chance = draw(pool_of(20), NO_PINS, 6, Exploration(slots=2), b"answer")
    assert found.rows[:4].tolist() == [100, 101, 102, 103]
    assert len(set(found.rows.tolist())) == len(found.rows) == 6
    assert chance is not None
    assert chance.propensities[:4].tolist() == [1.0] * 4
    assert (chance.propensities[4:] < 1).all()


def test_the_same_bytes_draw_the_same() -> None:
    asked = Exploration(share=1.0, temperature=5.0)
    first, again, other = (draw(pool_of(20), NO_PINS, 10, asked, id_) for id_ in (b"abcdef", b"abcdef", b"abcdeg"))
    assert first.found.rows.tolist() == again.found.rows.tolist() != other.found.rows.tolist()


@pytest.mark.parametrize("pinned", [NO_PINS, np.array([101, 104])], ids=["no pins", "pins"])
def test_items_come_to_places_as_often_as_is_said(pinned: Int64Array) -> None:
    pool, asked, k, draws = pool_of(9, spread=2.0), Exploration(slots=3, temperature=0.7), 6, 8000
    told = distribution(pool, pinned, k, asked)
    assert told.shape == (9, 6)
    assert np.allclose(told.sum(axis=0), 1, atol=1e-6)

    seen = np.zeros_like(told)
    for number in range(draws):
        found, chance = draw(pool, pinned, k, asked, number.to_bytes(6))
        seen[found.rows - 100, np.arange(k)] += 1
        assert chance is not None
        assert np.allclose(chance.propensities, told[found.rows - 100, np.arange(k)])
    assert (np.abs(seen / draws - told) <= 4.5 * np.sqrt(told * (1 - told) / draws) + 1e-6).all()
    for place in pinned - 100:
        assert told[place, place] == 1.0
        assert seen[place, place] == draws


def test_a_long_answer_explores_as_many_places_as_a_token_holds() -> None:
    pool, pins = pool_of(80), np.array([130])
    found, chance = draw(pool, pins, 40, Exploration(share=1.0, temperature=20.0), b"answer")
    assert len(found.rows) == len(set(found.rows.tolist())) == 40
    assert found.rows[30] == 130, "a pin beyond the places of chance stays"
    rest = [row for row in found.rows[MAX_EXPLORED_RANKS:].tolist() if row != 130]
    assert rest == sorted(rest)
    assert rest == [row for row in pool.rows.tolist() if row not in found.rows[:25] and row != 130][: len(rest)]
    assert chance is not None
    assert len(chance.propensities) == MAX_EXPLORED_RANKS
    assert (chance.propensities < 1).all()


def test_fewer_candidates_than_places() -> None:
    found, chance = draw(pool_of(3), np.array([102]), 10, Exploration(share=1.0), b"answer")
    assert sorted(found.rows.tolist()) == [100, 101, 102]
    assert found.rows[2] == 102
    assert chance is not None
    assert chance.propensities[2] == 1.0
    assert distribution(pool_of(3), np.array([102]), 10, Exploration(share=1.0)).shape == (3, 3)


def test_without_exploration_the_best_come() -> None:
    assert np.array_equal(distribution(pool_of(5), NO_PINS, 3, None), np.eye(5, 3))


@pytest.mark.parametrize(("k", "size"), [(1, 2), (10, 20), (25, 50), (40, 50), (100, 100)])
def test_a_pool_has_candidates_to_choose_from(k: int, size: int) -> None:
    assert pool_size(k) == size


@pytest.mark.parametrize(
    ("places", "given", "slots"),
    [
        (10, {"share": 0.3}, 3),
        (10, {"share": 0.01}, 1),
        (10, {"share": 1}, 10),
        (4, {"slots": 9}, 4),
        (0, {"slots": 1}, 0),
    ],
)
def test_a_share_is_one_of_the_places(places: int, given: dict[str, float], slots: int) -> None:
    assert Exploration.model_validate(given).slots_of(places) == slots
