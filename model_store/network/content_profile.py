"""Content profile: what the newest items of a history say, as one vector beside the user's learned one.

Item vectors may end with a content vector (:mod:`training.content.content_encoder`). The user's vector then ends with
the content profile, so that one product of both adds up a learned similarity and one of content. The profile is not
learned: it also holds for items that nobody had yet.

The last number of a content vector is 1 for an item that says nothing, else 0. In a profile it is 0, so that such an
item is like no other, and its vector still has unit length.

Shapes: B rows, T history items, P targets of a row, c width of content vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

AGES = 10
"""Number of newest items that count."""

SMALLEST_SQUARE = 1e-12
"""Squared length of a sum over features below which an item says nothing."""

DECAY = 0.6
"""Weight of an item relative to the next newer one."""


class ContentProfile(nn.Module):
    """Mean of the content vectors of a history's newest items, weighted by age, at unit length."""

    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        by_age = torch.cat([DECAY ** torch.arange(AGES), torch.zeros(1)])  # the last one is of all older items
        self.register_buffer("weight", by_age, persistent=False)

    def forward(self, content: Tensor, prefix: Tensor) -> Tensor:
        """Return the profiles ``[B, P, c]``; zeros if no item of the history says anything.

        Args:
            content: Content vectors of the histories' items, oldest first, ``[B, T, c]``.
            prefix: ``[B, P]``, number of items before each target.
        """
        age = prefix[:, :, None] - 1 - torch.arange(content.shape[1], device=content.device)
        weight = self.weight[age.clamp(min=0, max=AGES)] * (age >= 0)
        said = functional.pad(content[..., :-1], (0, 1))
        return functional.normalize(weight @ said, dim=-1)


def content_vectors(said: Tensor) -> Tensor:
    """Return content vectors at unit length from sums over features ``[N, c]``, whose last column is zeros."""
    says_nothing = (said.square().sum(dim=-1, keepdim=True) < SMALLEST_SQUARE).to(said.dtype)
    return functional.normalize(said + functional.pad(says_nothing, (said.shape[-1] - 1, 0)), dim=-1)


def join_content(learned: Tensor, content: Tensor, share: Tensor | float) -> Tensor:
    """Return vectors ``[…, d_s]`` whose products are ``1 - share`` of learned and ``share`` of content cosines.

    Args:
        learned: Unit length, ``[…, d_s - c]``.
        content: Content vectors or profiles, ``[…, c]``.
        share: 0 … 1.
    """
    return torch.cat([(1 - share) ** 0.5 * learned, share**0.5 * content], dim=-1)
