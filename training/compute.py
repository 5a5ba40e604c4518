"""How training computes networks: with products in bf16, if that is wanted.

This is the one place that knows. It wraps a network's forward pass and nothing else: inside, norms, softmaxes and the
residual stream stay fp32 (biases and skipped values are, and promote what meets them); what comes out is fp32 again, so
losses, log-softmaxes, gradients of weights and optimisers never see anything else. The tokenizer is not wrapped: codes
are nearest neighbours, and its products are too small to matter.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypeVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from model_store.config import Section
from model_store.network.layers import Dropout

T = TypeVar("T")
Network = TypeVar("Network", bound=nn.Module)

AUTOCAST = ("cuda", "cpu")
"""Kinds of devices that have autocast."""


class ComputeConfig(Section):
    """How networks are computed while they train. Validation, evaluation and everything after are fp32."""

    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="of products in SASRec and the recommender; bf16 is fast on GPUs and slow on most CPUs"
    )

    def run(self, network: Callable[..., T], *inputs: Tensor) -> T:
        """The outputs of a network, a tensor or a NamedTuple of them, in fp32."""
        if self.precision == "fp32":
            return network(*inputs)
        with torch.autocast(inputs[0].device.type, torch.bfloat16):
            found = network(*inputs)
        return cast(T, _in_fp32(found))


FP32 = ComputeConfig()


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A ``with`` block that computes in the precision of its inputs, whatever it stands in."""
    return torch.autocast(device.type, enabled=False) if device.type in AUTOCAST else nullcontext()


def suited(network: Network) -> Network:
    """A network that is on its device, as that trains it best, in place; weights and their names stay.

    On a GPU torch's own dropout is one kernel that keeps no mask. The one of the layers saves a CPU random numbers.
    """
    if next(network.parameters()).is_cuda:
        replace_dropout(network)
    return network


def replace_dropout(network: nn.Module) -> None:
    """Put torch's own dropout, at the same rates, in the places of the layers' one."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Dropout):
                setattr(module, name, nn.Dropout(child.dropped / 256))


def _in_fp32(found: Any) -> Any:
    if isinstance(found, Tensor):
        return found.float()
    return type(found)(*map(_in_fp32, found))
