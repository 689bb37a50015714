"""Finds operators that let the rows of a batch affect each other, from the graph alone."""

from collections.abc import Iterable, Iterator

import onnx

from imagemint.engine.bundle.shapes import Shapes


def split_words(text: str) -> frozenset[str]:
    """Returns the set of words in a text."""
    return frozenset(text.split())


# These operators combine all elements of a tensor, whatever its shape.
_WHOLE = split_words(
    """
    DynamicQuantizeLinear DynamicQuantizeMatMul DynamicQuantizeLSTM NonZero Unique
    """
)
_REDUCTIONS = split_words(
    """
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum ReduceSumSquare
    """
)
_ALONG_ONE_AXIS = {
    **dict.fromkeys(("ArgMax", "ArgMin"), 0),
    **dict.fromkeys(("Hardmax", "LogSoftmax", "Softmax", "LpNormalization", "TopK"), -1),
}
# These operators combine all axes from the given one on.
_FROM_AN_AXIS = {
    "LayerNormalization": -1,
    "RMSNormalization": -1,
    "InstanceNormalization": 2,
    "GroupNormalization": 1,
}


def find_mixed_rows(graph: onnx.GraphProto, few: Shapes, more: Shapes) -> Iterator[str]:
    """Yields the operator of each node that lets the rows of a batch affect each other.

    The check does not find all such operators; the probe searches for the others numerically.

    Args:
        graph: any graph.
        few: shapes for one batch size.
        more: shapes for another batch size; axes that differ are batch axes.
    """
    values = {tensor.name: tensor for tensor in graph.initializer}
    values |= {
        node.output[0]: attribute.t
        for node in graph.node
        for attribute in node.attribute
        if node.op_type == "Constant" and attribute.name == "value"
    }
    for node in graph.node:
        axes = _find_batch_axes(node.input[0], few, more) if node.input else set()
        if _mixes(node, axes, few, values):
            yield node.op_type


def _find_batch_axes(name: str, few: Shapes, more: Shapes) -> set[int]:
    """Returns the batch axes of a tensor."""
    one, other = few.get_dims(name), more.get_dims(name)
    if one is None or other is None or len(one) != len(other):
        return set()
    return {axis for axis, (a, b) in enumerate(zip(one, other, strict=True)) if a != b}


def _mixes(
    node: onnx.NodeProto, batch: set[int], shapes: Shapes, values: dict[str, onnx.TensorProto]
) -> bool:
    """Returns whether a node combines elements along the batch axes of its first input."""
    dims = shapes.get_dims(node.input[0]) if node.input else ()
    if node.op_type in _WHOLE:
        return bool(batch) or dims is None
    if node.op_type == "BatchNormalization":  # uses batch statistics in training mode
        return _read_attribute(node, "training_mode", 0) == 1 or sum(map(bool, node.output)) > 1
    if not batch or not dims:
        return False
    return not batch.isdisjoint(_find_combined_axes(node, len(dims), values))


def _find_combined_axes(
    node: onnx.NodeProto, rank: int, values: dict[str, onnx.TensorProto]
) -> Iterable[int]:
    """Returns the axes along which an operator combines elements of its first input."""
    if node.op_type in _REDUCTIONS:
        axes = _find_reduced_axes(node, values)
        return {axis % rank for axis in axes} if axes else range(rank)
    if node.op_type in _ALONG_ONE_AXIS:
        return {_read_attribute(node, "axis", _ALONG_ONE_AXIS[node.op_type]) % rank}
    if node.op_type == "CumSum":
        return {axis % rank for axis in _read_integers(values.get(node.input[1])) or [0]}
    if node.op_type in ("Gemm", "MatMul"):
        return {0 if _read_attribute(node, "transA", 0) else rank - 1}
    if node.op_type in _FROM_AN_AXIS:
        return range(_read_attribute(node, "axis", _FROM_AN_AXIS[node.op_type]) % rank, rank)
    return ()


def _read_attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _find_reduced_axes(node: onnx.NodeProto, values: dict[str, onnx.TensorProto]) -> list[int]:
    """Returns the axes of a reduction; an empty list means all axes."""
    given = [list(a.ints) for a in node.attribute if a.name == "axes"]
    if given:
        return given[0]
    if len(node.input) > 1 and node.input[1]:
        return _read_integers(values.get(node.input[1]))
    return []


def _read_integers(tensor: onnx.TensorProto | None) -> list[int]:
    if tensor is None or tensor.data_type != onnx.TensorProto.INT64:
        return []
    return [int(value) for value in onnx.numpy_helper.to_array(tensor).reshape(-1)]
