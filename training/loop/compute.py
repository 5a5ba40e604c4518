"""Forward passes of networks in training: products in bf16 and compiled layers, both optional.

This is the one place that knows of either. It wraps a network's forward pass and nothing else. Inside, norms, softmaxes
and the residual stream stay fp32: biases and skip connections are fp32, and promote the values that they are added to.
Outputs are fp32 again, so losses, log-softmaxes, gradients of weights and optimisers never see anything else. The
tokenizer is not wrapped: codes are nearest neighbours, and its products are too small to matter.
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
"""Types of devices that have autocast."""

COMPILED: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (EncoderLayer, ("forward",)),
    (DecoderLayer, ("attend_self", "attend_history")),
)
"""Layer classes with their methods that are compiled. They launch nearly all kernels of a step, and all layers of a
class share one compilation; compiling a whole network would take minutes."""

VARIANTS = 32
"""Maximum compilations of a method (training or not, inputs with gradients, sizes of 1); above it runs uncompiled."""


class ComputeConfig(Section):
    """Precision and compilation of networks in training. Validation, evaluation and all later stages use plain fp32."""

    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="precision of products in SASRec and the recommender; bf16 is slow on CPUs without instructions",
    )
    compile: Literal["never", "gpu", "always"] = Field(
        "never",
        description="torch.compile of the layers; gpu: only when training on one with a C compiler installed, which "
        "it needs; always: on a CPU too",
    )

    def run(self, network: nn.Module, *inputs: Tensor) -> Any:
        """Run a network, and return its outputs (a tensor or a NamedTuple of tensors) in fp32."""
        device = inputs[0].device
        with compiled_layers(network) if self._compiles_on(device) else nullcontext():
            if self.precision == "fp32":
                return network(*inputs)
            with torch.autocast(device.type, torch.bfloat16):
                outputs = network(*inputs)
        return _to_fp32(outputs)

    def prepare(self, network: Network) -> Network:
        """Change a network in place to train fast on the device that it is on; weights and their names stay.

        On a GPU, torch's own dropout replaces that of our layers: it is one kernel without a stored mask, and compilers
        know it. Ours saves random numbers, which are expensive on a CPU.
        """
        device = next(network.parameters()).device
        if device.type == "cuda" or self._compiles_on(device):
            replace_dropout(network)
        return network

    def _compiles_on(self, device: torch.device) -> bool:
        return self.compile == "always" or (self.compile == "gpu" and device.type == "cuda" and has_c_compiler())


FP32 = ComputeConfig()
"""Plain computation: fp32, nothing compiled."""


@cache
def has_c_compiler() -> bool:
    """Return whether there is a C compiler, which torch.compile needs to build the launchers of its kernels."""
    return any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang"))


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Disable autocast for a ``with`` block, which then computes in the precision of its inputs."""
    return torch.autocast(device.type, enabled=False) if device.type in AUTOCAST else nullcontext()


def replace_dropout(network: nn.Module) -> None:
    """Replace the dropout of our layers by torch's own, at the same rates."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Dropout):
                setattr(module, name, nn.Dropout(child.dropped / 256))


@contextmanager
def compiled_layers(network: nn.Module, backend: str | Callable[..., Any] = "inductor") -> Iterator[None]:
    """Run a network's layers compiled inside a ``with`` block; search and export, outside of it, stay uncompiled."""
    changed = [
        (layer, method)
        for layer in network.modules()
        for kind, methods in COMPILED
        if isinstance(layer, kind)
        for method in methods
    ]

    for layer, method in changed:
        layer.__dict__[method] = partial(_compile(getattr(type(layer), method), backend), layer)
    try:
        yield
    finally:
        for layer, method in changed:
            del layer.__dict__[method]


@cache
def _compile(method: Callable[..., Tensor], backend: str | Callable[..., Any]) -> Callable[..., Tensor]:
    # Sizes are symbolic; else every length of histories would be compiled anew.
    compiler: Any = torch.compile  # its annotations lack recompile_limit
    compiled: Callable[..., Tensor] = compiler(method, dynamic=True, backend=backend, recompile_limit=VARIANTS)
    return compiled


def _to_fp32(outputs: Any) -> Any:
    if isinstance(outputs, Tensor):
        return outputs.float()
    return type(outputs)(*map(_to_fp32, outputs))
