"""The recommender's network as a GPU runs it fastest: norms in one kernel, and on request products in bf16."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.config import ModelConfig
from model_store.network.layers import RmsNorm
from model_store.network.recommender import Cache, Memory, Recommender


class OneKernelNorm(nn.Module):
    """What :class:`~model_store.network.layers.RmsNorm` computes, in fp32, by torch's own operation."""

    def __init__(self, norm: RmsNorm) -> None:
        super().__init__()
        self.weight, self.epsilon = norm.weight, norm.epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return functional.rms_norm(x.float(), self.weight.shape, self.weight, self.epsilon)


class Bf16Recommender(Recommender):
    """Multiplies matrices of the encoder's and the decoder's layers in bf16.

    The rest stays fp32: norms and softmaxes inside the layers, logits of codes and their log-softmax, users' vectors,
    dense scores. What is left is the rounding of states, 2^-9 of their size at each product: log-probabilities are off
    by hundredths. Goldens of a bundle therefore compare answers, of which 99% must be those of fp32.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        for part in (self.encoder, self.user_encoder, self.decoder):
            for module in part.modules() if part is not None else ():
                if isinstance(module, nn.Linear):
                    module.to(torch.bfloat16)  # else every search would convert the weights anew

    def encode(self, codes: Tensor, vectors: Tensor, lengths: Tensor) -> Memory:
        """See the base class."""
        with self._bf16():
            return super().encode(codes, vectors, lengths)

    def step(self, x: Tensor, cache: Cache, memory: Memory, history_bias: Tensor) -> tuple[Tensor, Cache]:
        """See the base class."""
        with self._bf16():
            states, longer = super().step(x, cache, memory, history_bias)
        return states.float(), longer

    def _bf16(self) -> torch.autocast:
        return torch.autocast(self.bos.device.type, torch.bfloat16, cache_enabled=False)


def with_fast_norms(recommender: Recommender) -> Recommender:
    """Replace the norms in place; the weights stay where they are."""
    for module in list(recommender.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, RmsNorm):
                setattr(module, name, OneKernelNorm(child))
    return recommender
