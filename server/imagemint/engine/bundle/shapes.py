"""Infers the shape of every tensor in a graph, for a given batch size."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from imagemint.engine.bundle.growth import check_axes, check_entries

Dims = tuple[int, ...]

# Larger constants are weights, whose values determine no shape.
_SHAPE_ELEMENTS = 128
_UNKNOWN_ITEM_BYTES = 8


@dataclass(frozen=True, slots=True)
class Shapes:
    """Types and shapes of tensors, by name."""

    types: dict[str, tuple[int, Dims | None]]
    """Element type and dimensions; None for unknown dimensions."""

    def get_dims(self, name: str) -> Dims | None:
        """Returns the dimensions of a tensor; None if unknown."""
        return self.types.get(name, (0, None))[1]

    def count_elements(self, name: str) -> int | None:
        """Returns the number of elements of a tensor; None if unknown."""
        dims = self.get_dims(name)
        return None if dims is None else math.prod(dims)

    def count_bytes(self, name: str) -> int | None:
        """Returns the size of a tensor in bytes; None if unknown."""
        elements = self.count_elements(name)
        return None if elements is None else elements * _get_item_bytes(self.types[name][0])


def infer_shapes(
    model: onnx.ModelProto, rows: int, row_shapes: Mapping[str, Dims] | None = None
) -> Shapes:
    """Returns the shapes for a batch size, ignoring the shapes that the file declares inside.

    Args:
        model: a model without functions; the first axis of its inputs is the batch.
        rows: the batch size.
        row_shapes: shapes of a row of inputs by name, for inputs with dynamic axes.

    Raises:
        ValueError: a tensor has more axes, or a shape tensor more elements, than any generator
            needs.
        onnx.shape_inference.InferenceError: the graph contradicts itself.
    """
    check_axes(model.graph)
    skeleton = _remove_weights(model, rows, row_shapes or {})
    bare = onnx.shape_inference.infer_shapes(skeleton).graph
    known = {v.name: sides for v in _list_values(bare) if (sides := _read_sides(v)) is not None}
    check_entries(model.graph, known)
    found = onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph
    types = {value.name: _read_type(value) for value in _list_values(found)}
    types |= {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in found.initializer}
    return Shapes(types)


def _remove_weights(
    model: onnx.ModelProto, rows: int, row_shapes: Mapping[str, Dims]
) -> onnx.ModelProto:
    """Returns the graph without its weights, which would be copied many times."""
    graph, bare = model.graph, onnx.GraphProto(name="skeleton")
    bare.node.extend(graph.node)
    constants = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        if value.name not in constants:
            bare.input.append(value)
            shape = bare.input[-1].type.tensor_type.shape
            if shape.dim:
                shape.dim[0].dim_value = rows
            for axis, side in zip(shape.dim[1:], row_shapes.get(value.name, ()), strict=False):
                axis.dim_value = side
    for tensor in graph.initializer:
        if math.prod(tensor.dims) <= _SHAPE_ELEMENTS and len(tensor.dims) <= _SHAPE_ELEMENTS:
            bare.initializer.append(tensor)
        else:
            weight = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            bare.input.append(weight)
    for value in graph.output:
        element_type = value.type.tensor_type.elem_type
        bare.output.append(helper.make_tensor_value_info(value.name, element_type, None))
    skeleton = onnx.ModelProto(ir_version=max(model.ir_version, 4), graph=bare)
    skeleton.opset_import.extend(model.opset_import)
    return skeleton


def _list_values(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    return [*graph.input, *graph.value_info, *graph.output]


def _read_sides(value: onnx.ValueInfoProto) -> list[int | None] | None:
    """Returns the axes of a tensor, None for those of unknown length; None if unknown."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    axes = value.type.tensor_type.shape.dim
    return [axis.dim_value if axis.HasField("dim_value") else None for axis in axes]


def _read_type(value: onnx.ValueInfoProto) -> tuple[int, Dims | None]:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or not all(d.HasField("dim_value") for d in tensor.shape.dim):
        return tensor.elem_type, None
    dims = tuple(d.dim_value for d in tensor.shape.dim)
    return tensor.elem_type, dims if min(dims, default=0) >= 0 else None


def _get_item_bytes(element_type: int) -> int:
    if element_type in (TensorProto.UNDEFINED, TensorProto.STRING):
        return _UNKNOWN_ITEM_BYTES
    return int(helper.tensor_dtype_to_np_dtype(element_type).itemsize)
