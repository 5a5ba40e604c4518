"""The losses of joint training by phase, and the settings that weigh them (ETEGRec sections 3.4 and 3.5).

Beyond the paper's L_REC, L_SQ, L_SIA and L_PSA there is L_DENSE, which trains the user's vector for the dense scores of
the search, and soft targets: what the dense head knows, taught to the decoder.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from model_store.config import Section
from model_store.network.recommender import Recommender, TargetStates
from model_store.network.tokenizer import Quantised
from training.joint.code_tree import CodeTree, Teacher
from training.joint.learner import Learner
from training.loop import distributed
from training.loop.batches import Batch
from training.loop.device import upload
from training.loop.item_softmax import SAMPLED_ABOVE, Additions, full_softmax_loss, sampled_softmax_loss
from training.losses import (
    constrained_loss,
    first_occurrences,
    preference_semantic_loss,
    quantisation_loss,
    recommendation_loss,
    sequence_item_loss,
)
from training.tokenizer.codebooks import reconstruct

Losses = dict[str, Tensor]
"""Scalars by name (rec, dense, sq, sia, psa): this process's shares of them, where several train together."""


class JointConfig(Section):
    """Alternating optimisation."""

    epochs: int = Field(40, ge=1, description="epochs of both phases together")
    cycle: int = Field(2, ge=2, description="C: one tokenizer epoch, then C - 1 recommender epochs")
    alternating: bool = Field(True, description="false: both networks in every step, once alignment has begun")
    tokenizer: Literal["joint", "frozen"] = Field("joint", description="frozen: codes stay as pretrained (TIGER)")
    sia_weight: float = Field(3e-4, ge=0, description="mu, weight of the sequence-item alignment loss")
    psa_weight: float = Field(1e-4, ge=0, description="lambda, weight of the preference-semantic alignment loss")
    alignment_from: int = Field(0, ge=0, description="first epoch with alignment losses; before it the tokenizer rests")
    dense_weight: float = Field(
        1.0, ge=0, description="weight of the user vector's cross-entropy over all items; 0: leave it untrained"
    )
    constrained: bool = Field(
        True, description="L_REC over the codes that the catalogue holds, as the search scores; false: over all K"
    )
    distillation: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of soft targets in a constrained L_REC: the dense head's view of every code; "
        f"none above {SAMPLED_ABOVE:,} items, of which it does not score all",
    )
    temperature: float = Field(0.07, gt=0, description="divides cosines, in the preference-semantic and the dense loss")
    beta: float = Field(0.25, ge=0, description="weight of the tokenizer's commitment term")
    targets_per_batch: int = Field(512, ge=2, description="target items a step")
    recommender_rate: float = Field(1e-3, gt=0, description="AdamW step size of the recommender, cosine with warm-up")
    stickiness: float = Field(
        0.05,
        ge=0,
        description="an item keeps its codes while their squared distance is at most this share above the nearest's",
    )
    tokenizer_rate: float = Field(1e-4, gt=0, description="AdamW step size of the tokenizer")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of a phase's steps spent warming up")
    weight_decay: float = Field(0.05, ge=0, description="AdamW weight decay of both")
    clip: float = Field(1.0, gt=0, description="largest norm of a gradient")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="of the code cross-entropy")
    validate_every: int = Field(2, ge=1, description="epochs between validations")
    validation_users: int = Field(2000, ge=1, description="most users in a validation during training")

    @model_validator(mode="after")
    def _soft_targets_have_a_teacher(self) -> Self:
        if self.distillation and not (self.constrained and self.dense_weight):
            raise ValueError("joint.distillation needs joint.constrained = true and a joint.dense_weight above 0")
        if self.label_smoothing and self.constrained:
            raise ValueError("joint.label_smoothing works with joint.constrained = false; use joint.distillation")
        return self


def tokenizer_losses(learner: Learner, batch: Batch, tree: CodeTree, config: JointConfig) -> Losses:
    """L_SQ, L_SIA and L_PSA of a batch, with gradients for the tokenizer only; the recommender gives constants."""
    with torch.no_grad():
        # [BOS] alone: the alignment losses need no decoded code.
        states = _states(learner.recommender.eval(), learner, batch, tree, codes=1)
    return _quantisation_and_alignment(learner, batch, states, config)


def recommender_losses(learner: Learner, batch: Batch, tree: CodeTree, config: JointConfig, aligned: bool) -> Losses:
    """L_REC and L_DENSE, and if ``aligned`` L_SIA and L_PSA, with gradients for the recommender only."""
    states = _states(learner.recommender.train(), learner, batch, tree)
    losses = _recommendation(learner, batch, states, tree, config)
    if aligned:
        targets, sequence, preference = _distinct(batch, states.sequence, states.preference)
        with torch.no_grad():
            quantised, reconstruction = reconstruct(learner.tokenizer, learner.embeddings[targets])
        losses |= _alignment(learner, quantised, reconstruction, sequence, preference, config)
    return losses


def joint_losses(learner: Learner, batch: Batch, tree: CodeTree, config: JointConfig) -> Losses:
    """All losses at once, with gradients for both networks: training without alternation."""
    states = _states(learner.recommender.train(), learner, batch, tree)
    losses = _recommendation(learner, batch, states, tree, config)
    return losses | _quantisation_and_alignment(learner, batch, states, config)


def weighted_sum(losses: Losses, config: JointConfig) -> Tensor:
    """What a step descends: the losses of its phase with their weights (Eq. 18 and 19)."""
    weights = {"rec": 1.0, "dense": config.dense_weight, "sq": 1.0, "sia": config.sia_weight, "psa": config.psa_weight}
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


def _states(
    recommender: Recommender, learner: Learner, batch: Batch, tree: CodeTree, codes: int | None = None
) -> TargetStates:
    """What the recommender says of a batch, decoding the first codes of each target, or all of them."""
    targets = tree.codes[batch.targets.clamp(min=0)][..., :codes]
    read = tree.codes[batch.history], tree.vectors[batch.history]
    states: TargetStates = learner.compute.run(recommender, *read, batch.lengths, targets, batch.prefix)
    return states


def _recommendation(
    learner: Learner, batch: Batch, states: TargetStates, tree: CodeTree, config: JointConfig
) -> Losses:
    items, decoded = batch.items, batch.of_targets(states.decoder)
    logits = [
        learner.recommender.logits(decoded[:, level], level) + repeated
        for level, repeated in enumerate(_repeat_logits(learner, batch, tree))
    ]
    if not config.constrained:
        rec = recommendation_loss(logits, tree.codes[items], config.label_smoothing, batch.all_targets)
        return {"rec": rec} | (_dense(learner, batch.of_targets(states.user), batch, tree, config, None))
    leaves = tree.leaves(items)
    teacher = Teacher(tree, leaves) if config.distillation and tree.proposal is None else None
    dense = _dense(learner, batch.of_targets(states.user), batch, tree, config, teacher)
    children = [tree.children(leaves, level, found) for level, found in enumerate(logits)]
    rec = constrained_loss(
        [each.log_prob[:, 0] for each in children],
        [tree.child(leaves, level) - each.first for level, each in enumerate(children)],
        teacher.shares if teacher else None,
        config.distillation if teacher else 0.0,
        batch.all_targets,
    )
    return {"rec": rec} | dense


def _repeat_logits(learner: Learner, batch: Batch, tree: CodeTree) -> list[Tensor]:
    """What histories add to the logits of each level, ``[N, K]`` for the real ones of the targets ``[B, P]``."""
    history, targets = tree.codes[batch.history], tree.codes[batch.targets.clamp(min=0)]
    is_below = torch.ones_like(batch.targets, dtype=torch.bool)[:, :, None]
    added = []
    for level in range(tree.levels):
        found = learner.recommender.repeat_logits(level, history[:, :, level], is_below, batch.prefix)
        added.append(batch.of_targets(found))
        is_below = is_below & (history[:, None, :, level] == targets[:, :, None, level])
    return added


def _dense(
    learner: Learner, users: Tensor, batch: Batch, tree: CodeTree, config: JointConfig, teacher: Teacher | None
) -> Losses:
    if not config.dense_weight:
        return {}
    items, scaled = batch.items, functional.normalize(users, dim=-1) / config.temperature
    value = learner.recommender.dense_repeats(batch.history.shape[1], batch.prefix) / config.temperature
    if tree.proposal is not None:
        additions = Additions.of_histories(batch.history, batch.prefix, value, batch.real, batch.host.prefix)
        candidates = tree.proposal.candidates(batch.host.items).to(items.device)
        loss = sampled_softmax_loss(scaled, tree.vectors, items, candidates, batch.all_targets, additions)
    else:
        leaves = tree.leaves(batch.history)
        additions = Additions.of_histories(leaves, batch.prefix, value, batch.real, batch.host.prefix)
        observe = teacher.observe if teacher else None
        loss = full_softmax_loss(scaled, tree.leaf_vectors, tree.leaves(items), batch.all_targets, observe, additions)
    return {"dense": loss}


def _quantisation_and_alignment(learner: Learner, batch: Batch, states: TargetStates, config: JointConfig) -> Losses:
    targets, sequence, preference = _distinct(batch, states.sequence, states.preference)
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


def _distinct(batch: Batch, *states: Tensor) -> list[Tensor]:
    """Targets ``[N]`` of all processes that are no repetition, and their rows of ``[B, P, …]`` states."""
    kept = first_occurrences(batch.host.items)
    targets, rows = (upload(torch.from_numpy(each), batch.real.device) for each in (batch.host.items[kept], kept))
    everyone = (distributed.gather(batch.of_targets(state), batch.host.shares) for state in states)
    return [targets, *(state.index_select(0, rows) for state in everyone)]
