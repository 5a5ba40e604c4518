"""Exported graphs that tests share: a graph is traced once per structure, and other weights are filled into it.

Tracing a search takes the exporter most of a minute, and most tests export the same few structures with other weights.
They are filled in as retraining does (:mod:`training.export.traced_graphs`), from a folder for each structure.
With ``TRACED_GRAPHS=FOLDER`` in the environment the next session on the same code traces nothing either.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pytest
import torch
from filelock import FileLock
from torch import nn

from training.export import onnx_export
from training.export.traced_graphs import TracedGraphs

Arrays = dict[str, npt.NDArray[Any]]
Example = tuple[torch.Tensor, ...]

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
        key = hashlib.sha256(structure(module, example, rest).encode()).hexdigest()
        kept = TracedGraphs(self._folder / key)
        with FileLock(self._folder / f"{key}.lock"):
            return self.export(module, example, *rest, partial(kept.take, "graph", key))


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
