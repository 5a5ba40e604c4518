"""The fit of the neighbourhood: it chooses what ranks validation targets best."""

import numpy as np
import pytest

from model_store.search.neighbours import Neighbours
from training.data.dataset import Sequences, Split
from training.evaluation.metrics import Ranks, ndcg
from training.neighbours import fit
from training.neighbours.counts import count_neighbours
from training.neighbours.fit import candidates, fit_neighbours
from training.neighbours.ranks import neighbour_ranks

ITEMS = 12


def shelves(users: int, repeats: bool, seed: int = 0) -> tuple[Sequences, Split]:
    """Users who buy the six items of one of two shelves in any order; with ``repeats`` two of them again and again."""
    rng = np.random.default_rng(seed)
    walks = [6 * (user % 2) + rng.permutation(6) for user in range(users)]
    if repeats:
        walks = [np.tile(walk[:2], 3) for walk in walks]
    histories = [walk[:5].astype(np.int32) for walk in walks]
    split = Split(histories, np.array([walk[5] for walk in walks], dtype=np.int32), np.arange(users))
    return Sequences(np.concatenate(histories), np.arange(users + 1) * 5), split


@pytest.mark.parametrize("repeats", [False, True])
def test_items_of_the_history_count_where_people_come_back_to_them(repeats: bool) -> None:
    sequences, valid = shelves(60, repeats)
    found = fit_neighbours(sequences, ITEMS, valid, 50, seed=0)
    assert found.skips_history is not repeats
    assert ndcg(neighbour_ranks(found, valid, 50).all_items, 10) > 0.5


def test_the_best_point_of_the_grid_is_chosen() -> None:
    rng = np.random.default_rng(1)
    walks = [np.cumsum(rng.integers(1, 4, 8)) % ITEMS for _ in range(80)]
    sequences = Sequences(np.concatenate(walks).astype(np.int32), np.arange(81) * 8)
    targets = np.array([(walk[-1] + 2) % ITEMS for walk in walks], dtype=np.int32)
    valid = Split([walk.astype(np.int32) for walk in walks], targets, np.arange(80))

    def value(one: Neighbours) -> float:
        return ndcg(neighbour_ranks(one, valid, 50).all_items, 10)

    found = fit_neighbours(sequences, ITEMS, valid, 50, seed=0)
    values = [value(one) for one in candidates(count_neighbours(sequences, ITEMS))]
    assert len(values) == 36
    assert value(found) == max(values) > min(values)
    assert found.trained == found.items == ITEMS


def test_few_users_are_asked_and_none_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    sequences, valid = shelves(60, repeats=False)
    nobody = Split([], np.empty(0, np.int32), np.empty(0, np.int64))
    first = next(candidates(count_neighbours(sequences, ITEMS)))
    assert fit_neighbours(sequences, ITEMS, nobody, 50, seed=0).decay == first.decay

    asked: list[int] = []
    plain = neighbour_ranks

    def noted(one: Neighbours, split: Split, max_history: int) -> Ranks:
        asked.append(len(split.targets))
        return plain(one, split, max_history)

    monkeypatch.setattr(fit, "MOST_USERS", 7)
    monkeypatch.setattr(fit, "neighbour_ranks", noted)
    fit_neighbours(sequences, ITEMS, valid, 50, seed=0)
    assert asked == [7] * 36
