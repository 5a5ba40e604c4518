"""Joint training of tokenizer and recommender: the alternating loop of ETEGRec (section 3.5).

A cycle has C epochs. The first trains the tokenizer, with the recommender frozen, and codes are recomputed after it.
The other C - 1 train the recommender, with the tokenizer frozen. With C = 3:

    epoch   0          1            2            3          4            5
    phase   tokenizer  recommender  recommender  tokenizer  recommender  recommender
    codes            ^ recomputed                         ^ recomputed

:func:`phase_of` is this table, :func:`train_joint` the loop, :mod:`training.joint.phase_losses` the losses of both
phases. Afterwards :func:`finetune` freezes the tokenizer for good, and trains the recommender without alignment losses
until validation stops improving.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import Field

from model_store.config import Section
from training.data.dataset import Split
from training.evaluation.full_ranking import generative_ranks, sample_split
from training.evaluation.metrics import ndcg
from training.joint.learner import Learner
from training.joint.phase_losses import (
    JointConfig,
    Losses,
    joint_losses,
    recommender_losses,
    tokenizer_losses,
    weighted_sum,
)
from training.loop import distributed
from training.loop.batches import Batch, Float32Array, TrainingRows, batches, collate, training_rows
from training.loop.checkpoint import BestWeights, Resumable, ResumableLoop
from training.loop.optimiser import Optimiser, cosine, descend, recommender_optimizer
from training.loop.progress import Bar, Progress
from training.tokenizer.codebooks import tokenizer_optimizer

Phase = Literal["tokenizer", "recommender", "both"]
"""Networks that an epoch trains."""


class FinetuneConfig(Section):
    """Settings of fine-tuning: tokenizer frozen for good, no alignment losses."""

    epochs: int = Field(20, ge=0, description="maximum number of epochs")
    recommender_rate: float = Field(5e-4, gt=0, description="AdamW step size, cosine to zero")
    patience: int = Field(5, ge=1, description="validations without improvement before stopping")


def phase_of(epoch: int, config: JointConfig) -> Phase:
    """Return the network that an epoch trains: the tokenizer in the first epoch of each cycle, else the recommender.

    Cycles begin when alignment begins; before that, only the recommender is trained.
    """
    since_alignment = epoch - config.alignment_from
    if config.tokenizer == "frozen" or since_alignment < 0:
        return "recommender"
    if not config.alternating:
        return "both"
    return "tokenizer" if since_alignment % config.cycle == 0 else "recommender"


def train_joint(
    learner: Learner,
    sequences: list[npt.NDArray[np.int32]],
    valid: Split,
    config: JointConfig,
    seed: int,
    progress: Progress,
    checkpoint: Path | None = None,
    weights: Sequence[Float32Array] | None = None,
) -> None:
    """Alternate between the phases for ``config.epochs`` epochs, changing ``learner`` in place.

    Args:
        learner: Its ``history`` gets one entry an epoch.
        sequences: Training sequences, item rows, oldest first.
        valid: Validation targets; a sample of them is ranked every few epochs.
        config: See :class:`JointConfig`.
        seed: Seed of batches and dropout.
        progress: Display of epochs and validation NDCG@10.
        checkpoint: File in which the stage is saved as it runs, and from which it is resumed; None: nowhere.
        weights: Weight of each item of the sequences as a target; None: all weigh 1.
    """
    rows = _cut_rows(learner, sequences, weights)
    rng = np.random.default_rng(seed)
    distributed.seed_dropout(seed)
    phases = [phase_of(epoch, config) for epoch in range(config.epochs)]
    batches_per_epoch = len(batches(rows, config.targets_per_batch, np.random.default_rng(seed)))
    recommender, tokenizer = _create_optimisers(learner, config, phases, batches_per_epoch)
    optimisers = {"tokenizer": (tokenizer,), "recommender": (recommender,), "both": (recommender, tokenizer)}
    sample = sample_split(valid, config.validation_users, seed)

    parts: dict[str, Resumable] = {
        "learner": learner,
        "recommender_optimiser": recommender,
        "tokenizer_optimiser": tokenizer,
    }
    loop = ResumableLoop(checkpoint, rng, parts, learner.embeddings.device)
    with progress.track("Joint training", config.epochs * batches_per_epoch, loop.done) as bar:
        for epoch in loop.epochs(config.epochs):
            phase = phases[epoch]
            aligned = epoch >= config.alignment_from and config.tokenizer == "joint"
            losses = _loss_function(phase, learner, rows, config, aligned)
            means = _train_epoch(rows, config, losses, optimisers[phase], rng, loop, bar)

            # A trained tokenizer gives other codes. They change here, and nowhere else.
            if phase != "recommender":
                learner.tokenizer.eval()
                means["codes_changed"] = float(learner.refresh_codes(config.stickiness))

            if (epoch + 1) % config.validate_every == 0:
                means["valid_ndcg@10"] = _validate(learner, sample)
                bar.advance(0, note=f"NDCG@10 {means['valid_ndcg@10']:.4f}")
            bar.record(epoch, means)
            learner.history.append({"epoch": epoch, "tokenizer_phase": float(phase == "tokenizer"), **means})


def finetune(
    learner: Learner,
    sequences: list[npt.NDArray[np.int32]],
    valid: Split,
    config: JointConfig,
    finetuning: FinetuneConfig,
    seed: int,
    progress: Progress,
    checkpoint: Path | None = None,
    weights: Sequence[Float32Array] | None = None,
) -> None:
    """Train the recommender alone on fixed codes until validation NDCG@10 stops rising; keep its best weights.

    ``finetuning`` holds the settings of this stage; the other arguments are those of :func:`train_joint`.
    """
    rows = _cut_rows(learner, sequences, weights)
    rng = np.random.default_rng(seed)
    distributed.seed_dropout(seed)
    batches_per_epoch = len(batches(rows, config.targets_per_batch, np.random.default_rng(seed)))
    optimiser = Optimiser(
        recommender_optimizer(learner.recommender, finetuning.recommender_rate, config.weight_decay),
        cosine(finetuning.epochs * batches_per_epoch, config.warmup),
        config.clip,
    )
    sample = sample_split(valid, config.validation_users, seed)
    best = BestWeights(learner.recommender)

    parts: dict[str, Resumable] = {"learner": learner, "optimiser": optimiser, "best": best}
    loop = ResumableLoop(checkpoint, rng, parts, learner.embeddings.device)
    if not loop.resumed:
        best.offer(_validate(learner, sample))
    with progress.track("Fine-tuning", finetuning.epochs * batches_per_epoch, loop.done) as bar:
        for _ in loop.epochs(finetuning.epochs):
            if best.misses >= finetuning.patience:
                break
            losses = _loss_function("recommender", learner, rows, config, aligned=False)
            means = _train_epoch(rows, config, losses, (optimiser,), rng, loop, bar)

            means["valid_ndcg@10"] = _validate(learner, sample)
            bar.record(len(learner.history), means)
            learner.history.append({"epoch": float(len(learner.history)), "tokenizer_phase": 0.0, **means})
            best.offer(means["valid_ndcg@10"])
            bar.advance(0, note=f"NDCG@10 {best.score:.4f}")

    best.load_best()
    learner.recommender.eval()


def _create_optimisers(
    learner: Learner, config: JointConfig, phases: list[Phase], batches_per_epoch: int
) -> tuple[Optimiser, Optimiser]:
    """Return the optimisers of recommender and tokenizer; the schedule of each counts the steps of its own phase."""
    steps = {phase: phases.count(phase) * batches_per_epoch for phase in get_args(Phase)}

    recommender = Optimiser(
        recommender_optimizer(learner.recommender, config.recommender_rate, config.weight_decay),
        cosine(steps["recommender"] + steps["both"], config.warmup),
        config.clip,
    )
    tokenizer = Optimiser(
        tokenizer_optimizer(learner.tokenizer, config.tokenizer_rate, config.weight_decay),
        cosine(steps["tokenizer"] + steps["both"], config.warmup),
        config.clip,
    )
    return recommender, tokenizer


def _cut_rows(
    learner: Learner, sequences: list[npt.NDArray[np.int32]], weights: Sequence[Float32Array] | None
) -> TrainingRows:
    shape = learner.model.recommender
    packed = shape.encoder_attention == "causal"
    return training_rows(sequences, shape.max_history, packed, learner.embeddings.device, weights)


def _loss_function(
    phase: Phase, learner: Learner, rows: TrainingRows, config: JointConfig, aligned: bool
) -> Callable[[Batch], Losses]:
    """Return the function that computes the losses of a batch in an epoch of this phase."""
    tree = learner.tree(rows.items)  # with the codes from before the epoch, until its end
    if phase == "tokenizer":
        learner.tokenizer.train()
        return lambda batch: tokenizer_losses(learner, batch, tree, config)
    if phase == "both":
        learner.tokenizer.train()
        return lambda batch: joint_losses(learner, batch, tree, config)
    return lambda batch: recommender_losses(learner, batch, tree, config, aligned)


def _train_epoch(
    rows: TrainingRows,
    config: JointConfig,
    losses: Callable[[Batch], Losses],
    optimisers: Sequence[Optimiser],
    rng: np.random.Generator,
    loop: ResumableLoop,
    bar: Bar,
) -> dict[str, float]:
    """Pass over all rows once, and return the mean of each loss: the only values that the host waits for."""
    for chosen in loop.batches(batches(rows, config.targets_per_batch, rng)):
        batch_losses = losses(collate(rows, chosen))
        descend(weighted_sum(batch_losses, config), *optimisers)
        loop.add(batch_losses)
        bar.advance(1)
    return loop.means()


def _validate(learner: Learner, sample: Split) -> float:
    """Return the validation NDCG@10 of a sample; the first process computes it for all."""

    def measure() -> float:
        width = learner.model.beam_width
        codes = learner.assignment.codes
        ranks = generative_ranks(learner.recommender, codes, sample, width, learner.vectors, seen_excluded=False)
        return ndcg(ranks.all_items, 10)

    return distributed.compute_on_first(measure)
