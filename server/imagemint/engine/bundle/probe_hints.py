"""Finds hints for the probe of a graph, while the graph is checked."""

from collections.abc import Container
from dataclasses import dataclass

import onnx

# Sums whose order ONNX Runtime chooses by the shape. Of 7 numbers, a row differed between batches
# or places in one, every third time. In longer chains a difference may be too rare for 64 rows.
_REDUCTIONS = {
    *("ReduceMean", "ReduceSum", "ReduceProd", "ReduceSumSquare", "ReduceL1", "ReduceL2"),
    *("ReduceLogSum", "ReduceLogSumExp"),
}
_INTEGERS = {onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.UINT8}


@dataclass(frozen=True, slots=True)
class ProbeHints:
    """Facts about one graph."""

    floats: str | None = None
    """Name of the pixels before they are rounded; None if the graph does not round any."""
    reduces: bool = False
    """Whether it contains reductions whose sums depend on their order."""


def find_hints(graph: onnx.GraphProto) -> ProbeHints:
    """Returns the hints of a graph."""
    rounding = (node.input[0] for node in graph.node if _rounds(node))
    return ProbeHints(next(rounding, None), reduces(graph))


def reduces(graph: onnx.GraphProto) -> bool:
    """Returns whether a graph contains reductions, whose sums depend on their order.

    Sums of integers are exact, so reductions of values that are cast to integers do not count.
    """
    integers = {name for node in graph.node if _casts_to(node, _INTEGERS) for name in node.output}
    return any(node.op_type in _REDUCTIONS and node.input[0] not in integers for node in graph.node)


def add_output(content: bytes, name: str | None) -> bytes:
    """Returns a serialized model with one more output, without parsing the model.

    Serialized protobuf messages merge when they are joined: the outputs of both are one list.

    Args:
        content: the serialized model.
        name: name of a value in its graph; None returns the model unchanged.
    """
    if name is None:
        return content
    more = onnx.GraphProto(output=[onnx.ValueInfoProto(name=name)])
    return content + onnx.ModelProto(graph=more).SerializeToString()


def _rounds(node: onnx.NodeProto) -> bool:
    return node.op_type == "Round" or _casts_to(node, {onnx.TensorProto.UINT8})


def _casts_to(node: onnx.NodeProto, kinds: Container[int]) -> bool:
    return node.op_type == "Cast" and any(a.name == "to" and a.i in kinds for a in node.attribute)
