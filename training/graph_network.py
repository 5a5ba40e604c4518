"""The search's network as ONNX Runtime runs it fastest: in few operations.

A search of one request is a thousand operations of a few microseconds; each one fewer counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from onnxscript import opset23 as op
from torch import Tensor, nn

from model_store.network.layers import Mix
from model_store.network.recommender import Recommender


class OneNodeMix(nn.Module):
    """What :class:`~model_store.network.layers.Mix` computes, as the operation ``Attention`` of ONNX's opset 23."""

    def __init__(self, mix: Mix) -> None:
        super().__init__()
        self.heads = mix.heads

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """See the class."""
        # ONNX Runtime broadcasts the first two axes of a bias, not the queries'.
        bias = bias[(None,) * (4 - bias.ndim)].expand(-1, -1, query.shape[1], -1)
        mixed, *_ = torch.onnx.ops.attention(query, keys, values, bias, q_num_heads=self.heads, kv_num_heads=self.heads)
        return mixed


def for_graph(recommender: Recommender) -> Recommender:
    """Replace the attentions in place; the weights stay where they are."""
    for module in list(recommender.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Mix):
                setattr(module, name, OneNodeMix(child))
    return recommender


def _take(array: Any, index: Any) -> Any:
    return op.Gather(array, index, axis=0)


def _floor_divide(dividend: Any, divisor: Any) -> Any:
    return op.Div(dividend, divisor)


TRANSLATIONS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.take.default: _take,
    torch.ops.aten.floor_divide.default: _floor_divide,
}
"""Operations of torch that the exporter would spell out at length. ``take`` is used on one axis only. What the search
divides is never negative: there, ONNX's division of integers, which rounds to zero, rounds down."""
