"""ONNX Runtime sessions for the graphs of a bundle, with this project's errors."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from model_store.bundle.graph_check import HINT, check_graph
from model_store.errors import GraphRefused

_LOG_SEVERITY = 3
"""Log level of ONNX Runtime: errors only."""

_REFUSALS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


def open_session(
    name: str,
    graph: bytes,
    inputs: Sequence[str],
    outputs: Sequence[str],
    threads: int,
    spins: bool = False,
    optional: Collection[str] = (),
) -> ort.InferenceSession:
    """Open a graph on the CPU, after checking that nothing in it reaches outside of its bytes.

    Args:
        name: The file, for errors.
        graph: Its verified bytes, weights included.
        inputs: Names of the expected inputs, in order.
        outputs: Names of the expected outputs, in order.
        threads: Threads of one run; 0 lets ONNX Runtime take the physical cores.
        spins: Whether threads spin instead of sleep while they wait for each other during a run. Sleeping threads wake
            up so late that a small graph gains nothing from a second thread; spinning ones take cores from others.
        optional: Inputs that the graph may lack, all of them or none.

    Raises:
        BundleRefused: The graph has what no exporter writes, see :func:`~model_store.bundle.graph_check.check_graph`.
        GraphRefused: The graph cannot run here, or its inputs or outputs differ from those expected.
    """
    check_graph(name, graph)

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_SEVERITY
    options.add_session_config_entry("session.load_model_format", "ONNX")  # never ORT's own, which nothing checks
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spins else "0")
    options.add_session_config_entry("session.force_spinning_stop", "1" if spins else "0")

    # Without VNNI, products of unsigned and signed bytes overflow 16 bits on x86-64. This makes them exact there, and
    # changes nothing on other CPUs and in graphs without 8-bit products.
    options.add_session_config_entry("session.x64quantprecision", "1")

    try:
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except _REFUSALS as cause:
        raise GraphRefused(f"{name}: ONNX Runtime {ort.__version__} cannot load it", HINT) from cause

    found_inputs = [value.name for value in session.get_inputs()]
    found_outputs = [value.name for value in session.get_outputs()]
    without = [each for each in inputs if each not in optional]
    if found_inputs not in (list(inputs), without) or found_outputs != list(outputs):
        expected = f"expected {list(inputs)} and {list(outputs)}"
        raise GraphRefused(f"{name}: takes {found_inputs} and returns {found_outputs}, {expected}", HINT)
    return session
