"""The search graph with 8-bit weights: faster batches on a CPU, and slightly different answers.

Batches take two thirds of the time. Weights have one scale per column. Activations are quantised while the graph runs,
with one scale per tensor, so requests that are searched together share scales. Only the layers of encoder and decoder
are quantised, without the encoder's first one: rounding the input, or the logits that distinguish codes, changes more
answers than all the rest together (docs/LOG.md). A separate user encoder stays fp32, and so do the dense scores; an
encoder that is shared with the decoder is quantised.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn

from model_store.network.recommender import Recommender

_ERRORS_ONLY = 3  # ONNX Runtime's severity for logs
_WEIGHT = 1  # place among the inputs of MatMulInteger
_WEIGHT_ZERO_POINT = 3


def eight_bit_search(graph: bytes, recommender: Recommender) -> bytes:
    """Quantise the graph of :func:`training.export.onnx_export.export_search`; inputs and outputs stay the same.

    Args:
        graph: The graph in fp32.
        recommender: The exported recommender.
    """
    with tempfile.TemporaryDirectory() as folder, _quiet():
        plain = Path(folder) / "plain.onnx"
        small = Path(folder) / "small.onnx"
        _fold_constants(graph, plain)

        chosen = _find_products(onnx.load(plain).graph, _matrices_to_quantise(recommender))
        if not chosen:  # without names the quantiser would take every product
            raise RuntimeError("the exported search has no product with a matrix of the layers")

        quantize_dynamic(
            plain,
            small,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=chosen,
        )
        return _with_own_weights(onnx.load(small)).SerializeToString()


def _with_own_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give every 8-bit product weights of its own, where the unrolled decoder steps share them.

    x86-64 CPUs without VNNI multiply unsigned by signed bytes in 16 bits, which overflow. ONNX Runtime avoids that by
    turning weights into unsigned ones while it loads a graph (:func:`model_store.bundle.onnx_session.open_session`
    asks for it), but it fails on weights that two products share. Shared or not, it packs them once per product.
    """
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    uses: dict[str, int] = {}

    for node in graph.node:
        if node.op_type != "MatMulInteger":
            continue
        for place in (_WEIGHT, _WEIGHT_ZERO_POINT):
            name = node.input[place]
            uses[name] = uses.get(name, 0) + 1
            if uses[name] > 1:
                copy = graph.initializer.add()
                copy.CopyFrom(weights[name])
                copy.name = node.input[place] = f"{name}.{uses[name]}"

    return model


def _matrices_to_quantise(recommender: Recommender) -> list[npt.NDArray[np.float32]]:
    """Return the matrices of the layers that tolerate 8 bits, transposed as in the graph."""
    layers = [*list(recommender.encoder.layers)[1:], *recommender.decoder]
    linear = (part for layer in layers for part in layer.modules() if isinstance(part, nn.Linear))
    return [part.weight.detach().cpu().numpy().T for part in linear]


def _fold_constants(graph: bytes, target: Path) -> None:
    """Write the graph with its constants computed, mainly transposed weights: the quantiser needs constant factors."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = _ERRORS_ONLY
    ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _find_products(graph: onnx.GraphProto, matrices: Sequence[npt.NDArray[np.float32]]) -> list[str]:
    """Return the names of the products with one of these matrices."""
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {name for name, weight in weights.items() if any(np.array_equal(weight, each) for each in matrices)}
    return [node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] in found]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantiser's advice to pre-process the graph, which the exporter has done."""
    log = logging.getLogger()
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
