"""Cleans up an exported graph: folds nodes that PyTorch's exporter keeps, and strips metadata."""

import math
import re
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import Message
from onnx import numpy_helper

PRODUCER = "imagemint"
BATCH_AXIS = "N"
_AXES = (BATCH_AXIS, "H", "W")
_VARIABLE = re.compile(r"[A-Za-z_]\w*")


def fold_batch_norm(model: onnx.ModelProto) -> None:
    """Folds each BatchNormalization that follows a Gemm, through a Reshape, into that Gemm.

    The dynamo exporter folds those that follow a convolution, but not one that follows a projection
    that is reshaped to [N, C, H, W], as in DCGAN. There, channel c has H W rows of the weights. The
    fold is computed in float64 and rounded once. A BatchNormalization that follows neither stays:
    it is a single affine node. So does one of another type than float32, and one after a Reshape
    that moves a part of a row to another row of the batch.
    """
    graph = model.graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    users = _count_users(graph)
    producers = {output: node for node in graph.node for output in node.output}
    for norm in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        reshape = producers.get(norm.input[0])
        gemm = producers.get(reshape.input[0]) if reshape is not None else None
        if reshape is None or gemm is None:
            continue
        if (reshape.op_type, gemm.op_type) != ("Reshape", "Gemm"):
            continue
        # torch.nn.Linear writes no other factors; a Gemm with others stays as it is.
        plain = _read_attribute(gemm, "alpha", 1.0) == _read_attribute(gemm, "beta", 1.0) == 1.0
        private = users[reshape.output[0]] == users[gemm.output[0]] == 1
        constant = [*norm.input[1:], *gemm.input[1:], reshape.input[1]]
        if not (plain and private and all(name in constants for name in constant)):
            continue
        if _keeps_rows(gemm, reshape, norm, constants):
            _fold(graph, gemm, norm, constants)
            reshape.output[0] = norm.output[0]
            graph.node.remove(norm)
    _drop_unused_initializers(graph)


def _keeps_rows(
    gemm: onnx.NodeProto,
    reshape: onnx.NodeProto,
    norm: onnx.NodeProto,
    constants: dict[str, npt.NDArray[np.generic]],
) -> bool:
    """Returns whether each row stays one row, [channels, ...], and all weights are float32."""
    weights = [constants[name] for name in (*gemm.input[1:], *norm.input[1:])]
    if any(weight.dtype != np.float32 for weight in weights):
        return False
    width = weights[0].shape[0 if _read_attribute(gemm, "transB", 0) else 1]
    channels = constants[norm.input[1]].size
    batch, *row = constants[reshape.input[1]].tolist()
    # 0 copies the number of rows.
    return bool(row[:1] == [channels] and (batch == 0 or math.prod(row) == width))


def _fold(
    graph: onnx.GraphProto,
    gemm: onnx.NodeProto,
    norm: onnx.NodeProto,
    constants: dict[str, npt.NDArray[np.generic]],
) -> None:
    gamma, beta, mean, variance = (constants[name].astype(np.float64) for name in norm.input[1:5])
    scale = gamma / np.sqrt(variance + _read_attribute(norm, "epsilon", 1e-5))
    weight = constants[gemm.input[1]].astype(np.float64)
    transposed = _read_attribute(gemm, "transB", 0) != 0
    pixels = weight.shape[0 if transposed else 1] // scale.size
    row_scale, row_shift = np.repeat(scale, pixels), np.repeat(beta - mean * scale, pixels)
    weight = weight * (row_scale[:, np.newaxis] if transposed else row_scale)
    for name in gemm.input[2:]:  # the bias, if any
        row_shift = row_shift + constants[name].astype(np.float64) * row_scale
    # Not after the weights, which several projections can share.
    names = [f"{gemm.output[0]}.folded", f"{gemm.output[0]}.folded_bias"]
    for name, value in zip(names, (weight, row_shift), strict=True):
        graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    gemm.input[:] = [gemm.input[0], *names]


def strip(model: onnx.ModelProto) -> None:
    """Removes everything that does not affect pixels: stack traces, source lines, doc strings.

    Intermediate shapes are removed as well, because the runtime infers them. The dynamic axes get
    names: N for the batch, and H and W for the sides of a source of free size. An axis of the image
    that depends on them keeps its formula, such as 4*H.
    """
    for message in _iterate_messages(model):
        for field in ("metadata_props", "doc_string"):
            if field in message.DESCRIPTOR.fields_by_name:
                message.ClearField(field)
    model.producer_name, model.producer_version, model.graph.name = PRODUCER, "", "generator"
    del model.graph.value_info[:]
    _name_dynamic_axes(model.graph)
    used = {node.domain for node in model.graph.node}
    opsets = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(opsets)


def _name_dynamic_axes(graph: onnx.GraphProto) -> None:
    """Names dynamic axes. Axes of one name have the same length, so different axes need two."""
    names: dict[str, str] = {}
    for value in graph.input:
        for axis, name in zip(value.type.tensor_type.shape.dim, _AXES, strict=False):
            names.setdefault(axis.dim_param, name)
    for value in [*graph.input, *graph.output]:
        for number, axis in enumerate(value.type.tensor_type.shape.dim):
            if axis.HasField("dim_param"):
                # The first axis is the batch, whatever PyTorch has called it.
                axis.dim_param = BATCH_AXIS if number == 0 else _rename(axis.dim_param, names)


def _rename(formula: str, names: Mapping[str, str]) -> str:
    """Returns a formula with new names of its variables."""
    return _VARIABLE.sub(lambda match: names.get(match[0], match[0]), formula)


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Sorts nodes so that each follows its producers; otherwise keeps their order.

    Raises:
        ValueError: a node reads a value that nothing produces.
    """
    known = {v.name for v in graph.input} | {t.name for t in graph.initializer} | {""}
    remaining = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    while remaining:
        at = next((i for i, node in enumerate(remaining) if known.issuperset(node.input)), None)
        if at is None:
            raise ValueError(
                f"{remaining[0].name or remaining[0].op_type} reads a value that nothing produces"
            )
        node = remaining.pop(at)
        known.update(node.output)
        graph.node.append(node)


def _iterate_messages(message: Message) -> Iterator[Message]:
    """Yields a protobuf message and all messages within it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                yield from _iterate_messages(inner)


def _count_users(graph: onnx.GraphProto) -> dict[str, int]:
    """Returns how often each value is read; the outputs of the graph count once."""
    users: dict[str, int] = {value.name: 1 for value in graph.output}
    for name in (name for node in graph.node for name in node.input):
        users[name] = users.get(name, 0) + 1
    return users


def _read_attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    for attribute in node.attribute:
        if attribute.name == name:
            return float(onnx.helper.get_attribute_value(attribute))
    return default


def _drop_unused_initializers(graph: onnx.GraphProto) -> None:
    users = _count_users(graph)
    kept = [tensor for tensor in graph.initializer if tensor.name in users]
    del graph.initializer[:]
    graph.initializer.extend(kept)
