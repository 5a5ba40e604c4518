"""Hand-made ONNX graphs that attackers would like somebody to open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from model_store.config import ModelConfig
from model_store.search.interface import SearchOutputs, graph_input_names
from tests.support.bundles import NOON, bundle_files, description

FLOAT = onnx.TensorProto.FLOAT


def model_of(
    nodes: Sequence[onnx.NodeProto],
    arrays: Mapping[str, Any] | None = None,
    inputs: Sequence[str] = ("x",),
    outputs: Sequence[str] = ("y",),
) -> onnx.ModelProto:
    """Return a model of float tensors whose shapes are unknown."""
    graph = helper.make_graph(
        list(nodes),
        "handmade",
        [helper.make_tensor_value_info(name, FLOAT, None) for name in inputs],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (arrays or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def search_of(config: ModelConfig, nodes: Sequence[onnx.NodeProto], arrays: Mapping[str, Any]) -> bytes:
    """Return a graph with the interface of ``search.onnx``, all of whose outputs are the tensor ``last``."""
    outputs = SearchOutputs._fields
    copies = [helper.make_node("Identity", ["last"], [name]) for name in outputs]
    model = model_of([*nodes, *copies], arrays, graph_input_names(config.code_length), outputs)
    return bytes(model.SerializeToString())


def slow_search(config: ModelConfig) -> bytes:
    """Return a search of allowed operators that multiplies matrices for hours, and before anybody asks it."""
    start = [helper.make_node("ConstantOfShape", ["shape"], ["at_0"])]
    products = [helper.make_node("MatMul", [f"at_{n}", f"at_{n}"], [f"at_{n + 1}"]) for n in range(10_000)]
    end = [helper.make_node("Identity", ["at_10000"], ["last"])]
    return search_of(config, [*start, *products, *end], {"shape": np.array([3000, 3000])})


def large_search(config: ModelConfig, gigabytes: int) -> bytes:
    """Return a search of allowed operators, a few hundred bytes long, that takes so much memory."""
    shape = {"shape": np.array([gigabytes, 2**28]), "one": np.float32(1)}
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("Add", ["zeros", "one"], ["ones"]),
        helper.make_node("ReduceSum", ["ones"], ["last"], keepdims=0),
    ]
    return search_of(config, nodes, shape)


def publish_search(folder: Path, search: bytes) -> str:
    """Publish the small bundle with another search."""
    files = bundle_files(30) | {"search.onnx": search}
    return publish(ModelStore(folder), files, description(), NOON.replace(minute=30))
