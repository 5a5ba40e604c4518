"""Graphs are opened with options under which every CPU computes the same, and refused with the cure."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from model_store.bundle.onnx_session import open_session
from model_store.errors import BundleRefused

DEPTH, WIDTH = 64, 32


def product(weights: np.ndarray) -> bytes:
    """A graph that multiplies unsigned bytes ``a [N, DEPTH]`` by signed ones."""
    arrays = {"w": weights, "a_zero": np.uint8(0), "w_zero": np.zeros(WIDTH, dtype=np.int8)}
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "w", "a_zero", "w_zero"], ["y"])],
        "product",
        [helper.make_tensor_value_info("a", onnx.TensorProto.UINT8, [None, DEPTH])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.INT32, [None, WIDTH])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


def test_products_of_8_bits_are_exact_whatever_the_cpu() -> None:
    """Pairs of these products add up to 65,000, twice what 16 signed bits hold: a CPU without VNNI would saturate."""
    rng = np.random.default_rng(0)
    weights = rng.integers(100, 128, (DEPTH, WIDTH)).astype(np.int8)
    values = rng.integers(200, 256, (16, DEPTH)).astype(np.uint8)

    session = open_session("product", product(weights), ["a"], ["y"], threads=1)
    [found] = session.run(None, {"a": values})

    np.testing.assert_array_equal(found, values.astype(np.int64) @ weights.astype(np.int64))


def test_a_graph_of_another_interface_is_refused_with_the_cure() -> None:
    graph = product(np.ones((DEPTH, WIDTH), dtype=np.int8))
    with pytest.raises(BundleRefused, match=r"product: takes \['a'\] and returns \['y'\]") as refused:
        open_session("product", graph, ["b"], ["y"], threads=1)
    assert "export and publish" in refused.value.hint


def test_bytes_that_are_no_graph_are_refused() -> None:
    with pytest.raises(BundleRefused, match="a model has a field 13 of type 6"):
        open_session("product", b"no graph", ["a"], ["y"], threads=1)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_uses_the_threads_that_were_asked_for(threads: int) -> None:
    graph = product(np.ones((DEPTH, WIDTH), dtype=np.int8))
    chosen = open_session("product", graph, ["a"], ["y"], threads).get_session_options()
    assert (chosen.intra_op_num_threads, chosen.inter_op_num_threads) == (threads, 1)


@pytest.mark.parametrize("asked", [None, False, True])
def test_threads_spin_only_when_asked_to_and_nothing_but_onnx_is_read(asked: bool | None) -> None:
    graph = product(np.ones((DEPTH, WIDTH), dtype=np.int8))
    if asked is None:
        session = open_session("product", graph, ["a"], ["y"], threads=1)
    else:
        session = open_session("product", graph, ["a"], ["y"], threads=1, spins=asked)
    chosen = session.get_session_options()
    spins = "1" if asked else "0"
    assert chosen.get_session_config_entry("session.intra_op.allow_spinning") == spins
    assert chosen.get_session_config_entry("session.force_spinning_stop") == spins
    assert chosen.get_session_config_entry("session.load_model_format") == "ONNX"
    assert chosen.log_severity_level == 3
    assert session.get_providers() == ["CPUExecutionProvider"]


def test_a_graph_may_lack_all_of_the_optional_inputs_or_none() -> None:
    graph = product(np.ones((DEPTH, WIDTH), dtype=np.int8))
    open_session("product", graph, ["a", "b", "c"], ["y"], threads=1, optional=["b", "c"])
    open_session("product", graph, ["a"], ["y"], threads=1, optional=["a"])
    for inputs, outputs, optional in (
        (["a", "b", "c"], ["y"], ["b"]),
        (["a", "b"], ["y"], []),
        (["a", "b"], ["z"], ["b"]),
        ([], ["y"], ["a"]),
    ):
        with pytest.raises(BundleRefused, match=r"product: takes \['a'\] and returns \['y'\]"):
            open_session("product", graph, inputs, outputs, threads=1, optional=optional)


def test_a_graph_that_cannot_run_here_is_refused_with_the_cure() -> None:
    model = onnx.ModelProto.FromString(product(np.ones((DEPTH, WIDTH), dtype=np.int8)))
    model.graph.node[0].input[1] = "nothing"
    with pytest.raises(BundleRefused, match="product: ") as refused:
        open_session("product", model.SerializeToString(), ["a"], ["y"], threads=1)
    assert refused.value.hint
