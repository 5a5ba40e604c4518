"""A step of training never makes the host wait for the device.

Shown without a GPU: on torch's ``meta`` device tensors have no values, so whatever would have to look at one (a boolean
mask, ``item``, ``nonzero``, ``unique``, a copy to the host) fails. On a GPU torch itself watches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from model_store.config import ModelConfig
from model_store.network.tokenizer import Tokenizer
from training.embedding.sasrec import Sasrec, SasrecConfig
from training.embedding.training import SasrecSteps
from training.embedding.windows import Windows
from training.joint import learner as learners
from training.joint.learner import Learner, new_learner
from training.joint.phase_losses import JointConfig, joint_losses, recommender_losses, tokenizer_losses, weighted_sum
from training.loop.batches import collate, training_rows
from training.loop.optimiser import Optimiser, descend, recommender_optimizer
from training.tokenizer.codebooks import tokenizer_optimizer

ITEMS, WIDTH, LONGEST = 40, 16, 6
PLAIN: dict[str, Any] = {"dense_weight": 0.0, "constrained": False, "distillation": 0.0}
DEVICES = ["meta", pytest.param("cuda", marks=pytest.mark.gpu)]


def sequences() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, ITEMS, size).astype(np.int32) for size in range(2, 14)]


@contextmanager
def watched(device: str) -> Iterator[None]:
    """Raise, on a GPU, an error where the host would wait; ``meta`` needs no watching."""
    if device != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def optimiser_of(made: torch.optim.Optimizer, device: str) -> Optimiser:
    """Return the optimiser: on a GPU the one of training; ``meta`` has no AdamW in one kernel."""
    if device == "meta":
        made = torch.optim.SGD([p for group in made.param_groups for p in group["params"]], lr=0.1)
    return Optimiser(made, lambda step: 1.0, clip=1.0)


def make_learner(device: str, recommender: dict[str, Any]) -> Learner:
    shape = {"d_model": 16, "d_ff": 32, "heads": 2, "head_dim": 8, "encoder_layers": 1, "decoder_layers": 1}
    model = ModelConfig.model_validate(
        {
            "tokenizer": {"embedding_dim": WIDTH, "hidden_dims": (12,), "codebook_dim": 6, "codebook_size": 8},
            "recommender": {**shape, "max_history": LONGEST, **recommender},
        }
    )
    made = new_learner(model, Tokenizer(model.tokenizer), torch.randn(ITEMS, WIDTH), 0)
    parts = made.tokenizer.to(device), made.recommender.to(device), made.embeddings.to(device)
    return Learner(model, *parts, made.assignment)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("softmax", ["full", "sampled"])
def test_a_step_of_sasrec(device: str, softmax: str) -> None:
    settings = {"embedding_dim": WIDTH, "layers": 1, "max_history": LONGEST, "softmax": softmax, "negatives": 9}
    model = Sasrec(SasrecConfig.model_validate(settings), ITEMS).to(device)
    windows = Windows(sequences(), LONGEST, device)
    steps = SasrecSteps(model, windows, 10, 0)
    rows, groups = windows.draw_epoch(64, np.random.default_rng(0))
    with watched(device):
        for chosen in groups:
            steps.take(rows, chosen, 0, 0)
    assert model.item_embedding.weight.device.type == device


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("phase", ["tokenizer", "recommender", "both"])
@pytest.mark.parametrize(
    ("recommender", "joint", "sampled_above"),
    [
        ({"recency_bias": False, "repeat_bias": False}, PLAIN, ITEMS),  # the paper's
        ({"encoder_attention": "causal", "history_tokens": "vector", "newest_start": True}, {}, ITEMS),
        ({"encoder_attention": "causal", "history_tokens": "item"}, {}, ITEMS - 1),
    ],
    ids=["paper", "packed", "sampled"],
)
def test_a_step_of_joint_training(
    device: str,
    phase: str,
    recommender: dict[str, Any],
    joint: dict[str, Any],
    sampled_above: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(learners, "SAMPLED_ABOVE", sampled_above)
    learner, config = make_learner(device, recommender), JointConfig.model_validate(joint)
    packed = learner.model.recommender.encoder_attention == "causal"
    rows = training_rows(sequences(), LONGEST, packed, device)
    tree, chosen = learner.tree(rows.items), np.arange(len(rows.start))
    network = [optimiser_of(recommender_optimizer(learner.recommender, 1e-3, 0.0), device)]
    tokenizer = [optimiser_of(tokenizer_optimizer(learner.tokenizer, 1e-3, 0.0), device)]
    with watched(device):
        batch = collate(rows, chosen)
        if phase == "tokenizer":
            losses, trained = tokenizer_losses(learner, batch, tree, config), tokenizer
        elif phase == "recommender":
            losses, trained = recommender_losses(learner, batch, tree, config, aligned=True), network
        else:
            losses, trained = joint_losses(learner, batch, tree, config), network + tokenizer
        descend(weighted_sum(losses, config), *trained)
    assert {loss.device.type for loss in losses.values()} == {device}


def test_what_would_wait_is_found() -> None:
    values = torch.ones(3, device="meta")
    for look in (lambda: values[values > 0], values.sum().item, values.tolist, values.cpu, lambda: values.unique()):
        with pytest.raises((NotImplementedError, RuntimeError)):
            look()
