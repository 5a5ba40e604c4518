"""Joint training of tokenizer and recommender: the alternating loop of ETEGRec (section 3.5).

A cycle of C epochs trains the tokenizer once, with the recommender frozen, and the recommender C - 1 times, with the
tokenizer frozen. Codes are recomputed after each tokenizer epoch. Afterwards the tokenizer is frozen for good and the
recommender is fine-tuned without alignment losses, until validation stops improving.
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
from training.loop.batches import Batch, TrainingRows, batches, collate, training_rows
from training.loop.checkpoint import Best, Course
from training.loop.optimiser import Optimiser, cosine, descend, recommender_optimizer
from training.loop.progress import Bar, Progress
from training.tokenizer.codebooks import tokenizer_optimizer

Phase = Literal["tokenizer", "recommender", "both"]


class FinetuneConfig(Section):
    """The last stretch: tokenizer frozen for good, no alignment losses."""

    epochs: int = Field(20, ge=0, description="most epochs")
    recommender_rate: float = Field(5e-4, gt=0, description="AdamW step size, cosine to zero")
    patience: int = Field(5, ge=1, description="validations without improvement before stopping")


def train_joint(
    learner: Learner,
    sequences: list[npt.NDArray[np.int32]],
    valid: Split,
    config: JointConfig,
    seed: int,
    progress: Progress,
    checkpoint: Path | None = None,
) -> None:
    """Alternate between the phases for ``config.epochs`` epochs, changing ``learner`` in place.

    Args:
        learner: Its ``history`` gets one entry an epoch.
        sequences: Training sequences, item rows, oldest first.
        valid: Validation targets; a sample of them is ranked every few epochs.
        config: See :class:`JointConfig`.
        seed: Decides batches and dropout.
        progress: Shows epochs and validation NDCG@10.
        checkpoint: Where the stage is kept while it is under way, and gone on with if it is there; None: nowhere.
    """
    rows, rng = _rows(learner, sequences), np.random.default_rng(seed)
    distributed.seed_dropout(seed)
    phases = [phase_of(epoch, config) for epoch in range(config.epochs)]
    per_epoch = len(batches(rows, config.targets_per_batch, np.random.default_rng(seed)))
    steps = {phase: phases.count(phase) * per_epoch for phase in get_args(Phase)}
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
    trained = {"tokenizer": (tokenizer,), "recommender": (recommender,), "both": (recommender, tokenizer)}
    sample = sample_split(valid, config.validation_users, seed)
    course = Course(
        checkpoint,
        rng,
        {"learner": learner, "recommender_optimiser": recommender, "tokenizer_optimiser": tokenizer},
        learner.embeddings.device,
    )
    with progress.track("Joint training", config.epochs * per_epoch, course.done) as bar:
        for epoch in course.epochs(config.epochs):
            phase = phases[epoch]
            aligned = epoch >= config.alignment_from and config.tokenizer == "joint"
            losses = _losses_of(phase, learner, rows, config, aligned)
            means = _epoch(learner, rows, config, losses, trained[phase], rng, course, bar)
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
    stretch: FinetuneConfig,
    seed: int,
    progress: Progress,
    checkpoint: Path | None = None,
) -> None:
    """Train the recommender alone on fixed codes until validation NDCG@10 stops rising; keep its best weights.

    Arguments are those of :func:`train_joint`.
    """
    rows, rng = _rows(learner, sequences), np.random.default_rng(seed)
    distributed.seed_dropout(seed)
    per_epoch = len(batches(rows, config.targets_per_batch, np.random.default_rng(seed)))
    optimiser = Optimiser(
        recommender_optimizer(learner.recommender, stretch.recommender_rate, config.weight_decay),
        cosine(stretch.epochs * per_epoch, config.warmup),
        config.clip,
    )
    sample = sample_split(valid, config.validation_users, seed)
    best = Best(learner.recommender)
    course = Course(
        checkpoint, rng, {"learner": learner, "optimiser": optimiser, "best": best}, learner.embeddings.device
    )
    if not course.resumed:
        best.offer(_validate(learner, sample))
    with progress.track("Fine-tuning", stretch.epochs * per_epoch, course.done) as bar:
        for _ in course.epochs(stretch.epochs):
            if best.misses >= stretch.patience:
                break
            losses = _losses_of("recommender", learner, rows, config, aligned=False)
            means = _epoch(learner, rows, config, losses, (optimiser,), rng, course, bar)
            means["valid_ndcg@10"] = _validate(learner, sample)
            bar.record(len(learner.history), means)
            learner.history.append({"epoch": float(len(learner.history)), "tokenizer_phase": 0.0, **means})
            best.offer(means["valid_ndcg@10"])
            bar.advance(0, note=f"NDCG@10 {best.score:.4f}")
    best.put_back()
    learner.recommender.eval()


def phase_of(epoch: int, config: JointConfig) -> Phase:
    """Which network an epoch trains: the tokenizer in the first epoch of each cycle, once alignment has begun."""
    since = epoch - config.alignment_from
    if config.tokenizer == "frozen" or since < 0:
        return "recommender"
    if not config.alternating:
        return "both"
    return "recommender" if since % config.cycle else "tokenizer"


def _rows(learner: Learner, sequences: list[npt.NDArray[np.int32]]) -> TrainingRows:
    shape = learner.model.recommender
    packed = shape.encoder_attention == "causal"
    return training_rows(sequences, shape.max_history, packed, learner.embeddings.device)


def _losses_of(
    phase: Phase, learner: Learner, rows: TrainingRows, config: JointConfig, aligned: bool
) -> Callable[[Batch], Losses]:
    tree = learner.tree(rows.items)  # of the codes from before the epoch, all through it
    if phase == "tokenizer":
        learner.tokenizer.train()
        return lambda batch: tokenizer_losses(learner, batch, tree, config)
    if phase == "both":
        learner.tokenizer.train()
        return lambda batch: joint_losses(learner, batch, tree, config)
    return lambda batch: recommender_losses(learner, batch, tree, config, aligned)


def _epoch(
    learner: Learner,
    rows: TrainingRows,
    config: JointConfig,
    losses: Callable[[Batch], Losses],
    trained: Sequence[Optimiser],
    rng: np.random.Generator,
    course: Course,
    bar: Bar,
) -> dict[str, float]:
    """One pass over all rows; returns the mean of each loss, the only thing that the host waits for."""
    for chosen in course.batches(batches(rows, config.targets_per_batch, rng)):
        found = losses(collate(rows, chosen))
        descend(weighted_sum(found, config), *trained)
        course.add(found)
        bar.advance(1)
    return course.means()


def _validate(learner: Learner, sample: Split) -> float:
    def measure() -> float:
        width = learner.model.beam_width
        codes, vectors = learner.assignment.codes, learner.vectors
        ranks = generative_ranks(learner.recommender, codes, sample, width, vectors, seen_excluded=False)
        return ndcg(ranks.all_items, 10)

    return distributed.on_first(measure)
