"""Exports that tests share: a graph is traced once per structure, and other weights are filled into it.

Tracing a search takes the exporter most of a minute, and most tests export the same few structures with other weights.
The first export of a structure runs for real, with random weights, so that each weight can be recognised in the graph.
Whatever is filled in is compared with torch on the exporter's own example; a graph that differs is exported for real.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from filelock import FileLock
from safetensors.numpy import load_file, save_file
from torch import nn

from training.export import onnx_export

Arrays = dict[str, npt.NDArray[Any]]
Example = tuple[torch.Tensor, ...]

TOLERANCE = 1e-3


class SharedExports:
    """Stands in for the exporter: the same arguments, the same graph.

    Args:
        folder: Where all workers of a test session keep the graphs that they traced.
        export: The exporter.
    """

    def __init__(self, folder: Path, export: Callable[..., bytes]) -> None:
        self._folder = folder
        self._export = export

    def __call__(self, module: nn.Module, example: Example, *rest: Any) -> bytes:
        """Return the graph of a module with its weights."""
        filled = fill(*self._traced(module, example, *rest), weights_of(module))
        if agrees(filled, module, example):
            return filled
        return self._export(module, example, *rest)

    def _traced(self, module: nn.Module, example: Example, *rest: Any) -> tuple[bytes, Arrays]:
        """Return a graph of the same structure with random weights, and those weights."""
        path = self._folder / hashlib.sha256(structure(module, example, rest).encode()).hexdigest()
        weights = path.with_suffix(".safetensors")
        with FileLock(path.with_suffix(".lock")):
            if not weights.exists():
                stranger = with_random_weights(module)
                path.write_bytes(self._export(stranger, example, *rest))
                save_file(weights_of(stranger), weights)
        return path.read_bytes(), load_file(weights)


def structure(module: nn.Module, example: Example, rest: tuple[Any, ...]) -> str:
    """Describe everything but weights that a graph follows from."""
    plain = (int, float, bool, str, tuple, type(None))
    parts = [
        (
            name,
            type(part).__name__,
            sorted((key, repr(value)) for key, value in vars(part).items() if described(value, plain)),
        )
        for name, part in module.named_modules()
    ]
    shapes = [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in module.state_dict().items()]
    return repr((parts, shapes, [tuple(tensor.shape) for tensor in example], rest[:3]))


def described(value: object, plain: tuple[type, ...]) -> bool:
    """Tell whether the text of an attribute says what it is: numbers, text, and settings made of them."""
    return isinstance(value, plain) or hasattr(value, "model_dump") or hasattr(value, "__dataclass_fields__")


def weights_of(module: nn.Module) -> Arrays:
    """Return all floating-point weights by name, on the CPU."""
    state = module.state_dict().items()
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in state if tensor.is_floating_point()}


def with_random_weights(module: nn.Module) -> nn.Module:
    """Return a copy whose weights are all different, so that each can be recognised."""
    stranger = copy.deepcopy(module).cpu().eval()
    generator = torch.Generator().manual_seed(20260)
    with torch.no_grad():
        for tensor in stranger.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(0.1 + 0.2 * torch.rand(tensor.shape, generator=generator))
    return stranger


def variants(weight: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Yield the forms in which the exporter stores a weight: whole, by level, and each of them transposed."""
    for part in (weight, *(weight if weight.ndim > 1 else ())):
        yield part
        if part.ndim > 1:
            yield np.swapaxes(part, -1, -2)


def fill(graph: bytes, known: Arrays, weights: Arrays) -> bytes:
    """Return a graph in which every known weight is replaced by the one of the same name."""
    replacement = {
        (old.shape, old.tobytes()): new
        for name in known
        for old, new in zip(variants(known[name]), variants(weights[name]), strict=True)
    }
    model = onnx.load_from_string(graph)
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        found = replacement.get((array.shape, array.tobytes()))
        if found is not None:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(found), tensor.name))
    return bytes(model.SerializeToString())


def agrees(graph: bytes, module: nn.Module, example: Example) -> bool:
    """Tell whether ONNX Runtime computes with a graph what torch computes with the module."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    found = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, example, strict=True)})
    with torch.no_grad():
        expected = copy.deepcopy(module).cpu().eval()(*example)
    pairs = zip(found, expected if isinstance(expected, tuple) else (expected,), strict=True)
    return all(np.allclose(mine, theirs.numpy(), atol=TOLERANCE, equal_nan=True) for mine, theirs in pairs)


@pytest.fixture(scope="session", autouse=True)
def shared_exports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let all tests of a session, in whichever worker, share what they trace."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if base.name.startswith("popen-") else base) / "exports"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "_export", SharedExports(folder, onnx_export._export))
        yield
