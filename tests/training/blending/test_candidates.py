"""Candidates of a blend: every item that may come first is among them, with the scores that the search would give."""

from __future__ import annotations

import numpy as np
import pytest

from model_store.search.history_encoding import encode_histories
from model_store.search.neighbours import Neighbours
from tests.support.themed_data import CONFIG, themed, untrained
from training.blending import candidates as module
from training.blending.candidates import Candidates, find_candidates
from training.data.dataset import Dataset
from training.embedding.sasrec import score_histories
from training.evaluation.metrics import rank_of_target
from training.neighbours.counts import NeighbourSettings, count_neighbours

BEST = 7


def memory_of(data: Dataset, settings: NeighbourSettings) -> Neighbours:
    return count_neighbours(data.training_csr(), data.n_items).memory(settings)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return themed(titles=True)


@pytest.fixture
def found(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> Candidates:
    """Candidates of all validation users, found in several blocks."""
    monkeypatch.setattr(module, "BEST", BEST)
    monkeypatch.setattr(module, "EVALUATION_USERS", 16)
    model, content = untrained(data)
    return find_candidates(model, content, memory_of(data, NeighbourSettings()), data.validation())


def test_each_part_is_that_of_a_full_ranking(data: Dataset, found: Candidates) -> None:
    model, _ = untrained(data)
    split = data.validation()
    learned = np.concatenate([score_histories(model, [history]) for history in split.histories]) * CONFIG.temperature
    np.testing.assert_allclose(found.learned, learned[found.owner, found.item], atol=1e-5)
    assert found.item[found.is_target].tolist() == split.targets.tolist()
    for user, history in enumerate(split.histories):
        of_user = found.owner == user
        read = history[-CONFIG.max_history :]
        assert found.occurrences[of_user].tolist() == [np.count_nonzero(read == i) for i in found.item[of_user]]
        assert set(np.argsort(-learned[user])[:BEST]) <= set(found.item[of_user])


@pytest.mark.parametrize("skips_history", [True, False])
def test_all_neighbours_are_candidates_whatever_their_strengths(
    data: Dataset, found: Candidates, skips_history: bool
) -> None:
    memory = memory_of(data, NeighbourSettings(0.3, 0.3, 0.6, skips_history))
    values = found.neighbour_scores(memory)
    for user, history in enumerate(data.validation().histories):
        encoded = encode_histories([history], np.arange(data.n_items), CONFIG.max_history)
        scores = memory.scores(encoded.leaves, encoded.lengths)
        expected = np.zeros(data.n_items)
        expected[scores.row] = scores.value
        of_user = found.owner == user
        assert expected.sum() == pytest.approx(values[of_user].sum(), rel=1e-5)
        np.testing.assert_allclose(values[of_user], expected[found.item[of_user]], rtol=1e-5)


def test_low_ranks_are_those_of_a_full_ranking(data: Dataset, found: Candidates) -> None:
    model, _ = untrained(data)
    split = data.validation()
    full = rank_of_target(score_histories(model, split.histories), split.targets)
    ranks = found.ranks(found.learned)
    assert (full < BEST).sum() > 0
    np.testing.assert_array_equal(ranks[full < BEST], full[full < BEST])
    assert (ranks <= full).all()


def test_without_content_nothing_is_said(data: Dataset) -> None:
    model, _ = untrained(data)
    found = find_candidates(model, None, memory_of(data, NeighbourSettings()), data.validation())
    assert not found.said.any()
