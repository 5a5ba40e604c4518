"""History encoder, shared by SASRec and the recommender: item vectors in, a state for every position out.

The embedding stage trains it together with the item vectors. A recommender whose history tokens are vectors then starts
from those weights, so it starts as good as SASRec.

Shapes: B rows, S tokens, d model width, d_s width of item vectors.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model_store.network.layers import NEGATIVE, EncoderLayer, LowPass, RelativeBias, RmsNorm

INPUT_SCALE = 0.3
"""RMS of the entries of a unit vector when it enters the first layer; a normalised state has 1.0."""


class EncoderShape(NamedTuple):
    """Shape of an encoder; encoders of the same shape can exchange weights."""

    d_model: int
    d_ff: int
    heads: int
    head_dim: int
    layers: int
    position_buckets: int
    max_distance: int
    is_causal: bool
    low_pass: float


class HistoryEncoder(nn.Module):
    """Pre-norm self-attention layers with bucketed relative positions, normalised at the end.

    If the shape says so, a low-pass filter mixes tokens beside attention.
    """

    def __init__(self, shape: EncoderShape, dropout: float) -> None:
        super().__init__()
        self.is_causal = shape.is_causal
        self.filter = LowPass() if shape.low_pass else None
        layer = (shape.d_model, shape.d_ff, shape.heads, shape.head_dim, dropout, shape.low_pass)
        self.layers = nn.ModuleList(EncoderLayer(*layer) for _ in range(shape.layers))
        self.norm = RmsNorm(shape.d_model)
        self.bias = RelativeBias(
            shape.position_buckets, shape.max_distance, shape.heads, bidirectional=not shape.is_causal
        )

    def forward(self, x: Tensor, lengths: Tensor | None, tokens_per_item: int = 1) -> Tensor:
        """Return states ``[B, S, d]``.

        Args:
            x: Tokens ``[B, S, d]``, oldest item first, padded on the right.
            lengths: ``[B]``, items of each row. May be ``None`` with causal attention: no state reads what follows it,
                so padding on the right has no effect.
            tokens_per_item: S = items times this.
        """
        position = torch.arange(x.shape[1], device=x.device)
        distance = position[:, None] - position
        hidden = (distance < 0)[None] if self.is_causal else torch.zeros_like(distance, dtype=torch.bool)[None]
        if lengths is not None:
            hidden = hidden | (position // tokens_per_item >= lengths[:, None])[:, None, :]
        bias = self.bias(distance).permute(2, 0, 1)[None] + hidden[:, None] * NEGATIVE
        smoothing = None if self.filter is None else self.filter(distance) * ~hidden

        for layer in self.layers:
            x = layer(x, bias, smoothing)
        normed: Tensor = self.norm(x)
        return normed


class VectorMap(nn.Linear):
    """Linear map between item vectors and the model; starts as the identity times ``scale``, as far as widths allow."""

    def __init__(self, width_in: int, width_out: int, scale: float = 1.0) -> None:
        self.scale = scale
        super().__init__(width_in, width_out, bias=False)

    @classmethod
    def into_model(cls, embedding_dim: int, d_model: int) -> VectorMap:
        """Return a map from unit vectors to tokens of the first layer."""
        return cls(embedding_dim, d_model, INPUT_SCALE * math.sqrt(embedding_dim))

    def reset_parameters(self) -> None:
        """Set the weight to the identity times ``scale``."""
        nn.init.eye_(self.weight)
        with torch.no_grad():
            self.weight.mul_(self.scale)
