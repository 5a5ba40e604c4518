"""Exported graphs that tests share: a graph is traced once per structure, and other weights are filled into it.

Tracing a search takes the exporter most of a minute, and most tests export the same few structures with other weights.
The first export of a structure runs for real, with random weights, so that each weight can be recognised in the graph.
Whatever is filled in is compared with torch on the exporter's own example. A graph that differs, as all do that read
content, is filled before it is optimised, as retraining does (:mod:`training.export.traced_graphs`): some seconds.
With ``TRACED_GRAPHS=FOLDER`` in the environment the next session on the same code traces nothing either.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
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
from training.export.traced_graphs import TracedGraphs

Arrays = dict[str, npt.NDArray[Any]]
Example = tuple[torch.Tensor, ...]

TOLERANCE = 1e-3

PARTS = 4
"""Arguments of an export after module and example that describe it. One more is where retraining keeps its graphs: it
gets those of the tests."""

ROOT = Path(__file__).resolve().parents[2]

KEPT = "TRACED_GRAPHS"
"""Environment variable that names a folder in which traced graphs are kept from session to session."""

GRAPHS = "SHARED_GRAPHS"
"""Environment variable by which processes that tests start learn the folder."""

SOURCES = ("model_store", "training/export", "training/content")
EXPORTERS = ("torch", "onnx", "onnxscript", "onnx-ir", "numpy")
"""Code and packages that decide what a graph looks like; graphs of others are never taken."""


class SharedExports:
    """Replacement for the exporter: the same arguments give the same graph.

    Args:
        folder: Folder in which all workers of a test session keep traced graphs.
        export: The exporter, which is kept as an attribute.
    """

    def __init__(self, folder: Path, export: Callable[..., bytes]) -> None:
        self._folder = folder
        self.export = export

    def __call__(self, module: nn.Module, example: Example, *rest: Any) -> bytes:
        """Return the graph of a module with its weights."""
        rest = rest[:PARTS]
        filled = fill(*self._traced(module, example, *rest), weights_of(module))
        if agrees(filled, module, example):
            return filled

        key = hashlib.sha256(structure(module, example, rest).encode()).hexdigest()
        with FileLock(self._folder / f"{key}.tracing"):
            return self.export(
                module, example, *rest, take=partial(TracedGraphs(self._folder / f"{key}.named").take, "graph", key)
            )

    def _traced(self, module: nn.Module, example: Example, *rest: Any) -> tuple[bytes, Arrays]:
        """Return a graph of the same structure with random weights, and those weights."""
        path = self._folder / hashlib.sha256(structure(module, example, rest).encode()).hexdigest()
        weights = path.with_suffix(".safetensors")
        with FileLock(path.with_suffix(".lock")):
            if not weights.exists():
                stranger = with_random_weights(module)
                path.write_bytes(self.export(stranger, example, *rest))
                half = weights.with_suffix(".half")
                save_file(weights_of(stranger), half)
                half.replace(weights)  # a killed session leaves no half of them to the next one
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
    # Only weights are filled in: what a graph looks up in tables of whole numbers stays as it was traced.
    tables = [
        hashlib.sha256(tensor.cpu().numpy().tobytes()).hexdigest()
        for tensor in module.state_dict().values()
        if not tensor.is_floating_point()
    ]
    return repr((parts, shapes, tables, [tuple(tensor.shape) for tensor in example], rest[:3]))


def described(value: object, plain: tuple[type, ...]) -> bool:
    """Tell whether the text of an attribute says what it is: numbers, text, and settings made of them."""
    return isinstance(value, plain) or hasattr(value, "model_dump") or hasattr(value, "__dataclass_fields__")


def weights_of(module: nn.Module) -> Arrays:
    """Return all floating-point weights by name, on the CPU."""
    state = module.state_dict().items()
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in state if tensor.is_floating_point()}


def with_random_weights(module: nn.Module) -> nn.Module:
    """Return a copy whose weights are random numbers from 0.125 to 0.5, no two of which are equal."""
    stranger = copy.deepcopy(module).cpu().eval()
    tensors = [tensor for tensor in stranger.state_dict().values() if tensor.is_floating_point()]
    sizes = [tensor.numel() for tensor in tensors]
    lowest, highest = np.array([0.125, 0.5], dtype=np.float32).view(np.int32)
    bits = np.linspace(lowest, highest, sum(sizes), endpoint=False).astype(np.int32)
    values = torch.from_numpy(np.random.default_rng(0).permutation(bits).view(np.float32))
    with torch.no_grad():
        for tensor, part in zip(tensors, values.split(sizes), strict=True):
            tensor.copy_(part.view(tensor.shape))
    return stranger


def fill(graph: bytes, known: Arrays, weights: Arrays) -> bytes:
    """Return a graph in which every number that is a known weight is replaced by the new weight in its place.

    The exporter stores weights transposed, by level, and looked up in tables: each number is recognised by itself.
    """
    known = known | folded(known)
    weights = weights | folded(weights)
    old = np.concatenate([known[name].ravel() for name in known])
    new = np.concatenate([weights[name].ravel() for name in known])
    order = np.argsort(old)
    model = onnx.load_from_string(graph)

    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype != np.float32:
            continue
        place = order[np.searchsorted(old, array, sorter=order).clip(max=len(old) - 1)]
        if (old[place] == array).all():
            tensor.CopyFrom(onnx.numpy_helper.from_array(new[place], tensor.name))

    return bytes(model.SerializeToString())


def folded(weights: Arrays) -> Arrays:
    """Return what the exporter computes from weights alone, by NumPy, and stores in their place."""
    found: Arrays = {}
    for name, value in weights.items():
        if name.endswith("content_share"):
            found |= {f"root of {name}": np.sqrt(value), f"root of 1 - {name}": np.sqrt(1 - value)}
        elif name.endswith("codebooks"):
            found[f"squared lengths of {name}"] = np.square(value).sum(axis=-1)
    return found


def agrees(graph: bytes, module: nn.Module, example: Example) -> bool:
    """Tell whether ONNX Runtime computes with a graph what torch computes with the module.

    Numbers of the exporter's example are often equal, which leaves ties for either to break; random ones are not.
    """
    generator = torch.Generator().manual_seed(7)
    inputs = [torch.randn(part.shape, generator=generator) if part.is_floating_point() else part for part in example]
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    found = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})
    with torch.no_grad():
        expected = copy.deepcopy(module).cpu().eval()(*inputs)
    pairs = zip(found, expected if isinstance(expected, tuple) else (expected,), strict=True)
    return all(np.allclose(mine, theirs.numpy(), atol=TOLERANCE, equal_nan=True) for mine, theirs in pairs)


def source_key() -> str:
    """Return a key of everything but the structure that a graph follows from: our code and the exporter's versions."""
    parts = [Path(__file__).read_text(encoding="utf-8"), *(f"{name} {version(name)}" for name in EXPORTERS)]
    for folder in SOURCES:
        parts += [path.read_text(encoding="utf-8") for path in sorted((ROOT / folder).rglob("*.py"))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def graphs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of traced graphs: of this session, or of all sessions on the same code if one is named."""
    kept = os.environ.get(KEPT)
    if kept:
        return Path(kept).resolve() / source_key()
    base = tmp_path_factory.getbasetemp()
    return (base.parent if base.name.startswith("popen-") else base) / "exports"


@pytest.fixture(scope="session", autouse=True)
def shared_exports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let all tests of a session, in whichever worker, share what they trace, with the processes that they start."""
    if isinstance(onnx_export._export, SharedExports):  # the fixture of another folder has done it
        yield
        return
    folder = graphs_folder(tmp_path_factory)
    folder.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "_export", SharedExports(folder, onnx_export._export))
        patch.setenv(GRAPHS, str(folder))
        patch.setenv("PYTHONPATH", str(ROOT / "tests" / "support" / "sharing"), prepend=os.pathsep)
        yield
