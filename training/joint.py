"""Joint training of tokenizer and recommender: the alternating loop of ETEGRec (section 3.5).

A cycle of C epochs trains the tokenizer once, with the recommender frozen, and the recommender C - 1 times, with the
tokenizer frozen. Codes are recomputed after each tokenizer epoch. Afterwards the tokenizer is frozen for good and the
recommender is fine-tuned with L_REC alone, until validation stops improving.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from model_store.config import Section
from model_store.network.recommender import TargetStates
from model_store.network.tokenizer import Quantised
from training import distributed
from training.batches import PADDING, Batch, TrainingRows, batches, collate_share, training_rows
from training.checkpoint import Best, Course
from training.codebooks import reconstruct, tokenizer_optimizer
from training.data.dataset import Split
from training.evaluate import generative_ranks, sample_split
from training.learner import Learner
from training.losses import (
    first_occurrences,
    preference_semantic_loss,
    quantisation_loss,
    recommendation_loss,
    sequence_item_loss,
)
from training.metrics import ndcg
from training.optimiser import Optimiser, cosine, descend, recommender_optimizer
from training.progress import Bar, Progress

Phase = Literal["tokenizer", "recommender", "both"]
Losses = dict[str, Tensor]
"""Scalars by name (rec, sq, sia, psa): this process's shares of them, where several train together."""


class JointConfig(Section):
    """Alternating optimisation."""

    epochs: int = Field(40, ge=1, description="epochs of both phases together")
    cycle: int = Field(2, ge=2, description="C: one tokenizer epoch, then C - 1 recommender epochs")
    alternating: bool = Field(True, description="false: both networks in every step, once alignment has begun")
    tokenizer: Literal["joint", "frozen"] = Field("joint", description="frozen: codes stay as pretrained (TIGER)")
    sia_weight: float = Field(3e-4, ge=0, description="mu, weight of the sequence-item alignment loss")
    psa_weight: float = Field(1e-4, ge=0, description="lambda, weight of the preference-semantic alignment loss")
    alignment_from: int = Field(0, ge=0, description="first epoch with alignment losses; before it the tokenizer rests")
    temperature: float = Field(0.07, gt=0, description="of the preference-semantic InfoNCE")
    beta: float = Field(0.25, ge=0, description="weight of the tokenizer's commitment term")
    targets_per_batch: int = Field(512, ge=2, description="target items a step")
    recommender_rate: float = Field(1e-3, gt=0, description="AdamW step size of the recommender, cosine with warm-up")
    tokenizer_rate: float = Field(1e-4, gt=0, description="AdamW step size of the tokenizer")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of a phase's steps spent warming up")
    weight_decay: float = Field(0.05, ge=0, description="AdamW weight decay of both")
    clip: float = Field(1.0, gt=0, description="largest norm of a gradient")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="of the code cross-entropy")
    validate_every: int = Field(2, ge=1, description="epochs between validations")
    validation_users: int = Field(2000, ge=1, description="most users in a validation during training")


class FinetuneConfig(Section):
    """The last stretch: tokenizer frozen for good, L_REC alone."""

    epochs: int = Field(20, ge=0, description="most epochs")
    recommender_rate: float = Field(5e-4, gt=0, description="AdamW step size, cosine to zero")
    patience: int = Field(5, ge=1, description="validations without improvement before stopping")


def tokenizer_losses(learner: Learner, batch: Batch, codes: Tensor, config: JointConfig) -> Losses:
    """L_SQ, L_SIA and L_PSA of a batch, with gradients for the tokenizer only; the recommender gives constants."""
    with torch.no_grad():
        # [BOS] alone: the alignment losses need no decoded code.
        states = learner.recommender.eval()(
            codes[batch.history], batch.lengths, codes[batch.targets.clamp(min=0)][..., :1], batch.prefix
        )
    return _quantisation_and_alignment(learner, batch, states, config)


def recommender_losses(learner: Learner, batch: Batch, codes: Tensor, config: JointConfig, aligned: bool) -> Losses:
    """L_REC, and if ``aligned`` L_SIA and L_PSA, with gradients for the recommender only."""
    states = _decoded(learner, batch, codes)
    losses = {"rec": _recommendation(learner, batch, states, codes, config)}
    if aligned:
        targets, sequence, preference = _distinct(batch.targets, states.sequence, states.preference)
        with torch.no_grad():
            quantised, reconstruction = reconstruct(learner.tokenizer, learner.embeddings[targets])
        losses |= _alignment(learner, quantised, reconstruction, sequence, preference, config)
    return losses


def joint_losses(learner: Learner, batch: Batch, codes: Tensor, config: JointConfig) -> Losses:
    """All losses at once, with gradients for both networks: training without alternation."""
    states = _decoded(learner, batch, codes)
    losses = {"rec": _recommendation(learner, batch, states, codes, config)}
    return losses | _quantisation_and_alignment(learner, batch, states, config)


def weighted_sum(losses: Losses, config: JointConfig) -> Tensor:
    """What a step descends: the losses of its phase with their weights (Eq. 18 and 19)."""
    weights = {"rec": 1.0, "sq": 1.0, "sia": config.sia_weight, "psa": config.psa_weight}
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


def _decoded(learner: Learner, batch: Batch, codes: Tensor) -> TargetStates:
    targets = codes[batch.targets.clamp(min=0)]
    states: TargetStates = learner.recommender.train()(codes[batch.history], batch.lengths, targets, batch.prefix)
    return states


def _recommendation(learner: Learner, batch: Batch, states: TargetStates, codes: Tensor, config: JointConfig) -> Tensor:
    real = batch.targets != PADDING
    decoded, expected = states.decoder[real], codes[batch.targets[real]]
    logits = [learner.recommender.logits(decoded[:, level], level) for level in range(expected.shape[1])]
    return recommendation_loss(logits, expected, config.label_smoothing, batch.all_targets)


def _quantisation_and_alignment(learner: Learner, batch: Batch, states: TargetStates, config: JointConfig) -> Losses:
    targets, sequence, preference = _distinct(batch.targets, states.sequence, states.preference)
    embeddings = learner.embeddings[targets]
    quantised, reconstruction = reconstruct(learner.tokenizer, embeddings)
    standardised = learner.tokenizer.standardise(embeddings)
    sq = quantisation_loss(standardised, reconstruction, quantised, config.beta)
    return {"sq": distributed.even_share(sq)} | _alignment(
        learner, quantised, reconstruction, sequence, preference, config
    )


def _alignment(
    learner: Learner,
    quantised: Quantised,
    reconstruction: Tensor,
    sequence: Tensor,
    preference: Tensor,
    config: JointConfig,
) -> Losses:
    # Where codebooks are not trained they are constants here, but the distances carry gradients to z_E.
    sequence_distances = learner.tokenizer.quantise(sequence).distances
    sia = sequence_item_loss(quantised.distances, sequence_distances)
    psa = preference_semantic_loss(preference, reconstruction, config.temperature)
    return {"sia": distributed.even_share(sia), "psa": distributed.even_share(psa)}


def _distinct(targets: Tensor, *states: Tensor) -> list[Tensor]:
    """Targets ``[N]`` of all processes that are real and no repetition, and their rows of ``[B, P, …]`` states."""
    real = targets != PADDING
    everyone = distributed.gather(targets[real])
    kept = first_occurrences(everyone)
    return [everyone[kept], *(distributed.gather(state[real])[kept] for state in states)]


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
            losses = _losses_of(phase, learner, config, aligned)
            means = _epoch(learner, rows, config, losses, trained[phase], rng, course, bar)
            if phase != "recommender":
                learner.tokenizer.eval()
                means["codes_changed"] = float(learner.refresh_codes())
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
            losses = _losses_of("recommender", learner, config, aligned=False)
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
    return training_rows(sequences, shape.max_history, packed=shape.encoder_attention == "causal")


def _losses_of(phase: Phase, learner: Learner, config: JointConfig, aligned: bool) -> Callable[[Batch], Losses]:
    codes = learner.codes  # those from before the epoch, all through it
    if phase == "tokenizer":
        learner.tokenizer.train()
        return lambda batch: tokenizer_losses(learner, batch, codes, config)
    if phase == "both":
        learner.tokenizer.train()
        return lambda batch: joint_losses(learner, batch, codes, config)
    return lambda batch: recommender_losses(learner, batch, codes, config, aligned)


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
    """One pass over all rows; returns the mean of each loss."""
    for chosen in course.batches(batches(rows, config.targets_per_batch, rng)):
        found = losses(collate_share(rows, chosen).to(learner.embeddings.device))
        descend(weighted_sum(found, config), *trained)
        course.add(found)
        bar.advance(1)
    return course.means()


def _validate(learner: Learner, sample: Split) -> float:
    def measure() -> float:
        width = learner.model.beam_width
        ranks = generative_ranks(learner.recommender, learner.assignment.codes, sample, width, seen_excluded=False)
        return ndcg(ranks.all_items, 10)

    return distributed.on_first(measure)
