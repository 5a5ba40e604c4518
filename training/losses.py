"""Losses of ETEGRec as pure functions. All are means: over dimensions, levels and rows.

Shapes: N rows (targets of a batch), L levels, K codes a level, d_c codebook width, d_s item-embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from model_store.network.tokenizer import Quantised


def quantisation_loss(target: Tensor, reconstruction: Tensor, quantised: Quantised, beta: float) -> Tensor:
    """Return L_SQ (Eq. 8-10): reconstruction plus codebook and commitment terms, averaged over levels.

    Args:
        target: Standardised item embeddings z, ``[N, d_s]``.
        reconstruction: z~, ``[N, d_s]``.
        quantised: Residuals v_l and chosen codes e^l of the same items.
        beta: Weight of the commitment term (paper: 0.25).
    """
    codebook = functional.mse_loss(quantised.vectors, quantised.residuals.detach())
    # v_l - e^l = r - (e^1 + … + e^l). Written so, no gradient reaches the codebooks through the residuals above l.
    latents = quantised.residuals[:, :1].expand_as(quantised.vectors)
    commitment = functional.mse_loss(latents, quantised.vectors.detach().cumsum(dim=1))
    return functional.mse_loss(reconstruction, target) + codebook + beta * commitment


def sequence_item_loss(item_distances: Tensor, sequence_distances: Tensor) -> Tensor:
    """Return L_SIA (Eq. 15, intended sign): symmetric KL between the code distributions of an item and its history.

    Both distributions are softmax of *minus* the squared distance (Eq. 6).

    Args:
        item_distances: Distances of the target items' residuals to all codes, ``[N, L, K]``.
        sequence_distances: The same distances for z_E, the projected histories.
    """
    item = torch.log_softmax(-item_distances, dim=-1).flatten(0, 1)
    sequence = torch.log_softmax(-sequence_distances, dim=-1).flatten(0, 1)
    forward = functional.kl_div(sequence, item, reduction="batchmean", log_target=True)
    backward = functional.kl_div(item, sequence, reduction="batchmean", log_target=True)
    return forward + backward


def preference_semantic_loss(preference: Tensor, reconstruction: Tensor, temperature: float) -> Tensor:
    """Return L_PSA (Eq. 17): InfoNCE both ways between user preference and the target's reconstruction.

    The other rows of the batch are the negatives.

    Args:
        preference: h_D, ``[N, d_s]``.
        reconstruction: z~ of the targets, ``[N, d_s]``; targets must differ from row to row.
        temperature: Divides the cosine similarities (authors' code: 0.07).
    """
    similarity = functional.normalize(preference, dim=-1) @ functional.normalize(reconstruction, dim=-1).t()
    rows = torch.arange(len(similarity), device=similarity.device)
    scaled = similarity / temperature
    return functional.cross_entropy(scaled, rows) + functional.cross_entropy(scaled.t(), rows)


def recommendation_loss(
    logits: Sequence[Tensor],
    codes: Tensor,
    label_smoothing: float = 0.0,
    rows: int | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Return L_REC (Eq. 13): cross-entropy of the target's codes, averaged over rows and codes.

    Args:
        logits: Per level ``[N, K]``.
        codes: ``[N, L]``.
        label_smoothing: Probability mass spread evenly over all codes.
        rows: Divisor of the sum over rows, if not N: the rows of all processes together.
        weights: ``[N]``, factor of each row in the sum; None: 1.
    """
    by_level = [
        _weighted_sum(
            functional.cross_entropy(level_logits, codes[:, level], label_smoothing=label_smoothing, reduction="none"),
            weights,
        )
        for level, level_logits in enumerate(logits)
    ]
    return torch.stack(by_level).mean() / (len(codes) if rows is None else rows)


def constrained_loss(
    log_prob: Sequence[Tensor],
    slot: Sequence[Tensor],
    shares: Sequence[Tensor] | None = None,
    distillation: float = 0.0,
    rows: int | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Return L_REC over those codes only that the trie allows, as in the search; the mean over rows and codes.

    With all K codes (:func:`recommendation_loss`) the network also has to learn by heart which codes may follow which.
    The search knows that from the trie.

    Args:
        log_prob: Per level ``[N, K]``, by child slot of the node that the earlier codes lead to.
        slot: Per level ``[N, 1]``, child slot of the target.
        shares: Per level ``[N, K]``, soft targets that sum to 1.
        distillation: Weight of the soft targets, 0 … 1.
        rows: Divisor of the sums, if not N: the rows of all processes together.
        weights: ``[N]``, factor of each row in the sums; None: 1.
    """
    total = log_prob[0].new_zeros(())
    for level, found in enumerate(log_prob):
        total = total - (1 - distillation) * _weighted_sum(found.gather(1, slot[level]), weights)
        if shares is not None:
            total = total - distillation * _weighted_sum(shares[level] * found, weights)
    return total / (len(log_prob) * (len(slot[0]) if rows is None else rows))


def _weighted_sum(values: Tensor, weights: Tensor | None) -> Tensor:
    """Return the sum of values ``[N]`` or ``[N, …]``, each row times its weight."""
    if weights is None:
        return values.sum()
    return (weights.reshape(-1, *[1] * (values.dim() - 1)) * values).sum()


def first_occurrences(targets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the indices of the rows ``[N]`` at which each target appears for the first time, ascending.

    Rows that repeat a target drop out of SIA, PSA and L_SQ: as in-batch negatives they would contradict themselves.
    """
    return np.sort(np.unique(targets, return_index=True)[1])
