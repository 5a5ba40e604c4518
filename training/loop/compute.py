"""How training computes networks: with products in bf16 and with compiled layers, if that is wanted.

This is the one place that knows. It wraps a network's forward pass and nothing else: inside, norms, softmaxes and the
residual stream stay fp32 (biases and skipped values are, and promote what meets them); what comes out is fp32 again, so
losses, log-softmaxes, gradients of weights and optimisers never see anything else. The tokenizer is not wrapped: codes
are nearest neighbours, and its products are too small to matter.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from typing import Any, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from model_store.config import Section
from model_store.network.layers import DecoderLayer, Dropout, EncoderLayer

Network = TypeVar("Network", bound=nn.Module)

AUTOCAST = ("cuda", "cpu")
"""Kinds of devices that have autocast."""

COMPILED: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (EncoderLayer, ("forward",)),
    (DecoderLayer, ("attend_self", "attend_history")),
)
"""Kinds of layers and their methods that are compiled. They launch nearly all kernels of a step, and all layers of a
kind share one compilation; a whole network would be compiled for minutes."""

VARIANTS = 32
"""Most compilations of a method (training or not, which inputs have gradients, sizes of one); then it runs as it is."""


class ComputeConfig(Section):
    """How networks are computed while they train. Validation, evaluation and everything after are fp32 and plain."""

    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="of products in SASRec and the recommender; bf16 is slow on a CPU without instructions for it",
    )
    compile: Literal["never", "gpu", "always"] = Field(
        "never",
        description="torch.compile of their layers; gpu: where training is on one and there is a C compiler, which it "
        "needs; always: on a CPU too",
    )

    def run(self, network: nn.Module, *inputs: Tensor) -> Any:
        """The outputs of a network, a tensor or a NamedTuple of them, in fp32."""
        device = inputs[0].device
        with compiled_layers(network) if self._compiles_on(device) else nullcontext():
            if self.precision == "fp32":
                return network(*inputs)
            with torch.autocast(device.type, torch.bfloat16):
                found = network(*inputs)
        return _in_fp32(found)

    def suited(self, network: Network) -> Network:
        """A network that is on its device, as that trains it best, in place; weights and their names stay.

        On a GPU torch's own dropout is one kernel that keeps no mask, and a compiler knows it. The one of the layers
        saves a CPU random numbers.
        """
        device = next(network.parameters()).device
        if device.type == "cuda" or self._compiles_on(device):
            replace_dropout(network)
        return network

    def _compiles_on(self, device: torch.device) -> bool:
        return self.compile == "always" or (self.compile == "gpu" and device.type == "cuda" and has_c_compiler())


FP32 = ComputeConfig()
"""Plain."""


@cache
def has_c_compiler() -> bool:
    """Whether torch.compile can build what launches its kernels."""
    return any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang"))


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A ``with`` block that computes in the precision of its inputs, whatever it stands in."""
    return torch.autocast(device.type, enabled=False) if device.type in AUTOCAST else nullcontext()


def replace_dropout(network: nn.Module) -> None:
    """Put torch's own dropout, at the same rates, in the places of the layers' one."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Dropout):
                setattr(module, name, nn.Dropout(child.dropped / 256))


@contextmanager
def compiled_layers(network: nn.Module, backend: str | Callable[..., Any] = "inductor") -> Iterator[None]:
    """A ``with`` block in which a network's layers run compiled. Outside, in search and export, they are as always."""
    changed = [
        (layer, method)
        for layer in network.modules()
        for kind, methods in COMPILED
        if isinstance(layer, kind)
        for method in methods
    ]
    for layer, method in changed:
        layer.__dict__[method] = partial(_compiled(getattr(type(layer), method), backend), layer)
    try:
        yield
    finally:
        for layer, method in changed:
            del layer.__dict__[method]


@cache
def _compiled(method: Callable[..., Tensor], backend: str | Callable[..., Any]) -> Callable[..., Tensor]:
    # Sizes are symbols, or every length of histories would be compiled anew.
    compiler: Any = torch.compile  # whose annotations miss the limit
    made: Callable[..., Tensor] = compiler(method, dynamic=True, backend=backend, recompile_limit=VARIANTS)
    return made


def _in_fp32(found: Any) -> Any:
    if isinstance(found, Tensor):
        return found.float()
    return type(found)(*map(_in_fp32, found))
