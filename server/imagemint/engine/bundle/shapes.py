"""Infers the shape of every tensor in a graph, for a given batch size."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

Dims = tuple[int, ...]

# Larger constants are weights, whose values determine no shape.
_SHAPE_ELEMENTS = 128
# Shape inference itself has no limit on axes and on values in small tensors.
_MOST_AXES = 32
_MOST_ELEMENTS = 4_096
_UNKNOWN_ITEM_BYTES = 8


@dataclass(frozen=True, slots=True)
class Shapes:
    """Types and shapes of tensors, by name."""

    types: dict[str, tuple[int, Dims | None]]
    """Element type and dimensions; None for unknown dimensions."""

    def dims_of(self, name: str) -> Dims | None:
        """Returns the dimensions of a tensor; None if unknown."""
        return self.types.get(name, (0, None))[1]

    def elements_of(self, name: str) -> int | None:
        """Returns the number of elements of a tensor; None if unknown."""
        dims = self.dims_of(name)
        return None if dims is None else math.prod(dims)

    def bytes_of(self, name: str) -> int | None:
        """Returns the size of a tensor in bytes; None if unknown."""
        elements = self.elements_of(name)
        return None if elements is None else elements * _item_bytes(self.types[name][0])


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
    _check_growth(model.graph)
    found = onnx.shape_inference.infer_shapes(
        _skeleton(model, rows, row_shapes or {}), data_prop=True
    ).graph
    values = [*found.input, *found.value_info, *found.output]
    types = {value.name: _type_of(value) for value in values}
    types |= {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in found.initializer}
    return Shapes(types)


def _check_growth(graph: onnx.GraphProto) -> None:
    """Refuses graphs for which the memory of shape inference grows with each node.

    It tracks upper bounds of the axes and of the propagated elements of each tensor.

    Raises:
        ValueError: an upper bound exceeds its limit.
    """
    bounds = {
        t.name: (len(t.dims), min(math.prod(t.dims), _SHAPE_ELEMENTS)) for t in graph.initializer
    }
    bounds |= {v.name: (len(v.type.tensor_type.shape.dim), 1) for v in graph.input}
    for node in graph.node:
        inputs = [bounds.get(name, (1, 1)) for name in node.input if name] or [(1, 1)]
        axes = max(axes for axes, _ in inputs)
        elements = max(elements for _, elements in inputs)
        match node.op_type:
            case "Constant":
                sizes = [(len(a.t.dims), math.prod(a.t.dims)) for a in node.attribute] or [(1, 1)]
                axes, elements = sizes[0][0], min(sizes[0][1], _SHAPE_ELEMENTS)
                elements = max([elements, *(len(a.ints) for a in node.attribute)])
            case "Concat":
                elements = sum(elements for _, elements in inputs)
            case "Shape":
                elements = axes
            case "Gather" | "GatherND" | "Einsum":
                axes = sum(axes for axes, _ in inputs)
            case "OneHot":
                axes += 1
            case "Unsqueeze":
                added = [len(a.ints) for a in node.attribute]
                axes += sum(added) + (inputs[1][1] if len(inputs) > 1 else 0)
            case "Reshape" | "Expand" | "Tile" | "ConstantOfShape":
                axes = max(axes, inputs[-1][1])
        if axes > _MOST_AXES or elements > _MOST_ELEMENTS:
            raise ValueError(f"{node.op_type} creates a tensor with too many axes or elements")
        bounds.update(dict.fromkeys(node.output, (axes, elements)))


def _skeleton(model: onnx.ModelProto, rows: int, row_shapes: Mapping[str, Dims]) -> onnx.ModelProto:
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


def _type_of(value: onnx.ValueInfoProto) -> tuple[int, Dims | None]:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or not all(d.HasField("dim_value") for d in tensor.shape.dim):
        return tensor.elem_type, None
    dims = tuple(d.dim_value for d in tensor.shape.dim)
    return tensor.elem_type, dims if min(dims, default=0) >= 0 else None


def _item_bytes(element_type: int) -> int:
    if element_type in (TensorProto.UNDEFINED, TensorProto.STRING):
        return _UNKNOWN_ITEM_BYTES
    return int(helper.tensor_dtype_to_np_dtype(element_type).itemsize)
