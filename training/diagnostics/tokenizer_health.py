"""Tokenizer health: use of the codes, collisions, reconstruction error and purity of the semantic IDs."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model_store.errors import CatalogueError
from model_store.network.tokenizer import Tokenizer
from training.data.dataset import Dataset
from training.diagnostics.purity import Purity, neighbourhood_purity
from training.joint.learner import Learner, current_assignment
from training.tokenizer.codebooks import reconstruct

ITEMS_AT_ONCE = 1 << 14
"""Items whose distances to all codes are in memory at a time."""

Policy = Literal["reassign", "token"]
POLICIES: tuple[Policy, ...] = get_args(Policy)


@dataclass(frozen=True)
class PolicyOutcome:
    """Result of a collision policy for the same tokenizer."""

    code_length: int
    moved: int  # items that did not get their nearest tuple; with ``token``, those beyond K in one tuple
    extra_distance: float  # mean over moved items: squared distance of latent and codes, minus that of the nearest


@dataclass(frozen=True)
class TokenizerHealth:
    """Measurements of a tokenizer. Perplexity is the number of codes that would be as diverse if used evenly."""

    codes_used: list[int]  # per level
    perplexity: list[float]  # per level
    collision_rate: float  # share of items whose nearest tuple is also another item's, whatever the policy
    largest_group: int  # largest number of items with the same nearest tuple
    moved: int  # items that did not get their nearest tuple
    reconstruction_error: float  # mean squared error in standardised units: 1.0 is no better than the mean
    codes_changed: list[int]  # items that changed code, per tokenizer epoch
    purity: list[Purity]  # per prefix depth
    policies: dict[str, PolicyOutcome | None]  # None: the items do not fit

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for reports."""
        return asdict(self)


def tokenizer_health(learner: Learner, data: Dataset) -> TokenizerHealth:
    """Measure a tokenizer on all items. Code use is that of the final semantic IDs, without a collision code."""
    levels, size, _ = learner.tokenizer.codebooks.shape
    assignment = learner.assignment
    used = code_use(assignment.codes[:, :levels], size)

    return TokenizerHealth(
        codes_used=[int((counts > 0).sum()) for counts in used],
        perplexity=[perplexity(counts) for counts in used],
        collision_rate=assignment.collision_rate,
        largest_group=assignment.largest_group,
        moved=assignment.moved,
        reconstruction_error=reconstruction_error(learner.tokenizer, learner.embeddings),
        codes_changed=codes_changed(learner.history),
        purity=neighbourhood_purity(assignment.codes, data.categories, data.training_sequences()),
        policies={policy: policy_outcome(learner, policy) for policy in POLICIES},
    )


def code_use(codes: npt.NDArray[np.integer], codebook_size: int) -> list[npt.NDArray[np.int64]]:
    """Count the items of each code, ``[K]`` per level, for codes ``[items, L]``."""
    return [np.bincount(level, minlength=codebook_size).astype(np.int64) for level in codes.T]


def perplexity(counts: npt.NDArray[np.integer]) -> float:
    """Return exp of the entropy of counts ``[K]``: K if all are equal, 1 if all items have the same code."""
    share = counts[counts > 0] / counts.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


@torch.no_grad()
def reconstruction_error(tokenizer: Tokenizer, embeddings: Tensor) -> float:
    """Return the mean squared error of decoded codes in standardised units, for raw embeddings ``[items, d_s]``."""
    total = 0.0
    for part in embeddings.split(ITEMS_AT_ONCE):
        _, reconstruction = reconstruct(tokenizer, part)
        total += float((reconstruction - tokenizer.standardise(part)).square().sum())
    return total / embeddings.numel()


def codes_changed(history: Sequence[Mapping[str, float]]) -> list[int]:
    """Return the number of items that changed code in each tokenizer epoch of a learner's history."""
    return [int(epoch["codes_changed"]) for epoch in history if "codes_changed" in epoch]


def policy_outcome(learner: Learner, policy: Policy) -> PolicyOutcome | None:
    """Return the result of a collision policy; ``None`` if it has no room for all items."""
    levels = len(learner.tokenizer.codebooks)
    try:
        codes = _codes_under(policy, learner)
    except CatalogueError:  # a catalogue that is too large for this policy is a result, not a failure
        return None
    extra = _extra_distances(learner.tokenizer, learner.embeddings, codes[:, :levels])
    return PolicyOutcome(codes.shape[1], len(extra), float(extra.mean()) if len(extra) else 0.0)


def _codes_under(policy: Policy, learner: Learner) -> npt.NDArray[np.int16]:
    if policy == learner.model.collisions:
        return learner.assignment.codes
    model = learner.model.model_copy(update={"collisions": policy})
    return current_assignment(model, learner.tokenizer, learner.embeddings).codes


@torch.no_grad()
def _extra_distances(
    tokenizer: Tokenizer, embeddings: Tensor, codes: npt.NDArray[np.integer]
) -> npt.NDArray[np.float32]:
    """Return the squared distance of each moved item to its codes, minus that to its nearest tuple, ``[moved]``.

    The nearest tuple is the one that the tokenizer finds level by level. In rare cases a moved item is closer to its
    codes than to that tuple.
    """
    # Codes are assigned on the CPU. The same device must decide near ties here.
    tokenizer = copy.deepcopy(tokenizer).cpu().eval()
    embeddings = embeddings.cpu()
    given = torch.from_numpy(codes.astype(np.int64))
    level = torch.arange(len(tokenizer.codebooks))

    extra = []
    for part, chosen in zip(embeddings.split(ITEMS_AT_ONCE), given.split(ITEMS_AT_ONCE), strict=True):
        latents = tokenizer.latents(part)
        nearest = tokenizer.quantise(latents)
        moved = (chosen != nearest.codes).any(dim=1)
        found = (latents - tokenizer.codebooks[level, chosen].sum(dim=1)).square().sum(dim=1)
        own = (latents - nearest.vectors.sum(dim=1)).square().sum(dim=1)
        extra.append((found - own)[moved])

    return torch.cat(extra).numpy()
