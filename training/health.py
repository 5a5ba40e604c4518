"""How well a tokenizer uses its codes, and what its semantic IDs mean."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from model_store.network.tokenizer import Tokenizer
from training.codebooks import reconstruct
from training.collisions import Assignment


@dataclass(frozen=True)
class TokenizerHealth:
    """How well the tokenizer uses its codes. Perplexity counts codes as if they were used evenly."""

    codes_used: list[int]  # per level
    perplexity: list[float]  # per level
    collision_rate: float
    largest_group: int
    moved: int
    reconstruction_error: float  # mean squared, standardised units: 1.0 is no better than the mean

    def as_dict(self) -> dict[str, object]:
        """Plain values for reports."""
        return asdict(self)


@torch.no_grad()
def tokenizer_health(tokenizer: Tokenizer, embeddings: Tensor, assignment: Assignment) -> TokenizerHealth:
    """Measure code use on all items. Use and perplexity are of the final semantic IDs, without a collision code."""
    levels, size, _ = tokenizer.codebooks.shape
    use = [np.bincount(assignment.codes[:, level], minlength=size) for level in range(levels)]
    _, reconstruction = reconstruct(tokenizer, embeddings)
    error = torch.nn.functional.mse_loss(reconstruction, tokenizer.standardise(embeddings))
    return TokenizerHealth(
        codes_used=[int((counts > 0).sum()) for counts in use],
        perplexity=[_perplexity(counts) for counts in use],
        collision_rate=assignment.collision_rate,
        largest_group=assignment.largest_group,
        moved=assignment.moved,
        reconstruction_error=float(error),
    )


def _perplexity(counts: np.ndarray) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(np.exp(-(share * np.log(share)).sum()))
