"""Repeat bias: a learned number for each age of an item in the history, added to the score of that item.

Items of the history resemble the user most. Without this bias they would rank first, whether or not people come back
to what they had. In shops they hardly do, in music they do all the time. A model can learn which it is; similarity
alone cannot tell.

Shapes: B rows, T history items, P targets of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

AGES = 16
"""Items of this age and older share the last entry of a table."""


class RepeatBias(nn.Module):
    """Tables of the bias of each earlier occurrence; several occurrences add up. All are zero at the start.

    Args:
        tables: Number of scores that are biased.
        scale: Multiplies the learned numbers, so that one step size suits them and the network around them.
    """

    def __init__(self, tables: int = 1, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.zeros(tables, AGES))

    def forward(self, table: int, items: int, prefix: Tensor) -> Tensor:
        """Return the bias of each of a row's first T items, ``[B, P, T]``: 0 for items after a target's prefix.

        Args:
            table: Number of the score.
            items: T.
            prefix: ``[B, P]``, number of items before each target.
        """
        age = prefix[:, :, None] - 1 - torch.arange(items, device=prefix.device)
        added: Tensor = self.weight[table][age.clamp(min=0, max=AGES - 1)] * ((age >= 0) * self.scale)
        return added
