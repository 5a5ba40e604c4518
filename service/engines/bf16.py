"""Recommender network with its matrix products in bf16, on request."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model_store.config import ModelConfig
from model_store.network.recommender import Cache, Memory, Recommender


class Bf16Recommender(Recommender):
    """Recommender that multiplies matrices of the encoder's and the decoder's layers in bf16.

    The rest stays fp32: norms and softmaxes inside the layers, logits of codes and their log-softmax, users' vectors,
    dense scores. What remains is the rounding of states, 2^-9 of their size at each product, so log-probabilities are
    off by hundredths. Therefore goldens of a bundle compare answers, of which 99% must be those of fp32.
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

    def step(
        self, x: Tensor, cache: Cache, memory: Memory, history_bias: Tensor, ancestors: Tensor
    ) -> tuple[Tensor, Cache]:
        """See the base class."""
        with self._bf16():
            states, longer = super().step(x, cache, memory, history_bias, ancestors)
        return states.float(), longer

    def _bf16(self) -> torch.autocast:
        return torch.autocast(self.bos.device.type, torch.bfloat16, cache_enabled=False)
