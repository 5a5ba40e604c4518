"""The recommender's network as ONNX Runtime runs it fastest: an attention in one operation of the graph."""

from __future__ import annotations

import torch
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
