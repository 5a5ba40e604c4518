"""Graphs hold what the exporter writes and nothing else; whatever opens a graph checks that first."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from model_store.bundle.graph_check import MAX_DEPTH, OPERATORS, check_graph
from model_store.bundle.onnx_session import open_session
from model_store.errors import BundleRefused
from tests.support.graphs import FLOAT, model_of

ROOT = Path(__file__).parents[3]


def adder() -> onnx.ModelProto:
    """A model that adds its weight to its input."""
    return model_of([helper.make_node("Add", ["x", "w"], ["y"])], {"w": np.float32(2)})


def external(tensor: onnx.TensorProto, **where: str) -> None:
    """Move the values of a tensor to another file."""
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in where.items():
        tensor.external_data.add(key=key, value=value)


def with_external_weight() -> onnx.ModelProto:
    model = adder()
    external(model.graph.initializer[0], location="weights.bin")
    return model


def with_entries_only() -> onnx.ModelProto:
    model = adder()
    model.graph.initializer[0].external_data.add(key="location", value="weights.bin")
    return model


def with_external_constant() -> onnx.ModelProto:
    value = numpy_helper.from_array(np.float32(2), "w")
    external(value, location="/etc/hostname")
    return model_of([helper.make_node("Constant", [], ["w"], value=value), helper.make_node("Add", ["x", "w"], ["y"])])


def with_external_sparse() -> onnx.ModelProto:
    model = adder()
    sparse = model.graph.sparse_initializer.add()
    external(sparse.values, location="weights.bin")
    return model


def branch(*nodes: onnx.NodeProto, tensors: list[onnx.TensorProto] | None = None) -> onnx.GraphProto:
    return helper.make_graph(nodes, "branch", [], [helper.make_tensor_value_info("z", FLOAT, None)], tensors or [])


def conditional(then: onnx.GraphProto) -> onnx.ModelProto:
    otherwise = branch(helper.make_node("Identity", ["x"], ["z"]))
    choice = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=otherwise)
    return model_of([choice], {"c": np.bool_(True)})


def with_external_branch() -> onnx.ModelProto:
    value = numpy_helper.from_array(np.float32(2), "w")
    external(value, location="weights.bin")
    return conditional(branch(helper.make_node("Add", ["x", "w"], ["z"]), tensors=[value]))


def looping(kind: str) -> onnx.ModelProto:
    body = helper.make_graph([], "body", [], [])
    return model_of([helper.make_node(kind, ["", "c", "x"], ["y"], body=body)], {"c": np.bool_(True)})


def with_hidden_loop() -> onnx.ModelProto:
    return conditional(branch(helper.make_node("Loop", ["", "", "x"], ["z"], body=helper.make_graph([], "b", [], []))))


def of_domain(domain: str) -> onnx.ModelProto:
    return model_of([helper.make_node("Add", ["x", "x"], ["y"], domain=domain)])


def with_function() -> onnx.ModelProto:
    model = adder()
    twice = helper.make_node("F", ["x"], ["y"], domain="own")
    model.functions.append(
        helper.make_function("own", "F", ["x"], ["y"], [twice], [helper.make_opsetid("own", 1)])  # calls itself
    )
    return model


def with_training() -> onnx.ModelProto:
    model = adder()
    model.training_info.add().algorithm.node.append(helper.make_node("Loop", [], ["y"]))
    return model


def nested(depth: int) -> onnx.ModelProto:
    graph = branch(helper.make_node("Identity", ["x"], ["z"]))
    for _ in range(depth - 1):
        inner = helper.make_node("If", ["c"], ["z"], then_branch=graph, else_branch=branch())
        graph = branch(inner)
    return conditional(graph)


REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "a weight in another file": (with_external_weight, "external data"),
    "external data without a location flag": (with_entries_only, "external data"),
    "a constant in another file": (with_external_constant, "external data"),
    "a sparse weight in another file": (with_external_sparse, "external data"),
    "a weight of a branch in another file": (with_external_branch, "external data"),
    "an endless loop": (lambda: looping("Loop"), "has the operator 'Loop'"),
    "a scan": (lambda: looping("Scan"), "has the operator 'Scan'"),
    "a loop in a branch": (with_hidden_loop, "has the operator 'Loop'"),
    "an operator that reads files": (lambda: of_domain("com.microsoft"), "has an operator of the domain 'com.microsof"),
    "an operator of nobody": (lambda: of_domain("evil"), "has an operator of the domain 'evil'"),
    "a function that calls itself": (with_function, "a model has a field 25"),
    "graphs of training": (with_training, "a model has a field 20"),
    "deep nesting": (lambda: nested(MAX_DEPTH), f"nests subgraphs deeper than {MAX_DEPTH}"),
}


@pytest.mark.parametrize(("make", "problem"), REFUSED.values(), ids=REFUSED.keys())
def test_what_no_exporter_writes_is_refused(make: Callable[[], onnx.ModelProto], problem: str) -> None:
    with pytest.raises(BundleRefused, match=re.escape(problem)) as refused:
        open_session("search.onnx", make().SerializeToString(), ["x"], ["y"], threads=1)
    assert str(refused.value).startswith("search.onnx: ")
    assert refused.value.hint


def test_a_file_beside_the_service_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime itself opens such a graph: the path is relative to the working directory of the process."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(np.full(64, 40, np.float32).tobytes())
    model = model_of([helper.make_node("Gather", ["w", "x"], ["y"])], {"w": np.zeros(64, np.float32)})
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    external(model.graph.initializer[0], location="weights.bin")
    graph = model.SerializeToString()
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.array([3])})[0].tolist() == [40]
    with pytest.raises(BundleRefused, match="external data"):
        open_session("search.onnx", graph, ["x"], ["y"], threads=1)


@pytest.mark.parametrize("make", [adder, lambda: nested(MAX_DEPTH - 1)])
def test_what_the_exporter_may_write_is_opened(make: Callable[[], onnx.ModelProto]) -> None:
    graph = make().SerializeToString()
    check_graph("search.onnx", graph)
    assert "Loop" not in OPERATORS


def varint(number: int) -> bytes:
    return bytes([number & 0x7F | 0x80]) + varint(number >> 7) if number > 0x7F else bytes([number])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def test_a_second_name_of_an_operator_does_not_hide_the_first() -> None:
    """Of a field that comes twice, protobuf keeps the last."""
    node = field(1, b"x") + field(2, b"y") + field(4, b"Add") + field(4, b"Relu")
    with pytest.raises(BundleRefused, match="a node names 2 operators"):
        check_graph("search.onnx", field(7, field(1, node)))
    with pytest.raises(BundleRefused, match="a node names 0 operators"):
        check_graph("search.onnx", field(7, field(1, field(1, b"x"))))


def test_parts_of_a_graph_that_comes_twice_are_all_checked() -> None:
    """Protobuf merges the parts of a message that comes twice."""
    loop = field(7, field(1, field(4, b"Loop")))
    with pytest.raises(BundleRefused, match="Loop"):
        check_graph("search.onnx", loop + adder().SerializeToString())


BROKEN = {
    "nothing": (b"", "holds no graph"),
    "no graph": (field(2, b"pytorch"), "holds no graph"),
    "a text": (b"no graph", "a model has a field 13 of type 6"),
    "a group": (b"\x3b\x3c", "a model has a field 7 of type 3"),
    "the end is missing": (field(7, b"12345")[:-1], "a model ends in the middle of field 7"),
    "a length without end": (b"\x3a" + b"\xff" * 20, "more than ten bytes"),
    "a number without end": (b"\x08\xff", "ends in the middle of a number"),
    "a field of another type": (field(1, b"1"), "a model has a field 1 of type 2"),
    "an unknown field": (field(99, b"1"), "a model has a field 99 of type 2"),
}


@pytest.mark.parametrize(("data", "problem"), BROKEN.values(), ids=BROKEN.keys())
def test_bytes_that_are_no_graph_are_refused(data: bytes, problem: str) -> None:
    with pytest.raises(BundleRefused, match=re.escape(problem)):
        check_graph("search.onnx", data)


def test_any_damage_is_refused_or_leaves_a_graph_that_is_allowed() -> None:
    """Truncated and flipped at every place: never another exception, never an operator that is not allowed."""
    whole = with_hidden_loop().SerializeToString().replace(b"Loop", b"Relu")
    check_graph("search.onnx", whole)
    passed = 0
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :]):
            try:
                check_graph("search.onnx", damaged)
            except BundleRefused:
                continue
            passed += 1
            assert b"Loop" not in damaged
    assert passed < len(whole)


def test_the_format_of_onnx_runtime_is_not_read() -> None:
    """A model may look like protobuf to us and, by four bytes in a comment, like ONNX Runtime's own format to it."""
    model = adder()
    both = field(2, b"..ORTM" + b"." * 8) + model.SerializeToString()
    assert both[4:8] == b"ORTM"
    with pytest.raises(Exception, match="ORT model verification failed"):
        ort.InferenceSession(both, providers=["CPUExecutionProvider"])
    session = open_session("search.onnx", both, ["x"], ["y"], threads=1)
    assert session.run(None, {"x": np.ones(1, np.float32)})[0].tolist() == [3]


def test_nothing_else_opens_graphs() -> None:
    opening = re.compile(r"\b(InferenceSession\(|onnx\.load)")
    files = [*(ROOT / "service").rglob("*.py"), *(ROOT / "model_store").rglob("*.py")]
    assert [path.name for path in files if opening.search(path.read_text())] == ["onnx_session.py"]
