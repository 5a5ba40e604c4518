"""The search graph with weights of 8 bits: batches take two thirds of the time on a CPU, for slightly other answers.

Weights get one scale a column, activations are quantised on the way, a tensor at a time: requests that are searched
together share their scales. Only the layers of encoder and decoder are quantised, and not the encoder's first: rounding
what comes in, or the logits that tell codes apart, costs more answers than all the rest together (docs/LOG.md). A user
encoder of its own stays fp32, too, and with it the dense scores; one that the decoder shares does not.
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
_WEIGHT, _WEIGHT_ZERO_POINT = 1, 3  # inputs of MatMulInteger


def eight_bit_search(graph: bytes, recommender: Recommender) -> bytes:
    """The graph of :func:`training.export.onnx_export.export_search` with quantised weights, same inputs and outputs.

    Args:
        graph: In fp32.
        recommender: What was exported.
    """
    with tempfile.TemporaryDirectory() as folder, _quiet():
        plain, small = Path(folder) / "plain.onnx", Path(folder) / "small.onnx"
        _fold(graph, plain)
        chosen = _products(onnx.load(plain).graph, _quantised(recommender))
        if not chosen:  # for the quantiser no name means every product
            raise RuntimeError("the exported search multiplies with none of the layers' matrices")
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


def _quantised(recommender: Recommender) -> list[npt.NDArray[np.float32]]:
    """Matrices of the layers that can stand it, as the graph multiplies with them."""
    layers = [*list(recommender.encoder.layers)[1:], *recommender.decoder]
    linear = (part for layer in layers for part in layer.modules() if isinstance(part, nn.Linear))
    return [part.weight.detach().cpu().numpy().T for part in linear]


def _fold(graph: bytes, target: Path) -> None:
    """Compute what is constant, transposed weights above all: only products with constants are quantised."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = _ERRORS_ONLY
    ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _products(graph: onnx.GraphProto, matrices: Sequence[npt.NDArray[np.float32]]) -> list[str]:
    """Names of the products with one of these matrices."""
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {name for name, weight in weights.items() if any(np.array_equal(weight, each) for each in matrices)}
    return [node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] in found]


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser advises a pre-processing that the exporter has done."""
    log = logging.getLogger()
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
