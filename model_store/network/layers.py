"""Building blocks of T5 (Raffel et al. 2020): RMS norm, attention with relative position biases, feed-forward.

Shapes: B rows, Q queries, S keys, H heads, D head width, d model width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

NEGATIVE = -1e9
"""Number added to masked scores; finite, so that a row without any key stays free of NaN."""


class Dropout(nn.Module):
    """Dropout whose mask costs one random byte a value; on a CPU, drawing floats would take longer than the layers.

    The rate is rounded to 256ths, and values are scaled by the rounded rate, so that expectations are exact.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.dropped = round(rate * 256)

    def forward(self, x: Tensor) -> Tensor:
        """Zero values at random while training; return the input otherwise."""
        if not self.training or not self.dropped:
            return x
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= self.dropped
        return x * kept.to(x.dtype).mul_(256 / (256 - self.dropped))


class RmsNorm(nn.Module):
    """Root-mean-square norm with a learned gain and no bias."""

    def __init__(self, width: int, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return functional.rms_norm(x.float(), self.weight.shape, self.weight, self.epsilon)


class Mix(nn.Module):
    """Softmax attention of queries over keys, heads side by side in the last axis; no weights of its own.

    It is a module of its own so that an inference engine can replace it by its own operation.
    """

    def __init__(self, heads: int, head_dim: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = head_dim
        self.dropout = Dropout(dropout)

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Return the values mixed by attention weights.

        Args:
            query: ``[B, Q, H·D]``.
            keys: ``[B, S, H·D]``.
            values: ``[B, S, H·D]``.
            bias: Added to the scores, broadcastable to ``[B, H, Q, S]``; holds positions and masks.

        Returns:
            ``[B, Q, H·D]``.
        """
        scores = self._split(query / math.sqrt(self.head_dim)) @ self._split(keys).transpose(-1, -2)
        weights = self.dropout(torch.softmax(scores + bias, dim=-1))
        mixed = (weights @ self._split(values)).transpose(1, 2)
        return mixed.reshape(query.shape)

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, self.head_dim).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head attention without bias terms; keys and values are projected apart, so that callers can cache them."""

    def __init__(self, d_model: int, heads: int, head_dim: int, dropout: float) -> None:
        super().__init__()
        inner = heads * head_dim
        self.query = nn.Linear(d_model, inner, bias=False)
        self.key = nn.Linear(d_model, inner, bias=False)
        self.value = nn.Linear(d_model, inner, bias=False)
        self.out = nn.Linear(inner, d_model, bias=False)
        self.mix = Mix(heads, head_dim, dropout)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Project ``[B, S, d]`` to keys and values ``[B, S, H·D]``."""
        return self.key(x), self.value(x)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Attend from ``[B, Q, d]``, queries before projection; the other arguments are those of :class:`Mix`."""
        attended: Tensor = self.out(self.mix(self.query(x), keys, values, bias))
        return attended


class FeedForward(nn.Module):
    """Two linear maps with a ReLU between, no bias, no gate."""

    def __init__(self, d_model: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Linear(d_model, d_ff, bias=False)
        self.contract = nn.Linear(d_ff, d_model, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[…, d]`` to ``[…, d]``."""
        return self.contract(self.dropout(functional.relu(self.expand(x))))


class RelativeBias(nn.Module):
    """Learned bias per head and bucketed distance: half the buckets exact, the rest logarithmic up to a maximum."""

    def __init__(self, buckets: int, max_distance: int, heads: int, bidirectional: bool) -> None:
        super().__init__()
        self.buckets = buckets
        self.max_distance = max_distance
        self.bidirectional = bidirectional
        self.weight = nn.Parameter(torch.zeros(buckets, heads))

    def forward(self, distance: Tensor) -> Tensor:
        """Return the bias ``[…, H]`` for integer distances ``[…]`` (query position minus key position)."""
        far = self.max_distance  # all larger distances share its bucket
        by_distance = self.weight[self.bucket(torch.arange(-far, far + 1, device=distance.device))]
        return functional.embedding(distance.clamp(-far, far) + far, by_distance)

    def bucket(self, distance: Tensor) -> Tensor:
        """Return the bucket of each distance; unless bidirectional, distances below zero share bucket 0 with zero."""
        count = self.buckets // 2 if self.bidirectional else self.buckets
        sign = (distance < 0).long() * count if self.bidirectional else torch.zeros_like(distance)
        size = distance.abs() if self.bidirectional else distance.clamp(min=0)
        exact = count // 2
        ratio = torch.log(size.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        far = (exact + (ratio * (count - exact)).long()).clamp(max=count - 1)
        return sign + torch.where(size < exact, size, far)


class LowPass(nn.Module):
    """Fixed low-pass filter over tokens: the lowest frequencies of a window, none of them learned.

    A window of :data:`WINDOW` tokens keeps its :data:`FREQUENCIES` lowest frequencies, the mean among them. At the
    newest token that is a weighted sum of the window, and so it is computed at every token. The idea is that of Shin et
    al., "An Attentive Inductive Bias for Sequential Recommendation beyond the Self-Attention", AAAI 2024, whose filter
    sees the whole sequence, and gives back a learned part of the high frequencies.
    """

    WINDOW = 50
    FREQUENCIES = 5

    def __init__(self) -> None:
        super().__init__()
        turn = 2 * math.pi / self.WINDOW * torch.arange(self.WINDOW)
        waves = torch.stack([torch.cos(frequency * turn) for frequency in range(1, self.FREQUENCIES)])
        beyond = torch.zeros(1)
        self.weight: Tensor
        weight = torch.cat([(1 + 2 * waves.sum(dim=0)) / self.WINDOW, beyond])
        self.register_buffer("weight", weight, persistent=False)  # [WINDOW + 1], by distance

    def forward(self, distance: Tensor) -> Tensor:
        """Return the weights ``[…]`` of tokens at integer distances ``[…]``, in either direction."""
        return functional.embedding(distance.abs().clamp(max=self.WINDOW), self.weight[:, None]).squeeze(-1)


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and feed-forward; beside attention a low-pass filter may have a share of the mixing.

    Args:
        d_model: d.
        d_ff: Width of the feed-forward block.
        heads: H.
        head_dim: D.
        dropout: Rate.
        low_pass: Share of the filter, 0 … 1; attention has the rest.
    """

    def __init__(
        self, d_model: int, d_ff: int, heads: int, head_dim: int, dropout: float, low_pass: float = 0.0
    ) -> None:
        super().__init__()
        self.low_pass = low_pass
        self.attention_norm = RmsNorm(d_model)
        self.attention = Attention(d_model, heads, head_dim, dropout)
        self.feed_forward_norm = RmsNorm(d_model)
        self.feed_forward = FeedForward(d_model, d_ff, dropout)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor, smoothing: Tensor | None = None) -> Tensor:
        """Map ``[B, S, d]`` to the same shape.

        Args:
            x: ``[B, S, d]``.
            bias: Broadcasts to ``[B, H, S, S]``.
            smoothing: Weights of the filter, broadcast to ``[B, S, S]``; needed if it has a share.
        """
        normed = self.attention_norm(x)
        mixed = self.attention(normed, *self.attention.keys_values(normed), bias)
        if smoothing is not None:
            mixed = self.low_pass * (smoothing @ normed) + (1 - self.low_pass) * mixed
        x = x + self.dropout(mixed)
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class DecoderLayer(nn.Module):
    """Pre-norm self-attention, cross-attention and feed-forward; keys and values come from the caller."""

    def __init__(self, d_model: int, d_ff: int, heads: int, head_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_norm = RmsNorm(d_model)
        self.self_attention = Attention(d_model, heads, head_dim, dropout)
        self.cross_norm = RmsNorm(d_model)
        self.cross_attention = Attention(d_model, heads, head_dim, dropout)
        self.feed_forward_norm = RmsNorm(d_model)
        self.feed_forward = FeedForward(d_model, d_ff, dropout)
        self.dropout = Dropout(dropout)

    def attend_self(self, x: Tensor, normed: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Residual self-attention from ``[N, Q, d]`` over cached keys and values ``[N, S, H·D]``."""
        return x + self.dropout(self.self_attention(normed, keys, values, bias))

    def attend_history(self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Residual cross-attention from ``[B, Q, d]``, then the feed-forward."""
        x = x + self.dropout(self.cross_attention(self.cross_norm(x), keys, values, bias))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
