"""Tokenizer health and neighbourhood purity on cases worked out by hand."""

import itertools
import math

import numpy as np
import polars as pl
import pytest
import torch

from model_store.config import ModelConfig, RecommenderConfig, TokenizerConfig
from model_store.network.tokenizer import Tokenizer
from training.data.dataset import Dataset
from training.diagnostics.purity import (
    category_lift,
    distinctive_categories,
    neighbour_pairs,
    neighbourhood_purity,
    pairs_within,
    together_lift,
)
from training.diagnostics.tokenizer_health import (
    code_use,
    perplexity,
    policy_outcome,
    reconstruction_error,
    tokenizer_health,
)
from training.joint.learner import Learner, new_learner
from training.tokenizer.codebooks import fit_standardisation

SMALL = RecommenderConfig(d_model=8, d_ff=8, heads=1, head_dim=8, encoder_layers=1, decoder_layers=1)
TWO_CODES = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])  # one level
THREE_ITEMS = torch.tensor([[0.0, 0.0], [0.1, 0.0], [1.0, 0.0]])


def identity_tokenizer(codebooks: torch.Tensor) -> Tokenizer:
    """A tokenizer whose latents are its embeddings."""
    levels, size, width = codebooks.shape
    shape = TokenizerConfig(embedding_dim=width, hidden_dims=(), codebook_dim=width, levels=levels, codebook_size=size)
    tokenizer = Tokenizer(shape)
    with torch.no_grad():
        for part in (tokenizer.encoder, tokenizer.decoder):
            part.load_state_dict({"0.weight": torch.eye(width), "0.bias": torch.zeros(width)})
        tokenizer.codebooks.copy_(codebooks)
    return tokenizer.eval()


def learner_of(codebooks: torch.Tensor, embeddings: torch.Tensor, policy: str = "reassign") -> Learner:
    levels, size, width = codebooks.shape
    shape = TokenizerConfig(embedding_dim=width, codebook_dim=width, levels=levels, codebook_size=size)
    model = ModelConfig.model_validate({"tokenizer": shape, "recommender": SMALL, "collisions": policy})
    return new_learner(model, identity_tokenizer(codebooks), embeddings, seed=0)


def data_of(items: int, sequences: list[list[int]], categories: list[tuple[str, ...]]) -> Dataset:
    flat = np.array([item for sequence in sequences for item in sequence], dtype=np.int32)
    return Dataset(
        name="hand",
        user_ids=pl.Series([f"u{user}" for user in range(len(sequences))], dtype=pl.String),
        item_ids=[f"i{item}" for item in range(items)],
        offsets=np.concatenate([[0], np.cumsum([len(sequence) for sequence in sequences])]).astype(np.int64),
        items=flat,
        timestamps=np.zeros(len(flat), dtype=np.int64),
        event_types=np.full(len(flat), -1, dtype=np.int8),
        titles=[""] * items,
        categories=categories,
        attributes=[{}] * items,
    )


def test_code_use_and_perplexity_of_a_case_worked_out_by_hand() -> None:
    codes = np.array([[0, 0], [0, 1], [0, 2], [1, 0]], dtype=np.int16)
    use = code_use(codes, 4)
    assert [counts.tolist() for counts in use] == [[3, 1, 0, 0], [2, 1, 1, 0]]
    entropies = [-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), -(0.5 * math.log(0.5) + 0.5 * math.log(0.25))]
    assert [perplexity(counts) for counts in use] == pytest.approx([math.exp(entropy) for entropy in entropies])


def test_the_reconstruction_error_is_a_mean_over_all_values() -> None:
    codebooks = torch.zeros(2, 4, 2)
    codebooks[0, 1] = torch.tensor([2.0, 0.0])
    embeddings = torch.tensor([[0.0, 0.0], [0.0, 1.0], [2.0, 0.0], [3.0, 0.0]])  # z~: 0, 0, (2, 0), (2, 0)
    assert reconstruction_error(identity_tokenizer(codebooks), embeddings) == pytest.approx((1 + 1) / 8)


def test_the_reconstruction_error_does_not_depend_on_how_items_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = torch.randn(100, 6, generator=torch.Generator().manual_seed(1))
    tokenizer = Tokenizer(TokenizerConfig(embedding_dim=6, hidden_dims=(4,), codebook_dim=3, levels=2, codebook_size=4))
    fit_standardisation(tokenizer, embeddings)
    whole = reconstruction_error(tokenizer, embeddings)
    monkeypatch.setattr("training.diagnostics.tokenizer_health.ITEMS_AT_ONCE", 7)
    assert reconstruction_error(tokenizer, embeddings) == pytest.approx(whole)


def test_both_policies_are_compared_on_the_same_tokenizer() -> None:
    codebooks = torch.tensor([[[0.0, 0.0], [10.0, 0.0]], [[0.0, 0.0], [0.0, 3.0]]])
    # Two items at (0, 0): the second moves to (0, 3), 9 away. The third is alone at (10, 0).
    embeddings = torch.tensor([[0.0, 0.0], [0.0, 0.0], [10.0, 0.0]])
    for policy in ("reassign", "token"):
        learner = learner_of(codebooks, embeddings, policy)
        reassigned, token = policy_outcome(learner, "reassign"), policy_outcome(learner, "token")
        assert reassigned is not None
        assert token is not None
        assert (reassigned.code_length, reassigned.moved) == (2, 1)
        assert reassigned.extra_distance == pytest.approx(9.0)
        assert (token.code_length, token.moved, token.extra_distance) == (3, 0, 0.0)


def test_a_policy_without_room_for_all_items_says_so() -> None:
    learner = learner_of(TWO_CODES, THREE_ITEMS, "token")
    assert policy_outcome(learner, "reassign") is None
    assert policy_outcome(learner, "token") is not None


def test_health_gathers_everything_as_plain_values() -> None:
    codebooks = torch.tensor([[[0.0, 0.0], [10.0, 0.0]], [[0.0, 0.0], [0.0, 3.0]]])
    learner = learner_of(codebooks, torch.tensor([[0.0, 0.0], [0.0, 0.0], [10.0, 0.0]]))
    learner.history = [{"epoch": 0, "rec": 1.0}, {"epoch": 1, "sq": 1.0, "codes_changed": 2.0}]
    data = data_of(3, [[0, 1, 2, 0], [1, 0, 2]], [("a",), ("a",), ("b",)])
    found = tokenizer_health(learner, data).as_dict()
    assert found["codes_used"] == [2, 2]
    assert (found["collision_rate"], found["largest_group"], found["moved"]) == (pytest.approx(2 / 3), 2, 1)
    assert found["codes_changed"] == [2]
    assert [row["depth"] for row in found["purity"]] == [1]
    assert found["purity"][0]["prefixes"] == 2
    assert found["policies"]["reassign"]["moved"] == 1


def test_the_collision_code_is_no_level_of_the_tokenizer() -> None:
    learner = learner_of(TWO_CODES, THREE_ITEMS, "token")
    health = tokenizer_health(learner, data_of(3, [[0, 1, 2, 0]], [()] * 3))
    assert health.codes_used == [2]
    assert learner.assignment.codes.shape == (3, 2)
    assert [row.depth for row in health.purity] == [1]


def test_categories_that_most_items_have_say_nothing() -> None:
    named = distinctive_categories([("all", "a"), ("all", "a"), ("all", "b"), ("all",), ()])
    assert named == [{"a"}, {"a"}, {"b"}, set(), set()]


def test_the_category_lift_of_pure_groups_is_the_number_of_equal_groups(rng: np.random.Generator) -> None:
    group = np.repeat(np.arange(10), 50)
    pure = [frozenset({str(one)}) for one in group]
    assert category_lift(group, pure, rng) == pytest.approx(499 / 49, rel=0.05)
    shuffled = rng.permutation(group)
    assert category_lift(shuffled, pure, rng) == pytest.approx(1.0, abs=0.15)


def test_pairs_within_groups_are_distinct_and_evenly_drawn(rng: np.random.Generator) -> None:
    group = np.array([5, 2, 5, 2, 5, 9])
    pairs = pairs_within(group, 40_000, rng)
    assert (group[pairs[:, 0]] == group[pairs[:, 1]]).all()
    assert (pairs[:, 0] != pairs[:, 1]).all()
    expected = {pair for pair in itertools.permutations(range(6), 2) if group[pair[0]] == group[pair[1]]}
    found, count = np.unique(pairs, axis=0, return_counts=True)
    assert {tuple(pair) for pair in found.tolist()} == expected
    assert count.min() > 0.9 * len(pairs) / len(expected)
    assert pairs_within(np.arange(4), 10, rng).shape == (0, 2)


def test_neighbours_end_with_the_sequence_and_repeats_are_none() -> None:
    pairs = neighbour_pairs([np.array([1, 2, 2, 3]), np.array([4]), np.array([5, 6])])
    assert pairs.tolist() == [[1, 2], [2, 3], [5, 6]]
    assert neighbour_pairs([]).shape == (0, 2)


def test_the_lift_of_being_together_equals_counting_all_pairs(rng: np.random.Generator) -> None:
    group = rng.integers(0, 3, 12)
    pairs = neighbour_pairs([rng.integers(0, 12, 9) for _ in range(30)])
    share = np.bincount(pairs.ravel(), minlength=12) / pairs.size
    weights = {(i, j): share[i] * share[j] for i in range(12) for j in range(12) if i != j}
    chance = sum(w for (i, j), w in weights.items() if group[i] == group[j]) / sum(weights.values())
    observed = np.mean([group[i] == group[j] for i, j in pairs.tolist()])
    assert together_lift(group, pairs) == pytest.approx(observed / chance)


def test_popularity_alone_gives_no_lift(rng: np.random.Generator) -> None:
    popular = rng.zipf(1.5, 60).clip(max=50).astype(float)
    pairs = neighbour_pairs([rng.choice(60, 40, p=popular / popular.sum()) for _ in range(2000)])
    assert together_lift(rng.integers(0, 6, 60), pairs) == pytest.approx(1.0, abs=0.05)


def test_purity_says_nothing_where_the_data_cannot() -> None:
    codes = np.array([[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]], dtype=np.int16)
    first, second = neighbourhood_purity(codes, [()] * 4, [np.array([0])])
    assert (first.category_lift, first.together_lift) == (None, None)
    first, second = neighbourhood_purity(codes, [("a",), ("b",)] * 2, [np.array([0, 1, 2])])
    assert first.category_lift == 0.0
    assert first.together_lift == pytest.approx(0.5 / 0.4)  # shares 1/4, 1/2, 1/4: 2 · 1/8 of 10/16
    assert second.prefixes == 4
    assert (second.category_lift, second.together_lift) == (None, None)  # no two items share so long a prefix
