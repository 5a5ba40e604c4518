"""The alternating loop: who is trained when, packed rows equal single ones, and a cycle of items that is learned."""

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from model_store.config import ModelConfig, RecommenderConfig, TokenizerConfig
from training.data.dataset import Split
from training.evaluation.full_ranking import generative_ranks
from training.evaluation.metrics import recall
from training.joint.learner import Learner, current_assignment, new_learner
from training.joint.phase_losses import JointConfig, joint_losses, recommender_losses, tokenizer_losses, weighted_sum
from training.joint.training import (
    FinetuneConfig,
    finetune,
    phase_of,
    train_joint,
)
from training.loop.batches import Batch, HostPlan, collate, training_rows
from training.loop.optimiser import Optimiser, cosine, descend
from training.loop.progress import Bar, SilentProgress
from training.tokenizer.codebooks import TokenizerTrainingConfig, pretrain_tokenizer, tokenizer_optimizer

ITEMS, USERS = 30, 60
ROWS = np.arange(ITEMS)
Sequences = list[npt.NDArray[np.int32]]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_config(
    attention: str = "bidirectional", dropout: float = 0.0, collisions: str = "reassign", max_history: int = 12
) -> ModelConfig:
    return ModelConfig(
        tokenizer=TokenizerConfig(embedding_dim=8, hidden_dims=(12,), codebook_dim=6, levels=2, codebook_size=8),
        recommender=RecommenderConfig.model_validate(
            {
                **RecommenderConfig(d_model=32, d_ff=48, heads=2, head_dim=16, max_history=max_history).model_dump(),
                **{"encoder_layers": 1, "decoder_layers": 1, "position_buckets": 8, "max_distance": 16},
                **{"encoder_attention": attention, "dropout": dropout},
            }
        ),
        collisions=collisions,
        beam_width=10,
    )


def make_learner(config: ModelConfig, seed: int = 0) -> Learner:
    embeddings = torch.randn(ITEMS, 8, generator=torch.Generator().manual_seed(seed))
    pretraining = TokenizerTrainingConfig(epochs=5, batch_size=16)
    tokenizer = pretrain_tokenizer(embeddings, config.tokenizer, pretraining, seed, SilentProgress())
    tokenizer.zero_grad(set_to_none=True)
    return new_learner(config, tokenizer, embeddings, seed)


def cycle() -> tuple[Sequences, Split]:
    """Item i is followed by item i + 1, the last by the first; the held-out item goes on in the same way."""
    sequences = [((user + np.arange(6 + user % 7)) % ITEMS).astype(np.int32) for user in range(USERS)]
    targets = np.array([(sequence[-1] + 1) % ITEMS for sequence in sequences], dtype=np.int32)
    return sequences, Split(list(sequences), targets, np.arange(USERS))


def some_batch(config: ModelConfig, rows: int = 24) -> Batch:
    sequences, _ = cycle()
    packed = config.recommender.encoder_attention == "causal"
    found = training_rows(sequences, config.recommender.max_history, packed)
    return collate(found, np.arange(min(rows, len(found.start))))


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}


def names(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_parameters()}


def optimiser_of(module: nn.Module) -> Optimiser:
    """Without weight decay: what moves, moves because a gradient reached it."""
    return Optimiser(torch.optim.AdamW(module.parameters(), lr=1e-2, weight_decay=0.0), cosine(10), 1.0)


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_tokenizer_phase_trains_the_whole_tokenizer_and_nothing_else(attention: str) -> None:
    learner = make_learner(make_config(attention))
    tokenizer, recommender = snapshot(learner.tokenizer), snapshot(learner.recommender)
    losses = tokenizer_losses(learner, some_batch(learner.model), learner.tree(ROWS), JointConfig())
    assert set(losses) == {"sq", "sia", "psa"}
    descend(losses["sq"] + losses["sia"] + losses["psa"], optimiser_of(learner.tokenizer))
    assert changed(learner.tokenizer, tokenizer) == names(learner.tokenizer)  # not the buffers mean and scale
    assert changed(learner.recommender, recommender) == set()
    assert all(parameter.grad is None for parameter in learner.recommender.parameters())


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
@pytest.mark.parametrize("aligned", [True, False])
def test_recommender_phase_trains_the_recommender_and_nothing_else(attention: str, aligned: bool) -> None:
    learner = make_learner(make_config(attention))
    tokenizer, recommender = snapshot(learner.tokenizer), snapshot(learner.recommender)
    losses = recommender_losses(learner, some_batch(learner.model), learner.tree(ROWS), JointConfig(), aligned)
    assert set(losses) == ({"rec", "dense", "sia", "psa"} if aligned else {"rec", "dense"})
    descend(torch.stack(list(losses.values())).sum(), optimiser_of(learner.recommender))
    adapters = {name for name in names(learner.recommender) if "adapter" in name}
    assert len(adapters) == 8
    assert changed(learner.recommender, recommender) == names(learner.recommender) - (set() if aligned else adapters)
    assert changed(learner.tokenizer, tokenizer) == set()
    assert all(parameter.grad is None for parameter in learner.tokenizer.parameters())


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_without_alternation_one_step_trains_both_networks_with_all_losses(attention: str) -> None:
    learner, config = make_learner(make_config(attention)), JointConfig()
    batch = some_batch(learner.model)
    losses = joint_losses(learner, batch, learner.tree(ROWS), config)
    assert losses.keys() == {"rec", "dense", "sq", "sia", "psa"}
    apart = tokenizer_losses(learner, batch, learner.tree(ROWS), config)
    apart |= recommender_losses(learner, batch, learner.tree(ROWS), config, aligned=True)
    torch.testing.assert_close(losses, apart)  # without dropout, who is trained changes no value
    expected = losses["rec"] + losses["sq"] + config.sia_weight * losses["sia"] + config.psa_weight * losses["psa"]
    expected = expected + config.dense_weight * losses["dense"]
    torch.testing.assert_close(weighted_sum(losses, config), expected)
    tokenizer, recommender = snapshot(learner.tokenizer), snapshot(learner.recommender)
    descend(weighted_sum(losses, config), optimiser_of(learner.recommender), optimiser_of(learner.tokenizer))
    assert changed(learner.tokenizer, tokenizer) == names(learner.tokenizer)
    assert changed(learner.recommender, recommender) == names(learner.recommender)


def test_codes_follow_every_epoch_without_alternation() -> None:
    learner = make_learner(make_config())
    sequences, valid = cycle()
    config = JointConfig(
        epochs=4, alternating=False, alignment_from=1, tokenizer_rate=0.05, targets_per_batch=64, stickiness=0.0
    )
    train_joint(learner, sequences, valid, config, 0, SilentProgress())
    losses = [set(entry) & {"rec", "sq", "sia", "psa"} for entry in learner.history]
    assert losses == [{"rec"}] + [{"rec", "sq", "sia", "psa"}] * 3
    moved = [entry.get("codes_changed") for entry in learner.history]
    assert moved[0] is None
    assert sum(filter(None, moved)) > 0
    assert None not in moved[1:]
    fresh = current_assignment(learner.model, learner.tokenizer, learner.embeddings)
    np.testing.assert_array_equal(learner.assignment.codes, fresh.codes)


@pytest.mark.parametrize("part", ["sq", "sia", "psa"])
def test_each_loss_reaches_its_parts_of_the_tokenizer(part: str) -> None:
    learner = make_learner(make_config())
    before = snapshot(learner.tokenizer)
    losses = tokenizer_losses(learner, some_batch(learner.model), learner.tree(ROWS), JointConfig())
    descend(losses[part], optimiser_of(learner.tokenizer))
    moved = {name.split(".")[0] for name in changed(learner.tokenizer, before)}
    expected = {
        "sq": {"encoder", "codebooks", "decoder"},
        "sia": {"encoder", "codebooks"},
        "psa": {"encoder", "decoder"},
    }
    assert moved == expected[part]


@pytest.mark.parametrize(("part", "adapter"), [("sia", "sequence_adapter"), ("psa", "preference_adapter")])
def test_each_alignment_loss_reaches_its_own_adapter(part: str, adapter: str) -> None:
    learner = make_learner(make_config())
    before = snapshot(learner.recommender)
    losses = recommender_losses(learner, some_batch(learner.model), learner.tree(ROWS), JointConfig(), aligned=True)
    descend(losses[part], optimiser_of(learner.recommender))
    moved = {name.split(".")[0] for name in changed(learner.recommender, before)}
    assert {name for name in moved if "adapter" in name} == {adapter}
    assert "encoder" in moved
    assert ("decoder" in moved) == (part == "psa")  # z_E is read off the encoder


def test_dropout_works_in_the_recommender_phase_only() -> None:
    learner = make_learner(make_config(dropout=0.5))
    batch, tree = some_batch(learner.model), learner.tree(ROWS)

    def twice(losses: list[dict[str, Tensor]]) -> bool:
        return all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])

    config = JointConfig()
    assert not twice([recommender_losses(learner, batch, tree, config, True) for _ in range(2)])
    assert learner.recommender.training
    assert twice([tokenizer_losses(learner, batch, tree, config) for _ in range(2)])
    assert not learner.recommender.training


def test_repeated_targets_and_empty_slots_drop_out_of_the_alignment() -> None:
    learner = make_learner(make_config("causal"))
    history = torch.tensor([[1, 2, 3], [4, 5, 0], [6, 7, 8]])
    lengths = torch.tensor([3, 2, 3])

    def batch_of(targets: list[list[int]], prefix: list[list[int]]) -> Batch:
        wanted, before = torch.tensor(targets), torch.tensor(prefix)
        real = torch.nonzero(wanted.flatten() >= 0).flatten()
        items, known = wanted.flatten()[real].numpy(), before.flatten()[real].numpy()
        return Batch(history, lengths, wanted, before, real, HostPlan(items, (len(items),), known))

    padded = batch_of([[2, 3, 9], [9, 11, -1], [7, 2, -1]], [[1, 2, 3], [1, 2, 2], [1, 3, 3]])
    # Targets 9 and 2 come again in later rows: the losses are those of the first occurrences alone.
    kept = batch_of([[2, 3, 9], [11, -1, -1], [7, -1, -1]], [[1, 2, 3], [2, 2, 2], [1, 3, 3]])
    config = JointConfig()
    both = [tokenizer_losses(learner, batch, learner.tree(ROWS), config) for batch in (padded, kept)]
    torch.testing.assert_close(both[0], both[1])
    both = [recommender_losses(learner, batch, learner.tree(ROWS), config, True) for batch in (padded, kept)]
    torch.testing.assert_close(both[0]["sia"], both[1]["sia"])
    torch.testing.assert_close(both[0]["psa"], both[1]["psa"])
    assert abs(both[0]["rec"].item() - both[1]["rec"].item()) > 1e-4  # L_REC counts repetitions


@pytest.mark.parametrize("tokens", ["code", "item", "vector"])
def test_a_packed_row_trains_like_one_row_for_each_prefix(tokens: str) -> None:
    config = make_config("causal")
    config = config.model_copy(update={"recommender": config.recommender.model_copy(update={"history_tokens": tokens})})
    learner = make_learner(config)
    sequence = [np.array([3, 17, 8, 3, 29, 11, 20], dtype=np.int32)]
    packed, single = (training_rows(sequence, 12, packed) for packed in (True, False))
    assert len(packed.start) == 1
    assert len(single.start) == 6
    tree, plain = learner.tree(ROWS), JointConfig()
    together = recommender_losses(learner, collate(packed, np.arange(1)), tree, plain, False)["rec"]
    apart = [
        recommender_losses(learner, collate(single, np.array([row])), tree, plain, False)["rec"] for row in range(6)
    ]
    torch.testing.assert_close(together, torch.stack(apart).mean())
    assert torch.stack(apart).std() > 1e-3
    batched = [collate(rows, np.arange(len(rows.start))) for rows in (packed, single)]
    aligned = [recommender_losses(learner, batch, learner.tree(ROWS), JointConfig(), True) for batch in batched]
    torch.testing.assert_close(aligned[0], aligned[1])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"cycle": 2}, "trtrtrtr"),
        ({"cycle": 4}, "trrrtrrr"),
        ({"cycle": 3, "alignment_from": 2}, "rrtrrtrr"),
        ({"cycle": 2, "tokenizer": "frozen"}, "rrrrrrrr"),
        ({"cycle": 2, "alignment_from": 99}, "rrrrrrrr"),
        ({"alternating": False, "alignment_from": 3}, "rrrbbbbb"),
        ({"alternating": False, "tokenizer": "frozen"}, "rrrrrrrr"),
    ],
)
def test_schedule_of_phases(settings: dict[str, object], expected: str) -> None:
    config = JointConfig.model_validate(settings)
    assert "".join(phase_of(epoch, config)[0] for epoch in range(8)) == expected


def test_optimiser_warms_up_then_falls_and_clips() -> None:
    weight = nn.Parameter(torch.zeros(3))
    optimiser = Optimiser(torch.optim.SGD([weight], lr=1.0), cosine(10, warmup=0.2), clip=0.5)
    moves = []
    for _ in range(10):
        before = weight.detach().clone()
        descend((weight * torch.tensor([1000.0, 2000.0, 3000.0])).sum(), optimiser)
        moves.append((weight.detach() - before).norm().item())
    assert moves[:3] == pytest.approx([0.25, 0.5, 0.5], rel=1e-4)
    assert moves[2:] == sorted(moves[2:], reverse=True)
    assert moves[6] == pytest.approx(0.5 * 0.5, rel=1e-4)  # half-way down the cosine
    assert 0 < moves[-1] < 0.05


class Watch(Bar):
    """Progress that notes the item codes and the epoch at every step."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.seen: list[tuple[int, npt.NDArray[np.int16]]] = []

    @contextmanager
    def track(self, description: str, total: int, done: int = 0) -> Iterator[Bar]:
        yield self

    def say(self, line: str) -> None:
        raise AssertionError(line)

    def advance(self, n: int = 1, note: str = "") -> None:
        if n:
            self.seen.append((len(self.learner.history), self.learner.assignment.codes.copy()))

    def record(self, epoch: int, values: Mapping[str, float]) -> None:
        assert epoch == len(self.learner.history)
        assert values["sq" if "sq" in values else "rec"] > 0


def test_codes_change_after_tokenizer_epochs_and_stay_fixed_inside_them() -> None:
    learner = make_learner(make_config())
    sequences, valid = cycle()
    config = JointConfig(epochs=6, cycle=3, tokenizer_rate=0.05, targets_per_batch=64, validate_every=6, stickiness=0.0)
    watch = Watch(learner)
    train_joint(learner, sequences, valid, config, 0, watch)
    by_epoch = [[codes for at, codes in watch.seen if at == epoch] for epoch in range(6)]
    assert all(len(steps) > 2 for steps in by_epoch)
    for steps in by_epoch:
        assert all(np.array_equal(codes, steps[0]) for codes in steps)
    first = [steps[0] for steps in by_epoch]
    moved = [int((now != then).any(axis=1).sum()) for then, now in itertools.pairwise(first)]
    assert moved[0] > 0
    assert moved[3] > 0
    assert [moved[1], moved[2], moved[4]] == [0, 0, 0]
    assert [entry["tokenizer_phase"] for entry in learner.history] == [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    assert [entry.get("codes_changed") for entry in learner.history] == [moved[0], None, None, moved[3], None, None]
    assert ["valid_ndcg@10" in entry for entry in learner.history] == [False] * 5 + [True]
    fresh = current_assignment(learner.model, learner.tokenizer, learner.embeddings)
    np.testing.assert_array_equal(learner.assignment.codes, fresh.codes)


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
@pytest.mark.parametrize("collisions", ["reassign", "token"])
def test_a_cycle_of_items_is_learned(attention: str, collisions: str) -> None:
    learner = make_learner(make_config(attention, collisions=collisions, max_history=5))
    sequences, valid = cycle()
    config = JointConfig(epochs=12, cycle=4, targets_per_batch=32, recommender_rate=1e-2, validate_every=12)
    untrained = recall(generative_ranks(learner.recommender, learner.assignment.codes, valid, 10).all_items, 1)
    train_joint(learner, sequences, valid, config, 1, SilentProgress())
    before = snapshot(learner.tokenizer)
    stretch = FinetuneConfig(epochs=4, recommender_rate=3e-3, patience=3)
    finetune(learner, sequences, valid, config, stretch, 1, SilentProgress())
    assert changed(learner.tokenizer, before) == set()
    assert not learner.recommender.training
    ranks = generative_ranks(learner.recommender, learner.assignment.codes, valid, 10)
    assert untrained < 0.3
    assert recall(ranks.all_items, 1) >= 0.9
    assert recall(ranks.seen_excluded, 1) >= 0.9
    assert learner.history[-1]["rec"] < 0.3 * learner.history[1]["rec"]


def test_finetuning_keeps_the_best_weights_and_stops_without_improvement() -> None:
    learner = make_learner(make_config())
    sequences, valid = cycle()
    config = JointConfig(epochs=10, cycle=2, tokenizer="frozen", targets_per_batch=32, recommender_rate=5e-3)
    train_joint(learner, sequences, valid, config, 1, SilentProgress())
    before, entries = snapshot(learner.recommender), len(learner.history)
    # A step size that ruins the model: no epoch is better than the start.
    ruinous = FinetuneConfig(epochs=9, recommender_rate=5.0, patience=2)
    finetune(learner, sequences, valid, config, ruinous, 1, SilentProgress())
    assert len(learner.history) == entries + 2
    assert changed(learner.recommender, before) == set()


def test_a_frozen_tokenizer_stays_as_it_is_to_the_bit() -> None:
    learner = make_learner(make_config())
    sequences, valid = cycle()
    tokenizer, recommender, codes = snapshot(learner.tokenizer), snapshot(learner.recommender), learner.assignment.codes
    config = JointConfig(epochs=2, tokenizer="frozen", targets_per_batch=64)
    train_joint(learner, sequences, valid, config, 0, SilentProgress())
    assert changed(learner.tokenizer, tokenizer) == set()
    assert {name for name in changed(learner.recommender, recommender) if "adapter" in name} == set()
    assert len(changed(learner.recommender, recommender)) > 10
    np.testing.assert_array_equal(learner.assignment.codes, codes)
    assert all(set(entry).isdisjoint({"sia", "psa", "sq", "codes_changed"}) for entry in learner.history)


def test_alignment_waits_for_its_first_epoch() -> None:
    learner = make_learner(make_config())
    sequences, valid = cycle()
    config = JointConfig(epochs=4, cycle=2, alignment_from=2, targets_per_batch=64)
    train_joint(learner, sequences, valid, config, 0, SilentProgress())
    assert ["sia" in entry for entry in learner.history] == [False, False, True, True]
    assert ["sq" in entry for entry in learner.history] == [False, False, True, False]


def test_same_seed_same_history_and_weights() -> None:
    sequences, valid = cycle()
    config = JointConfig(epochs=4, cycle=2, targets_per_batch=64, validate_every=2)
    stretch = FinetuneConfig(epochs=1)

    def trained(seed: int) -> Learner:
        learner = make_learner(make_config(dropout=0.2))
        train_joint(learner, sequences, valid, config, seed, SilentProgress())
        finetune(learner, sequences, valid, config, stretch, seed, SilentProgress())
        return learner

    first, second, other = trained(3), trained(3), trained(4)
    assert first.history == second.history
    assert first.history != other.history
    assert changed(first.recommender, snapshot(second.recommender)) == set()
    assert changed(first.tokenizer, snapshot(second.tokenizer)) == set()


def test_tokenizer_optimiser_covers_the_tokenizer() -> None:
    learner = make_learner(make_config())
    groups = tokenizer_optimizer(learner.tokenizer, 1e-3, 0.0).param_groups
    covered = {parameter for group in groups for parameter in group["params"]}
    assert covered == set(learner.tokenizer.parameters())
