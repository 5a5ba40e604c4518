"""What having had something already adds to its score: learned, by how many items ago that was.

What a history holds resembles the user most, so that without this it ranks first, whether or not people come back to
what they had. In shops they hardly do, in music they do all the time; a model can learn which it is, but similarity
alone cannot say so.

Shapes: B rows, T history items, P targets of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

AGES = 16
"""Items of this age and older share the last entry of a table."""


class RepeatBias(nn.Module):
    """Tables of what each earlier occurrence adds; several occurrences add up. Zero at the start.

    Args:
        tables: How many scores are biased.
        scale: Multiplies the learned numbers, so that one step size suits them and the network around them.
    """

    def __init__(self, tables: int = 1, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.zeros(tables, AGES))

    def forward(self, table: int, items: int, prefix: Tensor) -> Tensor:
        """What each of a row's first ``items`` items adds, ``[B, P, items]``: 0 for those behind a target's prefix.

        Args:
            table: Which score.
            items: T.
            prefix: ``[B, P]``, how many items precede each target.
        """
        age = prefix[:, :, None] - 1 - torch.arange(items, device=prefix.device)
        added: Tensor = self.weight[table][age.clamp(min=0, max=AGES - 1)] * ((age >= 0) * self.scale)
        return added
