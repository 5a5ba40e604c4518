"""Check of an ONNX graph before anything opens it: known operators only, and every weight inside the file.

ONNX Runtime reads other files if a tensor names them (external data), runs loops that need not end, and loads whatever
operators it was built with. None of this is needed here, so a graph may hold what the exporter writes and nothing else.
The check walks the bytes as protobuf does, without copying a weight and without the package ``onnx``, which the service
does not install. It is stricter than protobuf: a field that ``onnx.proto`` lacks, or of another type than there, is
refused instead of skipped, so that both always see the same graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from model_store.errors import BundleRefused

HINT = "export and publish the model again, with the release that serves it"

MAX_DEPTH = 4
"""Deepest nesting of subgraphs; the exporter writes branches of a condition inside the graph, one deep."""

MAX_NODES = 200_000
"""Most nodes of a graph with its subgraphs; a search of the paper's size has a few thousand."""

# fmt: off
EXPORTED = frozenset({
    "Add", "And", "ArgMin", "Attention", "Cast", "Clip", "Concat", "ConstantOfShape", "CumSum", "Div",
    "DynamicQuantizeLinear", "Equal", "Expand", "Gather", "GatherElements", "GatherND", "Gemm", "Greater",
    "GreaterOrEqual", "If", "Less", "LessOrEqual", "LogSoftmax", "MatMul", "MatMulInteger", "Mod", "Mul", "Not", "Pad",
    "Pow", "RMSNormalization", "Range", "ReduceL2", "ReduceMax", "ReduceMin", "ReduceSum", "Relu", "Reshape",
    "ScatterElements", "Shape", "Slice", "Squeeze", "Sub", "TopK", "Transpose", "Unsqueeze", "Where",
})
# fmt: on
"""Operators that the exporter has been seen to write, of ONNX's own domain."""

# fmt: off
RELATED = frozenset({
    "Abs", "ArgMax", "CastLike", "Ceil", "Constant", "DequantizeLinear", "Erf", "Exp", "Flatten", "Floor", "Gelu",
    "HardSwish", "Identity", "IsInf", "IsNaN", "LayerNormalization", "Log", "Max", "Mean", "Min", "Neg", "OneHot", "Or",
    "QuantizeLinear", "Reciprocal", "ReduceMean", "ReduceProd", "ReduceSumSquare", "Round", "ScatterND", "Sigmoid",
    "Sign", "Softmax", "Split", "Sqrt", "Sum", "Swish", "Tanh", "Tile", "Trilu", "Xor",
})
# fmt: on
"""Operators of the same kind, plain arithmetic, that another version of the exporter may write for the same network."""

OPERATORS = EXPORTED | RELATED
"""Allowed operators. No ``Loop`` and no ``Scan``: every graph ends. No operator of another domain, and no function."""

Message = Literal["model", "graph", "node", "attribute", "tensor", "sparse tensor"]

_VARINT = 0
_EIGHT_BYTES = 1
_LENGTH = 2
_FOUR_BYTES = 5

_NODE_OPERATOR = 4
_NODE_DOMAIN = 7
_TENSOR_EXTERNAL_DATA = 13
_TENSOR_DATA_LOCATION = 14

_WIRES: dict[Message, dict[int, tuple[int, ...]]] = {
    "model": {
        **dict.fromkeys((1, 5), (_VARINT,)),
        **dict.fromkeys((2, 3, 4, 6, 7, 8, 14), (_LENGTH,)),  # neither training_info (20) nor functions (25)
    },
    "graph": dict.fromkeys((1, 2, 5, 10, 11, 12, 13, 14, 15, 16), (_LENGTH,)),
    "node": dict.fromkeys((1, 2, 3, _NODE_OPERATOR, 5, 6, _NODE_DOMAIN, 9), (_LENGTH,)),
    "attribute": {
        2: (_FOUR_BYTES,),
        7: (_FOUR_BYTES, _LENGTH),
        8: (_VARINT, _LENGTH),
        **dict.fromkeys((3, 20), (_VARINT,)),
        **dict.fromkeys((1, 4, 5, 6, 9, 10, 11, 13, 14, 15, 21, 22, 23), (_LENGTH,)),
    },
    "tensor": {
        **dict.fromkeys((1, 5, 7, 11), (_VARINT, _LENGTH)),
        **dict.fromkeys((2, _TENSOR_DATA_LOCATION), (_VARINT,)),
        4: (_FOUR_BYTES, _LENGTH),
        10: (_EIGHT_BYTES, _LENGTH),
        **dict.fromkeys((3, 6, 8, 9, 12, _TENSOR_EXTERNAL_DATA, 16), (_LENGTH,)),
    },
    "sparse tensor": {1: (_LENGTH,), 2: (_LENGTH,), 3: (_VARINT, _LENGTH)},
}
"""Allowed wire types of each field, by number, of the messages of ``onnx.proto`` that lead to nodes and tensors.

A repeated number comes one by one, or packed with a length.
"""

_PARTS: dict[Message, dict[int, Message]] = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "tensor": {},
    "sparse tensor": {1: "tensor", 2: "tensor"},
}
"""Fields that hold one of these messages."""


class _Field(NamedTuple):
    """One field of a message: its number, wire type, and content, which is a number or a range of the bytes."""

    number: int
    wire: int
    value: int
    start: int
    end: int


def check_graph(name: str, graph: bytes) -> None:
    """Check a serialised ONNX model; takes a few milliseconds per thousand nodes, whatever the size of the weights.

    Args:
        name: The file, for errors.
        graph: Its bytes.

    Raises:
        BundleRefused: It is no ONNX model, refers to external data, has an operator outside of :data:`OPERATORS`, a
            function, or subgraphs nested deeper than :data:`MAX_DEPTH`.
    """
    _Walk(name, graph).run()


class _Walk:
    """One walk through the bytes of a model."""

    def __init__(self, name: str, data: bytes) -> None:
        self._name = name
        self._data = data
        self._nodes = 0

    def run(self) -> None:
        if not any(field.number == 7 for field in self._fields("model", 0, len(self._data))):
            raise self._refusal("holds no graph")
        self._check("model", 0, len(self._data), depth=0)

    def _check(self, kind: Message, start: int, end: int, depth: int) -> None:
        """Check a message and everything in it; ``depth`` is the number of graphs around it."""
        if depth > MAX_DEPTH:
            raise self._refusal(f"nests subgraphs deeper than {MAX_DEPTH}")

        parts = _PARTS[kind]
        operators = 0
        for field in self._fields(kind, start, end):
            part = parts.get(field.number)
            if part is not None:
                self._check(part, field.start, field.end, depth + (part == "graph"))
            elif kind == "tensor":
                self._check_inside(field)
            elif kind == "node":
                operators += self._check_operator(field)

        if kind == "node":
            self._count_node(operators)

    def _check_inside(self, field: _Field) -> None:
        """Refuse a tensor whose values are elsewhere than in this file."""
        is_elsewhere = field.number == _TENSOR_DATA_LOCATION and field.value != 0
        if is_elsewhere or field.number == _TENSOR_EXTERNAL_DATA:
            raise self._refusal("a tensor refers to external data, outside of the sealed files")

    def _check_operator(self, field: _Field) -> bool:
        """Check a field of a node; return true if it names the operator."""
        if field.number not in (_NODE_OPERATOR, _NODE_DOMAIN):
            return False

        text = self._data[field.start : field.end].decode("ascii", errors="replace")
        if field.number == _NODE_DOMAIN and text:
            raise self._refusal(f"has an operator of the domain {text[:40]!r}; only ONNX's own are allowed")
        if field.number == _NODE_OPERATOR and text not in OPERATORS:
            raise self._refusal(f"has the operator {text[:40]!r}, which no exporter of this project writes")
        return field.number == _NODE_OPERATOR

    def _count_node(self, operators: int) -> None:
        """Count a node and the times that it named its operator; protobuf would take the last name."""
        if operators != 1:
            raise self._refusal(f"a node names {operators} operators instead of one")
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._refusal(f"has more than {MAX_NODES} nodes")

    def _fields(self, kind: Message, start: int, end: int) -> Iterator[_Field]:
        """Yield the fields of a message in order."""
        wires = _WIRES[kind]
        while start < end:
            tag, at = self._varint(start, end)
            number, wire = tag >> 3, tag & 7
            if wire not in wires.get(number, ()):
                raise self._refusal(f"a {kind} has a field {number} of type {wire}, which is not allowed in one")

            value = 0
            if wire == _VARINT:
                value, after = self._varint(at, end)
            elif wire == _LENGTH:
                length, at = self._varint(at, end)
                after = at + length
            else:
                after = at + (8 if wire == _EIGHT_BYTES else 4)

            if after > end:
                raise self._refusal(f"a {kind} ends in the middle of field {number}")
            yield _Field(number, wire, value, at, after)
            start = after

    def _varint(self, start: int, end: int) -> tuple[int, int]:
        """Return the number that begins here, and the place behind it."""
        value = 0
        for place in range(10):
            at = start + place
            if at >= end:
                raise self._refusal("is no ONNX model: it ends in the middle of a number")
            byte = self._data[at]
            value |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                return value, at + 1
        raise self._refusal("is no ONNX model: a number has more than ten bytes")

    def _refusal(self, problem: str) -> BundleRefused:
        return BundleRefused(f"{self._name}: {problem}", HINT)
