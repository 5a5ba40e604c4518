"""Losses of each phase of joint training, and their settings (ETEGRec sections 3.4 and 3.5).

    tokenizer epoch     L_SQ + mu L_SIA + lambda L_PSA
    recommender epoch   L_REC + mu L_SIA + lambda L_PSA + w L_DENSE

L_SQ trains the tokenizer's reconstruction and codebooks, L_REC the recommender's next codes. L_SIA aligns the encoded
history with the target's codes, L_PSA the decoder's preference with the target's reconstruction.

Where `data.event_weights` gives types of interactions weights, each target's terms in L_REC and L_DENSE are multiplied
by its weight. SIA, PSA and SQ know items, not interactions, and have none.

Two things are ours. L_DENSE trains the user's vector for the dense scores of the search. And L_REC can have soft
targets from these dense scores (distillation).
"""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
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
from training.loop.device import to_device
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
"""Losses by name: rec (L_REC), dense (L_DENSE), sq (L_SQ), sia (L_SIA), psa (L_PSA). Scalars; with several processes,
this process's shares of them."""


class JointConfig(Section):
    """Settings of alternating optimisation."""

    epochs: int = Field(40, ge=1, description="total number of epochs of both phases")
    cycle: int = Field(2, ge=2, description="C: one tokenizer epoch, then C - 1 recommender epochs")
    alternating: bool = Field(True, description="false: both networks in every step, once alignment has begun")
    tokenizer: Literal["joint", "frozen"] = Field("joint", description="frozen: codes stay as pretrained (TIGER)")
    sia_weight: float = Field(3e-4, ge=0, description="mu, weight of the sequence-item alignment loss")
    psa_weight: float = Field(1e-4, ge=0, description="lambda, weight of the preference-semantic alignment loss")
    alignment_from: int = Field(
        0, ge=0, description="first epoch with alignment losses; the tokenizer is not trained before"
    )
    dense_weight: float = Field(
        1.0, ge=0, description="weight of L_DENSE, the user vector's cross-entropy over all items; 0: untrained"
    )
    constrained: bool = Field(
        True, description="L_REC over the codes that the trie allows, as in the search; false: over all K codes"
    )
    distillation: float = Field(
        0.5,
        ge=0,
        le=1,
        description="weight of soft targets in a constrained L_REC, the dense head's probabilities of codes; "
        f"not used above {SAMPLED_ABOVE:,} items, of which it scores only some",
    )
    temperature: float = Field(0.07, gt=0, description="divides the cosines of L_PSA and L_DENSE")
    beta: float = Field(0.25, ge=0, description="weight of the tokenizer's commitment term")
    targets_per_batch: int = Field(512, ge=2, description="target items of a step")
    recommender_rate: float = Field(1e-3, gt=0, description="AdamW step size of the recommender, cosine with warm-up")
    stickiness: float = Field(
        0.05,
        ge=0,
        description="an item keeps its codes while their squared distance is at most this share above the nearest's",
    )
    tokenizer_rate: float = Field(1e-4, gt=0, description="AdamW step size of the tokenizer")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of a phase's steps spent warming up")
    weight_decay: float = Field(0.05, ge=0, description="AdamW weight decay of both")
    clip: float = Field(1.0, gt=0, description="maximum norm of a network's gradient")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="label smoothing of the cross-entropy of codes")
    validate_every: int = Field(2, ge=1, description="epochs between validations")
    validation_users: int = Field(2000, ge=1, description="maximum users of a validation during training")

    @model_validator(mode="after")
    def _soft_targets_have_a_teacher(self) -> Self:
        if self.distillation and not (self.constrained and self.dense_weight):
            raise ValueError("joint.distillation needs joint.constrained = true and a joint.dense_weight above 0")
        if self.label_smoothing and self.constrained:
            raise ValueError("joint.label_smoothing works with joint.constrained = false; use joint.distillation")
        return self


def tokenizer_losses(learner: Learner, batch: Batch, tree: CodeTree, config: JointConfig) -> Losses:
    """Return the losses of a tokenizer epoch: L_SQ, L_SIA and L_PSA.

    Gradients reach the tokenizer only: the recommender is frozen, and in evaluation mode.
    """
    with torch.no_grad():
        # [BOS] alone: the alignment losses need no decoded code.
        states = _run_recommender(learner.recommender.eval(), learner, batch, tree, codes=1)
    return _sq_and_alignment_losses(learner, batch, states, config)


def recommender_losses(learner: Learner, batch: Batch, tree: CodeTree, config: JointConfig, aligned: bool) -> Losses:
    """Return the losses of a recommender epoch: L_REC and L_DENSE and, if ``aligned``, L_SIA and L_PSA.

    Gradients reach the recommender only: the tokenizer is frozen, and gives constants.
    """
    states = _run_recommender(learner.recommender.train(), learner, batch, tree)
    losses = _rec_and_dense_losses(learner, batch, states, tree, config)
    if aligned:
        targets, sequence, preference = _select_distinct(batch, states.sequence, states.preference)
        with torch.no_grad():
            quantised, reconstruction = reconstruct(learner.tokenizer, learner.embeddings[targets])
        losses |= _alignment_losses(learner, quantised, reconstruction, sequence, preference, config)
    return losses


def joint_losses(learner: Learner, batch: Batch, tree: CodeTree, config: JointConfig) -> Losses:
    """Return all losses at once, with gradients for both networks: training without alternation."""
    states = _run_recommender(learner.recommender.train(), learner, batch, tree)
    losses = _rec_and_dense_losses(learner, batch, states, tree, config)
    return losses | _sq_and_alignment_losses(learner, batch, states, config)


def weighted_sum(losses: Losses, config: JointConfig) -> Tensor:
    """Return the objective of a step: the weighted sum of its phase's losses (Eq. 18 and 19)."""
    weights = {"rec": 1.0, "dense": config.dense_weight, "sq": 1.0, "sia": config.sia_weight, "psa": config.psa_weight}
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


def _run_recommender(
    recommender: Recommender, learner: Learner, batch: Batch, tree: CodeTree, codes: int | None = None
) -> TargetStates:
    """Run the recommender on a batch; it decodes the first codes of each target, or all of them."""
    targets = tree.codes[batch.targets.clamp(min=0)][..., :codes]
    codes_of_history = tree.codes[batch.history]
    vectors_of_history = tree.vectors[batch.history]
    states: TargetStates = learner.compute.run(
        recommender, codes_of_history, vectors_of_history, batch.lengths, targets, batch.prefix
    )
    return states


def _rec_and_dense_losses(
    learner: Learner, batch: Batch, states: TargetStates, tree: CodeTree, config: JointConfig
) -> Losses:
    """Return L_REC, and L_DENSE if it has a weight."""
    items = batch.items
    decoded = batch.select_targets(states.decoder)
    logits = [
        learner.recommender.logits(decoded[:, level], level) + repeat_bias
        for level, repeat_bias in enumerate(_repeat_logits(learner, batch, tree))
    ]

    if not config.constrained:
        rec = recommendation_loss(logits, tree.codes[items], config.label_smoothing, batch.all_targets, batch.weights)
        dense = _dense_loss(learner, batch.select_targets(states.user), batch, tree, config, None)
        return {"rec": rec} | dense

    # The teacher sees the probabilities of the dense head on the way to L_DENSE, so that one comes first.
    leaves = tree.leaves(items)
    teacher = Teacher(tree, leaves) if config.distillation and tree.proposal is None else None
    dense = _dense_loss(learner, batch.select_targets(states.user), batch, tree, config, teacher)

    children = [tree.children(leaves, level, level_logits) for level, level_logits in enumerate(logits)]
    rec = constrained_loss(
        [each.log_prob[:, 0] for each in children],
        [tree.child(leaves, level) - each.first for level, each in enumerate(children)],
        teacher.shares if teacher else None,
        config.distillation if teacher else 0.0,
        batch.all_targets,
        batch.weights,
    )
    return {"rec": rec} | dense


def _repeat_logits(learner: Learner, batch: Batch, tree: CodeTree) -> list[Tensor]:
    """Return the repeat bias of the logits of each level, ``[N, K]`` for the N real targets."""
    history = tree.codes[batch.history]
    targets = tree.codes[batch.targets.clamp(min=0)]
    is_below = torch.ones_like(batch.targets, dtype=torch.bool)[:, :, None]
    by_level = []
    for level in range(tree.levels):
        repeat_bias = learner.recommender.repeat_logits(level, history[:, :, level], is_below, batch.prefix)
        by_level.append(batch.select_targets(repeat_bias))
        is_below = is_below & (history[:, None, :, level] == targets[:, :, None, level])
    return by_level


def _dense_loss(
    learner: Learner, users: Tensor, batch: Batch, tree: CodeTree, config: JointConfig, teacher: Teacher | None
) -> Losses:
    """Return L_DENSE, full or sampled cross-entropy of the users' vectors; nothing if it has no weight."""
    if not config.dense_weight:
        return {}

    items = batch.items
    # The share of content makes room for itself: cosines of learned vectors stay as sharp as they are without it.
    temperature = config.temperature * (1 - learner.recommender.content_share)
    scaled = functional.normalize(users, dim=-1) / temperature
    value = learner.recommender.dense_repeats(batch.history.shape[1], batch.prefix) / temperature
    if tree.proposal is not None:
        additions = Additions.of_histories(batch.history, batch.prefix, value, batch.real, batch.host.prefix)
        # The targets seed the draws, so that they are the same in all processes, and in a resumed run.
        draws = np.random.default_rng(batch.host.items.astype(np.uint32))
        candidates = tree.proposal.candidates(batch.host.items, draws).to(items.device)
        loss = sampled_softmax_loss(
            scaled, tree.vectors, items, candidates, batch.all_targets, additions, batch.weights
        )
    else:
        leaves = tree.leaves(batch.history)
        additions = Additions.of_histories(leaves, batch.prefix, value, batch.real, batch.host.prefix)
        observe = teacher.observe if teacher else None
        loss = full_softmax_loss(
            scaled, tree.leaf_vectors, tree.leaves(items), batch.all_targets, observe, additions, batch.weights
        )
    return {"dense": loss}


def _sq_and_alignment_losses(learner: Learner, batch: Batch, states: TargetStates, config: JointConfig) -> Losses:
    """Return L_SQ, L_SIA and L_PSA, with gradients for the tokenizer."""
    targets, sequence, preference = _select_distinct(batch, states.sequence, states.preference)
    embeddings = learner.embeddings[targets]
    quantised, reconstruction = reconstruct(learner.tokenizer, embeddings)
    standardised = learner.tokenizer.standardise(embeddings)
    sq = quantisation_loss(standardised, reconstruction, quantised, config.beta)
    alignment = _alignment_losses(learner, quantised, reconstruction, sequence, preference, config)
    return {"sq": distributed.even_share(sq)} | alignment


def _alignment_losses(
    learner: Learner,
    quantised: Quantised,
    reconstruction: Tensor,
    sequence: Tensor,
    preference: Tensor,
    config: JointConfig,
) -> Losses:
    """Return L_SIA, between the codes of targets and z_E, and L_PSA, between reconstructions of targets and h_D."""
    # In a recommender epoch the codebooks are constants, but the distances carry gradients to z_E.
    sequence_distances = learner.tokenizer.quantise(sequence).distances
    sia = sequence_item_loss(quantised.distances, sequence_distances)
    psa = preference_semantic_loss(preference, reconstruction, config.temperature)
    return {"sia": distributed.even_share(sia), "psa": distributed.even_share(psa)}


def _select_distinct(batch: Batch, *states: Tensor) -> list[Tensor]:
    """Select the distinct targets ``[N]`` of all processes, and their rows of ``[B, P, …]`` states."""
    kept = first_occurrences(batch.host.items)
    targets = to_device(torch.from_numpy(batch.host.items[kept]), batch.real.device)
    rows = to_device(torch.from_numpy(kept), batch.real.device)
    gathered = (distributed.gather(batch.select_targets(state), batch.host.shares) for state in states)
    return [targets, *(state.index_select(0, rows) for state in gathered)]
