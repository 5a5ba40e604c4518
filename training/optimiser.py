"""Stepping one network, and only that one: AdamW, warm-up, cosine, clipping."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from model_store.network.recommender import Recommender


class Optimiser:
    """AdamW for one network over a known number of steps: warm-up, cosine, gradient clipping."""

    def __init__(self, optimizer: torch.optim.Optimizer, steps: int, warmup: float, clip: float) -> None:
        self.optimizer, self.clip = optimizer, clip
        self.parameters: list[nn.Parameter] = [p for group in optimizer.param_groups for p in group["params"]]
        rising = max(1, round(steps * warmup))

        def factor(step: int) -> float:
            if step < rising:
                return (step + 1) / rising
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1, steps - rising))))

        self.schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    def step(self, loss: Tensor) -> None:
        """Update this network's parameters, and no others, down the gradient of ``loss``."""
        loss.backward(inputs=self.parameters)
        nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)


def recommender_optimizer(recommender: Recommender, rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW that decays matrices, not the gains of norms."""
    matrices = [p for p in recommender.parameters() if p.ndim >= 2]
    gains = [p for p in recommender.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": gains, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, fused=True)
