"""Traced graphs that are kept: another training of the same structure fills its weights in and traces nothing.

Tracing takes half a minute of a core whatever the size of the model, and optimising the graph some seconds, more than a
night's training of a small shop. Neither depends on the weights: a traced graph has them as inputs, by the names that
torch gives them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path

import onnx
import onnx_ir
from torch import nn

import model_store
import training.content
import training.export
from model_store.durable_files import write_durably

EXPORTERS = ("torch", "onnx", "onnxscript", "onnx-ir", "numpy")
"""Packages that decide what a traced graph looks like."""

SOURCES = (model_store, training.content, training.export)
"""Code that does."""


class TracedGraphs:
    """Folder that keeps the newest traced graph of each kind.

    Args:
        folder: The folder, which is made when there is something to keep. One process at a time writes to it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def take(self, kind: str, structure: str, module: nn.Module, trace: Callable[[], bytes]) -> bytes:
        """Return the traced graph of a module, whose weights are inputs.

        Args:
            kind: Name of what is exported, such as ``search``; of each the newest graph is kept.
            structure: Everything but the weights, their shapes and the code that the graph follows from.
            module: What the graph computes.
            trace: Traces the module; called if no graph of this structure and code is kept.
        """
        shapes = [(name, tuple(weight.shape)) for name, weight in module.state_dict().items()]
        key = hashlib.sha256(f"{_code_key()} {structure} {shapes}".encode()).hexdigest()
        path = self.folder / f"{kind}-{key}.onnx"
        if path.exists():
            return path.read_bytes()

        graph = trace()
        self.folder.mkdir(parents=True, exist_ok=True)
        for stale in self.folder.glob(f"{kind}-*.onnx"):
            stale.unlink()
        write_durably(path, graph)
        return graph


def leave_weights_open(model: onnx_ir.Model, module: nn.Module) -> None:
    """Turn the weights of a module, buffers included, into inputs of its graph."""
    graph = model.graph
    for name in module.state_dict():
        if name in graph.initializers:  # the others take no part
            weight = graph.initializers.pop(name)
            weight.const_value = None
            graph.inputs.append(weight)


def fill_weights(graph: bytes, module: nn.Module) -> bytes:
    """Return a traced graph with the weights of a module of the same structure in place of its last inputs.

    Raises:
        ValueError: A weight of the graph has another shape in the module.
    """
    model = onnx.load_from_string(graph)
    inputs = list(model.graph.input)
    model.graph.ClearField("input")
    weights = module.state_dict()
    for value in inputs:
        if value.name not in weights:
            model.graph.input.append(value)
            continue
        weight = weights[value.name].detach().cpu()
        shape = tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
        if shape != tuple(weight.shape):
            raise ValueError(f"{value.name} is {shape} in the graph, {tuple(weight.shape)} in the module")
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight.numpy(), value.name))
    return bytes(model.SerializeToString())


@cache
def _code_key() -> str:
    """Return a key of the code and the packages that traced graphs follow from."""
    parts = [f"{name} {version(name)}" for name in EXPORTERS]
    for package in SOURCES:
        folder = Path(str(package.__file__)).parent
        parts += [path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py"))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
