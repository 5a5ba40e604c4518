"""Training throughput of our recommender beside a Hugging Face T5 of the same sizes (``make bench-train``).

Both read the same sequences on the same threads in one run: forward, backward and optimiser step. Ours trains as the
preset says, with all losses of a recommender epoch; the peer is fed the usual way, one prefix a row, one token per
code, padded batches. The unit is target items a second: one next item predicted, however many tokens that takes.
Repeats alternate; medians are reported.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
import typer
from torch import Tensor

from benchmarks.peer_t5 import SPECIAL, peer_t5
from benchmarks.review_users import ITEMS, sequences
from model_store.config import ModelConfig
from model_store.network.recommender import Recommender
from model_store.network.tokenizer import Tokenizer
from training.config import TrainingConfig, load_config
from training.joint.learner import Learner
from training.joint.phase_losses import recommender_losses, weighted_sum
from training.loop.batches import Batch, TrainingRows, batches, collate, training_rows
from training.loop.optimiser import Optimiser, descend, recommender_optimizer
from training.tokenizer.collisions import Assignment


def items_a_second(step: Callable[[Batch], None], work: list[Batch]) -> float:
    """Return target items a second over some batches."""
    started = time.perf_counter()
    for batch in work:
        step(batch)
    targets = sum(batch.all_targets for batch in work)
    return targets / (time.perf_counter() - started)


def our_step(config: TrainingConfig, codes: npt.NDArray[np.int16]) -> Callable[[Batch], None]:
    """Return a step of a recommender epoch: L_REC with its soft targets, L_DENSE over all items, clipping, AdamW."""
    shape = config.model.tokenizer
    embeddings = torch.randn(ITEMS, shape.embedding_dim)
    learner = Learner(config.model, Tokenizer(shape), Recommender(config.model), embeddings, Assignment(codes, 0, 1, 0))
    tree = learner.tree(np.arange(ITEMS))
    adamw = recommender_optimizer(learner.recommender, 1e-3, config.joint.weight_decay)
    optimiser = Optimiser(adamw, lambda step: 1.0, config.joint.clip)

    def step(batch: Batch) -> None:
        losses = recommender_losses(learner, batch, tree, config.joint, aligned=False)
        descend(weighted_sum(losses, config.joint), optimiser)

    return step


def peer_step(config: ModelConfig, codes: Tensor) -> Callable[[Batch], None]:
    """Return a step of the peer: its own loss, clipping, AdamW."""
    levels = config.code_length
    size = config.tokenizer.codebook_size
    model = peer_t5(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    tokens = codes + torch.arange(levels) * size + SPECIAL

    def step(batch: Batch) -> None:
        mask = torch.arange(batch.history.shape[1]) < batch.lengths[:, None]
        attended = mask.repeat_interleave(levels, dim=1)
        source = tokens[batch.history].flatten(1) * attended
        labels = tokens[batch.targets[:, 0]]
        optimizer.zero_grad(set_to_none=True)
        model(input_ids=source, attention_mask=attended.long(), labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def sample(
    rows: TrainingRows, targets_per_batch: int, count: int, rng: np.random.Generator, by_length: bool
) -> list[Batch]:
    """Draw some batches of an epoch, in length buckets or, as the usual loader does, in plain shuffled order."""
    if by_length:
        chosen = batches(rows, targets_per_batch, rng)[:count]
    else:
        order = rng.permutation(len(rows.start))
        chosen = [order[at : at + targets_per_batch] for at in range(0, count * targets_per_batch, targets_per_batch)]
    return [collate(rows, one) for one in chosen]


def main(
    preset: Annotated[str, typer.Option(help="Preset whose recommender is trained.")] = "cpu",
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Batches a repeat.")] = 4,
    threads: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1,
) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    config = load_config(preset)
    model = config.model
    size = config.joint.targets_per_batch
    shape = model.recommender
    codebook_size = model.tokenizer.codebook_size
    length = model.code_length

    flat = rng.choice(codebook_size**length, ITEMS, replace=False)
    codes = np.stack(np.unravel_index(flat, (codebook_size,) * length), axis=1).astype(np.int16)

    users = sequences(rng)
    packed = training_rows(users, shape.max_history, packed=shape.encoder_attention == "causal")
    single = training_rows(users, shape.max_history, packed=False)

    # one step of each warms up
    ours = our_step(config, codes)
    peer = peer_step(model, torch.from_numpy(codes.astype(np.int64)))
    items_a_second(ours, sample(packed, size, 1, rng, by_length=True))
    items_a_second(peer, sample(single, size, 1, rng, by_length=False))

    rates: list[tuple[float, float]] = []
    for _ in range(repeats):
        mine = items_a_second(ours, sample(packed, size, steps, rng, by_length=True))
        theirs = items_a_second(peer, sample(single, size, steps, rng, by_length=False))
        rates.append((mine, theirs))
    mine, theirs = (statistics.median(column) for column in zip(*rates, strict=True))
    ratios = sorted(mine / theirs for mine, theirs in rates)

    typer.echo(
        json.dumps(
            {
                "bench": "train",
                "ours_items_s": round(mine, 1),
                "hf_items_s": round(theirs, 1),
                "ratio": round(statistics.median(ratios), 2),
                "ratio_spread": [round(ratios[0], 2), round(ratios[-1], 2)],
                "preset": preset,
                "layers": [shape.encoder_layers, shape.decoder_layers],
                "threads": threads,
                "load": round(os.getloadavg()[0], 2),
                "repeats": repeats,
            }
        )
    )


if __name__ == "__main__":
    typer.run(main)
