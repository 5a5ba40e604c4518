"""Fit of the ranker: it finds what is there, refuses what is not, and is judged by users that did not teach it."""

from __future__ import annotations

import numpy as np
import pytest

from model_store.search.fusion import Fusion
from model_store.search.item_words import ItemWords
from model_store.search.ranker import FEATURES, CandidateFeatures
from training.blending.ranker import LEAST_USERS, RankerFit, RankerFitter
from training.evaluation.full_ranking import SearchResults
from training.evaluation.metrics import ndcg

WIDTH, DENSE = 8, 12
PLACES = WIDTH + DENSE
FUSION = Fusion(weight=16.0, candidates=DENSE)
READER = CandidateFeatures(np.zeros(100, dtype=np.float32), 0, ItemWords.nothing(100))


def results(users: int, told_by: str | None, seed: int = 0, found: float = 0.8) -> SearchResults:
    """Searches whose target is best by dense score and one feature together; that feature tells 2 nats of it.

    Args:
        users: Number of users.
        told_by: The feature; ``None`` if no feature tells anything.
        seed: Seed of everything.
        found: Share of the users whose target is among the candidates.
    """
    random = np.random.default_rng(seed)
    shape = (2, users, PLACES)
    log_prob = -random.uniform(3, 9, shape).astype(np.float32)
    log_prob[:, :, -1] = -np.inf  # an empty place
    dense = random.normal(0, 0.1, shape).astype(np.float32)
    features = random.normal(size=(*shape, len(FEATURES))).astype(np.float32)
    told = np.zeros(shape, np.float32) if told_by is None else features[..., FEATURES.index(told_by)]

    nats = dense / 0.07 + log_prob / (0.07 * FUSION.weight) + 2 * np.abs(told) + random.gumbel(size=shape)
    nats[:, :, -1] = -np.inf
    is_target = np.arange(PLACES) == nats[0].argmax(axis=1)[None, :, None]
    is_target &= random.random(users)[None, :, None] < found
    return SearchResults(np.broadcast_to(is_target, shape).copy(), log_prob, dense, WIDTH, features=features)


def fitted(searched: SearchResults, reads_search: bool = True) -> RankerFit:
    return RankerFitter(searched, FUSION, READER, 1, reads_search).fit()


def test_a_feature_that_tells_is_read_though_its_worth_is_no_straight_line() -> None:
    searched = results(1500, "log_popularity")
    fit = fitted(searched)
    assert fit.ranker is not None
    assert fit.gain.error is not None
    assert fit.gain.mean > 5 * fit.gain.error

    others = results(1500, "log_popularity", seed=1)
    plain = ndcg(others.ranks(FUSION).all_items, 10)
    ranked = ndcg(others.corrected(others.corrections_by(fit.ranker)).ranks(FUSION).all_items, 10)
    assert ranked - plain == pytest.approx(fit.gain.mean, abs=4 * fit.gain.error)  # the gain was no flattery
    assert ranked > plain + 0.05


def test_items_that_came_after_training_get_what_answers_get_on_average() -> None:
    searched = results(1500, "log_popularity")
    ranker = fitted(searched).ranker
    assert ranker is not None
    known = searched.corrected(ranker.corrections(searched.features))
    order = np.argsort(-(known.log_prob[0] / FUSION.weight + known.dense[0]), axis=1)[:, :3]
    of_answers = np.take_along_axis(ranker.corrections(searched.features[0]), order, axis=1).mean()
    of_all = ranker.corrections(searched.features[0]).mean()
    assert ranker.untrained > of_all + 0.02
    assert ranker.untrained == pytest.approx(of_answers, abs=0.03)

    new = searched.features[0].copy()
    new[..., FEATURES.index("log_popularity")] = np.nan
    assert (ranker.corrections(new) == np.float32(ranker.untrained)).all()


def test_where_no_feature_tells_anything_there_is_no_ranker_though_it_would_flatter_its_teachers() -> None:
    searched = results(400, None)
    fit = fitted(searched)
    assert fit.ranker is None
    assert not fit.corrections.any()
    assert fit.corrections.shape == searched.dense.shape

    flattering = RankerFitter(searched, FUSION, READER, 1)._train(np.ones(400, dtype=np.bool_))
    by_it = searched.corrected(flattering.corrections(searched.features)).ranks(FUSION).all_items
    assert ndcg(by_it, 10) > ndcg(searched.ranks(FUSION).all_items, 10)


@pytest.mark.parametrize("users", [0, LEAST_USERS - 1])
def test_too_few_users_to_tell_have_no_ranker(users: int) -> None:
    fit = fitted(results(users, "dense", found=1.1))
    assert fit.ranker is None
    assert fit.gain.error is None


def test_a_ranker_that_must_do_without_the_search_reads_nothing_of_it() -> None:
    searched = results(1500, "log_prob")
    fit = fitted(searched, reads_search=False)
    assert fit.ranker is None  # what tells is the search's own
    assert fitted(searched).ranker is not None

    ranker = fitted(results(1500, "neighbours"), reads_search=False).ranker
    assert ranker is not None
    features = searched.features.copy()
    features[..., FEATURES.index("log_prob")] += 5
    np.testing.assert_array_equal(ranker.corrections(features), ranker.corrections(searched.features))


def test_the_same_seed_gives_the_same_ranker() -> None:
    searched = results(600, "log_length")
    one, other = fitted(searched), fitted(searched)
    assert one.ranker is not None
    assert other.ranker is not None
    for name, array in one.ranker.arrays().items():
        np.testing.assert_array_equal(array, other.ranker.arrays()[name])
