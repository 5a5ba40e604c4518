"""Ranks by the served search equal those of the NumPy reference, under both protocols."""

import numpy as np
import numpy.typing as npt
import pytest

from model_store.config import ModelConfig
from model_store.search.fusion import GENERATIVE_ALONE, Fusion
from tests.support.random_worlds import (
    random_codes,
    random_neighbours,
    random_recommender,
    random_vectors,
    reference,
    small_config,
)
from tests.support.search_reference import fuse
from training.data.dataset import Split
from training.evaluation.full_ranking import (
    USERS_AT_ONCE,
    SearchedModel,
    SearchResults,
    generative_ranks,
    sample_split,
    search_split,
)
from training.evaluation.metrics import Ranks

ITEMS, WIDTH = 60, 8


def make_split(rng: np.random.Generator, users: int) -> Split:
    """Every third user has had the target before, and most histories repeat items."""
    histories = [rng.integers(0, ITEMS, rng.integers(1, 12)).astype(np.int32) for _ in range(users)]
    targets = rng.integers(0, ITEMS, users).astype(np.int32)
    for row in range(0, users, 3):
        targets[row] = histories[row][0]
    return Split(histories, targets, np.arange(users))


def expected_ranks(config: ModelConfig, seed: int, codes: npt.NDArray[np.int16], split: Split, row: int) -> list[int]:
    """Both ranks of one user by the reference."""
    judge = reference(config, random_recommender(config, seed), codes)
    history, target = split.histories[row], int(split.targets[row])
    unseen = np.ones(ITEMS, dtype=np.bool_)
    unseen[history] = False
    unseen[target] = True
    found = []
    for is_open in (None, unseen):
        answers = [item for item, _ in judge.search(history, WIDTH, is_open)]
        found.append(answers.index(target) if target in answers else -1)
    return found


@pytest.mark.parametrize("collisions", ["reassign", "token"])
@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_ranks_equal_the_references(collisions: str, attention: str) -> None:
    config = small_config(2, 9, collisions, encoder_attention=attention)
    rng = np.random.default_rng(5)
    codes, split = random_codes(rng, config, ITEMS), make_split(rng, 72)
    ranks = generative_ranks(random_recommender(config, 3), codes, split, WIDTH)
    expected = np.array([expected_ranks(config, 3, codes, split, row) for row in range(72)])
    np.testing.assert_array_equal(ranks.all_items, expected[:, 0])
    np.testing.assert_array_equal(ranks.seen_excluded, expected[:, 1])
    # The case must hold what it is to show: hits, misses, and ranks that differ between the protocols.
    assert (ranks.all_items >= 0).any()
    assert (ranks.all_items < 0).any()
    assert (ranks.all_items != ranks.seen_excluded).any()
    assert ranks.seen_excluded[::3].max() >= 0  # targets of the own history stay answers


@pytest.mark.parametrize("weight", [0.0, 0.7, 5.0])
def test_fused_ranks_equal_the_references(weight: float) -> None:
    config = small_config(2, 9)
    rng = np.random.default_rng(6)
    codes, split = random_codes(rng, config, ITEMS), make_split(rng, 20)
    vectors = random_vectors(rng, config, ITEMS)
    judge = reference(config, random_recommender(config, 3), codes, vectors)
    found = search_split(SearchedModel(random_recommender(config, 3), codes, WIDTH, vectors, 6), split)
    ranks = found.ranks(Fusion(weight=weight, candidates=6))
    for row, (history, target) in enumerate(zip(split.histories, split.targets.tolist(), strict=True)):
        for protocol, excluded in enumerate((history[:0], history)):
            is_open = np.ones(ITEMS, dtype=np.bool_)
            is_open[excluded] = False
            is_open[target] = True
            beams, joined = judge.candidates(history, WIDTH, 6, is_open)
            answers = fuse([*beams, *(joined if weight else [])], weight, ITEMS, ITEMS, [0] * ITEMS)
            assert ranks[protocol][row] == (answers.index(target) if target in answers else -1)
    assert (found.ranks().all_items != ranks.all_items).any() == bool(weight)


@pytest.mark.parametrize("weight", [0.0, 5.0])
def test_answers_of_listed_users_equal_the_references(weight: float) -> None:
    config = small_config(2, 9)
    rng = np.random.default_rng(6)
    codes, split = random_codes(rng, config, ITEMS), make_split(rng, USERS_AT_ONCE + 20)
    vectors = random_vectors(rng, config, ITEMS)
    judge = reference(config, random_recommender(config, 3), codes, vectors)
    listed = np.array([1, 4, 30, USERS_AT_ONCE + 3])
    found = search_split(SearchedModel(random_recommender(config, 3), codes, WIDTH, vectors, 6), split, listed=listed)
    top = found.top_items(Fusion(weight=weight, candidates=6), 5)
    assert top.shape == (4, 5)
    for row, answers in zip(listed.tolist(), top.tolist(), strict=True):
        history, target = split.histories[row], int(split.targets[row])
        is_open = np.ones(ITEMS, dtype=np.bool_)
        is_open[history] = False
        is_open[target] = True
        beams, joined = judge.candidates(history, WIDTH, 6, is_open)
        expected = fuse([*beams, *(joined if weight else [])], weight, ITEMS, ITEMS, [0] * ITEMS)
        assert answers == expected[:5]


def test_answers_that_do_not_exist_are_no_items_and_nobody_is_listed_unasked() -> None:
    config = small_config(2, 9)
    rng = np.random.default_rng(6)
    codes, split = random_codes(rng, config, 3), make_split(rng, 2)
    small = Split([history % 3 for history in split.histories], split.targets % 3, split.users)
    net = random_recommender(config, 3)
    found = search_split(SearchedModel(net, codes, WIDTH), small, listed=np.array([0, 1]))
    top = found.top_items(GENERATIVE_ALONE, 5)
    for answers, history, target in zip(top, small.histories, small.targets, strict=True):
        assert set(answers.tolist()) - {-1} == {0, 1, 2} - (set(history.tolist()) - {int(target)})
    assert search_split(SearchedModel(net, codes, WIDTH), small).top_items(GENERATIVE_ALONE, 5).shape == (0, 5)


def scored_targets(
    log_prob: list[list[float]], dense: list[list[float]], beam_width: int, neighbours_weight: float = 0.0
) -> SearchResults:
    """Users whose target is the second of their candidates."""
    is_target = np.zeros((2, len(log_prob), len(log_prob[0])), dtype=np.bool_)
    is_target[:, :, 1] = True

    def twice(values: list[list[float]]) -> npt.NDArray[np.float32]:
        return np.array([values, values], dtype=np.float32)

    return SearchResults(is_target, twice(log_prob), twice(dense), beam_width, neighbours_weight)


def test_the_fitted_weight_is_the_one_that_ranks_validation_targets_best() -> None:
    # The target overtakes the first candidate above weight 2.5, and a joined one overtakes it above weight 5.
    results = scored_targets([[-1.0, -2.0, -7.0]], [[0.1, 0.5, 1.5]], beam_width=2)
    fitted = results.fit()
    assert fitted == Fusion(weight=3.0, candidates=1)
    assert results.ranks(fitted).all_items.tolist() == [0]
    assert results.ranks().all_items.tolist() == [1]
    assert results.ranks(Fusion(weight=64.0)).all_items.tolist() == [1]


def test_the_fusion_is_fitted_on_the_first_protocol_alone() -> None:
    useful = scored_targets([[-1.0, -2.0, -7.0]], [[0.1, 0.5, 1.5]], beam_width=2)
    misleading = scored_targets([[-3.0, -2.0, -9.0]], [[1.0, -1.0, 0.0]], beam_width=2)
    fused = Fusion(weight=3.0, candidates=1)
    for first, second, fitted in ((useful, misleading, fused), (misleading, useful, GENERATIVE_ALONE)):
        both = SearchResults(
            is_target=first.is_target,
            log_prob=np.stack([first.log_prob[0], second.log_prob[1]]),
            dense=np.stack([first.dense[0], second.dense[1]]),
            beam_width=2,
        )
        assert both.fit() == fitted
        ranks = both.ranks(fused)
        assert ranks.all_items.tolist() == first.ranks(fused).all_items.tolist()
        assert ranks.seen_excluded.tolist() == second.ranks(fused).seen_excluded.tolist()
        assert ranks.all_items.tolist() != ranks.seen_excluded.tolist()


def test_generative_alone_is_fitted_where_dense_scores_mislead_or_change_nothing() -> None:
    misleading = scored_targets([[-3.0, -2.0]], [[1.0, -1.0]], beam_width=2)
    assert misleading.fit() == GENERATIVE_ALONE
    indifferent = scored_targets([[-3.0, -2.0, -np.inf]], [[0.5, 0.5, 0.0]], beam_width=2)
    assert indifferent.fit() == GENERATIVE_ALONE


def test_the_weight_of_neighbours_in_the_dense_scores_is_part_of_the_fusion() -> None:
    results = scored_targets([[-1.0, -2.0, -7.0]], [[0.1, 0.5, 1.5]], beam_width=2, neighbours_weight=0.02)
    assert results.fit() == Fusion(weight=3.0, candidates=1, neighbours=0.02)
    misleading = scored_targets([[-3.0, -2.0]], [[1.0, -1.0]], beam_width=2, neighbours_weight=0.02)
    assert misleading.fit() == GENERATIVE_ALONE


def test_without_the_search_the_candidates_are_ranked_by_dense_scores() -> None:
    results = scored_targets([[-9.0, -2.0, -7.0, -np.inf]], [[0.1, 0.5, 1.5, 2.0]], beam_width=2)
    assert results.ranks_without_search().all_items.tolist() == [1]  # a place without an item is no rank


@pytest.mark.parametrize("weight", [0.0, 0.2])
def test_dense_scores_and_candidates_count_neighbours(weight: float) -> None:
    config = small_config(2, 9)
    rng = np.random.default_rng(6)
    codes, split = random_codes(rng, config, ITEMS), make_split(rng, 20)
    vectors = random_vectors(rng, config, ITEMS)
    memory = random_neighbours(rng, ITEMS)
    judge = reference(config, random_recommender(config, 3), codes, vectors)
    net = random_recommender(config, 3)
    found = search_split(SearchedModel(net, codes, WIDTH, vectors, 6, memory, weight), split)
    assert found.log_prob.shape == found.dense.shape == found.is_target.shape == (2, 20, WIDTH + 6)
    assert found.dense_candidates == 6
    assert found.neighbours_weight == weight
    fusion = Fusion(weight=5.0, candidates=6, neighbours=weight)
    ranks = found.ranks(fusion)
    for row, (history, target) in enumerate(zip(split.histories, split.targets.tolist(), strict=True)):
        newest = history[-config.recommender.max_history :]
        scores = memory.scores(newest[None], np.array([len(newest)]))
        added = dict(zip(scores.row.tolist(), (weight * scores.value).tolist(), strict=True))
        beams, joined = judge.candidates(history, WIDTH, 6, added=added)
        answers = fuse([*beams, *joined], fusion.weight, ITEMS, ITEMS, [0] * ITEMS)
        assert ranks.all_items[row] == (answers.index(target) if target in answers else -1)


def test_users_beyond_one_batch_keep_their_order() -> None:
    config = small_config(2, 9)
    rng = np.random.default_rng(1)
    codes, split = random_codes(rng, config, ITEMS), make_split(rng, USERS_AT_ONCE + 30)
    net = random_recommender(config, 3)
    ranks = generative_ranks(net, codes, split, WIDTH)
    for row in range(0, len(split.targets), 13):
        alone = Split([split.histories[row]], split.targets[[row]], split.users[[row]])
        single = generative_ranks(net, codes, alone, WIDTH)
        assert (ranks.all_items[row], ranks.seen_excluded[row]) == (single.all_items[0], single.seen_excluded[0])


def test_one_protocol_alone_is_the_first_and_the_model_ends_in_evaluation_mode() -> None:
    config = small_config(2, 9)
    rng = np.random.default_rng(2)
    codes, split = random_codes(rng, config, ITEMS), make_split(rng, 20)
    net = random_recommender(config, 3)
    both = generative_ranks(net, codes, split, WIDTH)
    first = generative_ranks(net.train(), codes, split, WIDTH, seen_excluded=False)
    assert not net.training
    np.testing.assert_array_equal(first.all_items, both.all_items)
    np.testing.assert_array_equal(first.seen_excluded, both.all_items)


def test_a_beam_as_wide_as_the_catalogue_finds_every_target() -> None:
    config = small_config(2, 9)
    rng = np.random.default_rng(4)
    codes, split = random_codes(rng, config, ITEMS), make_split(rng, 20)
    ranks: Ranks = generative_ranks(random_recommender(config, 3), codes, split, ITEMS)
    assert ranks.all_items.min() >= 0
    assert ranks.all_items.max() < ITEMS
    # Taking other items out can only move a target up.
    assert (ranks.seen_excluded >= 0).all()
    assert (ranks.seen_excluded <= ranks.all_items).all()
    assert (ranks.seen_excluded < ranks.all_items).any()


def test_a_sample_of_users_keeps_rows_together_and_depends_on_the_seed() -> None:
    split = make_split(np.random.default_rng(0), 40)
    assert sample_split(split, 40, 1) is split
    sample, again, other = (sample_split(split, 10, seed) for seed in (1, 1, 2))
    assert sample.users.tolist() == again.users.tolist() == sorted(set(sample.users.tolist()))
    assert sample.users.tolist() != other.users.tolist()
    assert len(sample.histories) == len(sample.targets) == 10
    assert len(set(sample_split(split, 39, 1).users.tolist())) == 39  # nobody twice
    for history, target, user in zip(sample.histories, sample.targets, sample.users, strict=True):
        assert history is split.histories[user]
        assert target == split.targets[user]
