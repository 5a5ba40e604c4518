"""The trie as losses read it: only codes that exist count, and the dense head's probabilities split along it."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional

from model_store.config import ModelConfig
from model_store.errors import ConfigError
from model_store.network.tokenizer import Tokenizer
from tests.support.random_worlds import random_codes, random_recommender, reference, small_config
from training.config import load_config
from training.embedding.sasrec import Sasrec, SasrecConfig
from training.joint.code_tree import CodeTree, Teacher
from training.joint.learner import new_learner
from training.joint.phase_losses import JointConfig, recommender_losses, weighted_sum
from training.loop.batches import collate, training_rows
from training.loop.item_softmax import Proposal, full_softmax_loss
from training.loop.optimiser import Optimiser, descend, recommender_optimizer
from training.losses import constrained_loss

ITEMS, SIZE = 40, 6
TARGETS = torch.tensor([3, 17, 17, 0, 39])


def make_tree(seed: int = 0) -> tuple[npt.NDArray[np.int16], CodeTree]:
    rng = np.random.default_rng(seed)
    codes = random_codes(rng, small_config(3, SIZE), ITEMS)
    vectors = functional.normalize(torch.from_numpy(rng.normal(size=(ITEMS, 5))).float(), dim=-1)
    return codes, CodeTree(codes, SIZE, vectors)


def with_sasrec(config: ModelConfig) -> tuple[ModelConfig, Sasrec]:
    """The configuration at SASRec's width, and an untrained SASRec of its encoder's shape."""
    shape = config.recommender.model_copy(update={"d_model": 6})
    settings = SasrecConfig(
        embedding_dim=6,
        **{name: getattr(shape, name) for name in ("heads", "head_dim", "d_ff", "position_buckets", "max_distance")},
    )
    torch.manual_seed(0)
    return config.model_copy(update={"recommender": shape}), Sasrec(settings, ITEMS).eval()


def siblings(codes: npt.NDArray[np.int16], item: int, level: int) -> list[int]:
    """Codes that exist where the item's code of this level stands, ascending: the child slots."""
    below = (codes[:, :level] == codes[item, :level]).all(axis=1)
    return sorted(set(codes[below, level].tolist()))


def test_log_probabilities_are_over_the_codes_that_exist() -> None:
    codes, tree = make_tree()
    leaves = tree.leaves(TARGETS)
    for level in range(3):
        logits = torch.randn(len(TARGETS), SIZE)
        children = tree.children(leaves, level, logits)
        slots = tree.child(leaves, level) - children.first
        for row, item in enumerate(TARGETS.tolist()):
            expected = siblings(codes, item, level)
            assert int(slots[row]) == expected.index(int(codes[item, level]))
            held = torch.log_softmax(logits[row, expected], dim=0)
            torch.testing.assert_close(children.log_prob[row, 0, : len(expected)], held)


def test_soft_targets_are_the_dense_heads_probabilities_below_each_code() -> None:
    codes, tree = make_tree(1)
    leaves, users = tree.leaves(TARGETS), torch.randn(len(TARGETS), 5) * 3
    teacher = Teacher(tree, leaves)
    loss = full_softmax_loss(users, tree.leaf_vectors, leaves, observe=teacher.observe)
    probability = torch.softmax(users @ tree.vectors.t(), dim=1)  # by item row
    assert loss.item() == pytest.approx(-probability.gather(1, TARGETS[:, None]).log().mean().item(), rel=1e-5)
    for level, shares in enumerate(teacher.shares):
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(len(TARGETS)))
        for row, item in enumerate(TARGETS.tolist()):
            below = (codes[:, :level] == codes[item, :level]).all(axis=1)
            mass = [
                float(probability[row, np.flatnonzero(below & (codes[:, level] == code))].sum())
                for code in siblings(codes, item, level)
            ]
            found = shares[row].tolist()
            assert found[: len(mass)] == pytest.approx([each / sum(mass) for each in mass], rel=1e-4)
            assert not any(found[len(mass) :])


def test_the_loss_mixes_the_targets_own_codes_with_soft_ones() -> None:
    log_prob = [torch.log_softmax(torch.tensor([[1.0, 2.0, -1e30]]), dim=1), torch.tensor([[0.0, -1e30, -1e30]])]
    slot, shares = (
        [torch.tensor([[1]]), torch.tensor([[0]])],
        [
            torch.tensor([[0.25, 0.75, 0.0]]),
            torch.tensor([[1.0, 0.0, 0.0]]),
        ],
    )
    low, high = math.log(1 + math.e) - 1 + 1, math.log(1 + math.e) - 1  # of the first two codes
    assert constrained_loss(log_prob, slot).item() == pytest.approx(high / 2)
    mixed = 0.6 * high + 0.4 * (0.25 * low + 0.75 * high)
    assert constrained_loss(log_prob, slot, shares, 0.4).item() == pytest.approx(mixed / 2)
    assert constrained_loss(log_prob, slot, rows=4).item() == pytest.approx(high / 8)


def test_an_only_child_teaches_nothing() -> None:
    codes = np.array([[0, 1, 2], [0, 3, 3], [1, 2, 2]], dtype=np.int16)
    tree = CodeTree(codes, SIZE, functional.normalize(torch.randn(3, 5), dim=-1))
    logits = torch.randn(3, SIZE, requires_grad=True)
    leaves = tree.leaves(torch.tensor([0, 1, 2]))
    children = tree.children(leaves, 2, logits)
    loss = constrained_loss([children.log_prob[:, 0]], [tree.child(leaves, 2) - children.first])
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_a_recommender_starts_as_good_as_sasrec() -> None:
    config = small_config(3, SIZE, history_tokens="vector", encoder_attention="causal")
    config, sasrec = with_sasrec(config)
    torch.nn.init.normal_(sasrec.item_embedding.weight)
    torch.nn.init.normal_(sasrec.repeat_bias.weight)
    vectors = sasrec.vectors.detach()
    learner = new_learner(config, Tokenizer(config.tokenizer), vectors, 0, sasrec)
    history, lengths = torch.tensor([[4, 9, 30], [1, 2, 0]]), torch.tensor([3, 2])
    with torch.no_grad():
        net = learner.recommender.eval()
        memory = net.encode(learner.codes[history], vectors[history], lengths)
        users = net.user_vectors(memory, torch.tensor([[1, 2, 3], [1, 2, 2]]))
        torch.testing.assert_close(users[0], sasrec(history)[0])
        torch.testing.assert_close(users[1, 1], sasrec(history)[1, 1])
    fresh = new_learner(config, Tokenizer(config.tokenizer), vectors, 0).recommender
    query = "layers.0.attention.query.weight"
    assert torch.equal(net.encoder.get_parameter(query), sasrec.encoder.get_parameter(query))
    torch.testing.assert_close(
        net.dense_repeats(3, lengths[:, None])[:, 0], sasrec.repeat_bias(0, 3, lengths[:, None])[:, 0]
    )
    assert not torch.equal(fresh.encoder.get_parameter(query), sasrec.encoder.get_parameter(query))


@pytest.mark.parametrize("tokens", ["code", "vector"])
def test_the_losses_are_what_the_search_scores(tokens: str) -> None:
    """Teacher forcing over packed rows, what histories add included, against the search's definition."""
    config = small_config(3, SIZE, history_tokens=tokens, encoder_attention="causal")
    config = config.model_copy(update={"recommender": config.recommender.model_copy(update={"dropout": 0.0})})
    rng = np.random.default_rng(3)
    learner = new_learner(config, Tokenizer(config.tokenizer), torch.from_numpy(rng.normal(size=(ITEMS, 6))).float(), 0)
    learner.recommender = random_recommender(config, 5)
    sequences = [np.append(row, row[:2]).astype(np.int32) for row in rng.integers(0, ITEMS, (4, 4))]  # all come back
    rows = training_rows(sequences, 7, packed=True)
    batch = collate(rows, np.arange(len(rows.start)))
    settings = JointConfig(distillation=0.0)
    losses = recommender_losses(learner, batch, learner.tree(rows.items), settings, aligned=False)

    judge = reference(config, learner.recommender, learner.assignment.codes, learner.vectors)
    log_prob, dense = [], []
    for sequence in sequences:
        for at in range(1, len(sequence)):
            history, target = sequence[:at], int(sequence[at])
            log_prob.append(judge.score(history, target))
            scores = judge.dense_scores(history) / settings.temperature
            dense.append(scores[target] - np.log(np.exp(scores).sum()))
    assert losses["rec"].item() == pytest.approx(-np.mean(log_prob) / config.code_length, rel=1e-4)
    assert losses["dense"].item() == pytest.approx(-np.mean(dense), rel=1e-4)


def test_a_user_encoder_of_its_own_stays_as_sasrec_trained_it() -> None:
    config = small_config(3, SIZE, encoder_attention="causal", user_encoder="own")
    config, sasrec = with_sasrec(config)
    torch.nn.init.normal_(sasrec.repeat_bias.weight)
    vectors = sasrec.vectors.detach()
    learner = new_learner(config, Tokenizer(config.tokenizer), vectors, 0, sasrec)
    sequences = [row.astype(np.int32) for row in np.random.default_rng(0).integers(0, ITEMS, (6, 5))]
    rows = training_rows(sequences, 7, packed=True)
    batch = collate(rows, np.arange(len(rows.start)))
    optimiser = Optimiser(recommender_optimizer(learner.recommender, 0.1, 0.1), lambda step: 1.0)
    before = learner.recommender.encoder.norm.weight.clone()
    losses = recommender_losses(learner, batch, learner.tree(rows.items), JointConfig(), aligned=False)
    descend(weighted_sum(losses, JointConfig()), optimiser)
    assert not torch.equal(learner.recommender.encoder.norm.weight, before)

    history, prefix = torch.tensor([[4, 9, 30]]), torch.tensor([[1, 2, 3]])
    net = learner.recommender.train()  # even then: it has no dropout
    with torch.no_grad():
        users = net.user_vectors(net.encode(learner.codes[history], vectors[history], torch.tensor([3])), prefix)
        torch.testing.assert_close(users, sasrec(history))
        torch.testing.assert_close(net.dense_repeats(3, prefix), sasrec.repeat_bias(0, 3, prefix))


def test_a_user_encoder_of_its_own_needs_sasrecs_shape() -> None:
    with pytest.raises(ConfigError, match=r"layers of model\.recommender and sasrec differ"):
        load_config("cpu", ["sasrec.layers=1"])


def test_soft_targets_need_a_teacher() -> None:
    for settings in ({"dense_weight": 0.0}, {"constrained": False}):
        with pytest.raises(ValueError, match="distillation"):
            JointConfig.model_validate(settings)
    with pytest.raises(ValueError, match="label_smoothing"):
        JointConfig(label_smoothing=0.1)


def test_where_items_are_too_many_a_batch_is_scored_with_samples_the_same_each_time() -> None:
    config = small_config(3, SIZE, history_tokens="vector", encoder_attention="causal")
    rng = np.random.default_rng(2)
    learner = new_learner(config, Tokenizer(config.tokenizer), torch.from_numpy(rng.normal(size=(ITEMS, 6))).float(), 0)
    sequences = [rng.integers(0, ITEMS, 6).astype(np.int32) for _ in range(8)]
    rows = training_rows(sequences, 7, packed=True)
    batch = collate(rows, np.arange(len(rows.start)))
    whole = learner.tree(rows.items)
    assert whole.proposal is None
    many, few = (
        CodeTree(
            learner.assignment.codes,
            SIZE,
            whole.vectors,
            Proposal(np.append(rows.items, np.arange(ITEMS)), ITEMS, negatives),
        )
        for negatives in (100_000, 4)
    )

    def train_on(tree: CodeTree, settings: JointConfig) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)  # the same dropout each time
        return recommender_losses(learner, batch, tree, settings, aligned=False)

    losses = [train_on(tree, JointConfig()) for tree in (whole, many, few, few)]
    # Many draws come near the sum over all items.
    torch.testing.assert_close(losses[1]["dense"], losses[0]["dense"], rtol=0.02, atol=0)
    assert losses[2]["dense"].item() == losses[3]["dense"].item()
    assert losses[2]["dense"].item() != losses[0]["dense"].item()
    losses[2]["dense"].backward()
    assert learner.recommender.vector_out.weight.grad is not None
    # Without all scores there are no soft targets: one-hot codes alone.
    plain = train_on(whole, JointConfig(distillation=0.0))
    torch.testing.assert_close(losses[2]["rec"], plain["rec"])
