"""Refuses graphs for which shape inference itself would take too much memory or time.

Shape inference follows the values of tensors with at most one axis, because they can be shapes. It
keeps one entry for each element, even if the value is unknown. A file of some bytes can declare
such a tensor of any length, or double one with each node. Tensors with more axes carry no values.

Inference that follows no values is cheap, and finds most shapes. For the others there are bounds.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx
from onnx import numpy_helper

_MOST_AXES = 32
# Of all nodes together; an entry takes about 100 bytes and a microsecond.
_MOST_ENTRIES = 2**19
_SHAPE_ELEMENTS = 128

_FOLLOWED = frozenset(
    {"Add", "Cast", "Concat", "Gather", "Mul", "Size", "Slice", "Squeeze", "Sub", "Unsqueeze"}
)
"""Operators for which onnx 1.23 copies the entries of their inputs; measured, like the others."""
_LIKE_FIRST = frozenset(
    {
        *("Abs", "BatchNormalization", "Cast", "Ceil", "Clip", "Cos", "CumSum", "DequantizeLinear"),
        *(
            "Dropout",
            "Elu",
            "Erf",
            "Exp",
            "Floor",
            "Gelu",
            "GroupNormalization",
            "HardSigmoid",
            "HardSwish",
        ),
        *("Identity", "InstanceNormalization", "LayerNormalization", "LeakyRelu", "Log", "Neg"),
        *("Not", "QuantizeLinear", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin"),
        *("Slice", "Softmax", "Softplus", "Split", "Sqrt", "Tanh", "Transpose"),
    }
)
"""Operators whose outputs have the axes of their first input, and at most its elements."""
_BROADCAST = frozenset(
    {
        *("Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max"),
        *("Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor"),
    }
)
_IMAGES = frozenset(
    {
        *("AveragePool", "Conv", "ConvInteger", "ConvTranspose", "DepthToSpace", "Gemm", "Flatten"),
        *("GlobalAveragePool", "GlobalMaxPool", "MaxPool", "QLinearConv", "SpaceToDepth"),
    }
)
"""Operators whose outputs have two axes or more."""
_RESIZED = frozenset({"Pad", "Resize", "Tile", "Upsample"})


@dataclass(frozen=True, slots=True)
class _Bound:
    """What is known of a tensor without inferring shapes."""

    axes: int = _MOST_AXES
    """Upper bound of its axes."""
    least_axes: int = 0
    """Lower bound of its axes."""
    elements: float = math.inf
    """Upper bound of its elements."""
    least_elements: float = 0
    """Lower bound of its elements, for tensors with one axis or none."""
    values: tuple[int, ...] | None = None
    """Its values, if they are a short list of constants."""

    @property
    def entries(self) -> float:
        """Upper bound of the entries that shape inference keeps."""
        return self.elements if self.least_axes <= 1 else 0


_Rule = Callable[[onnx.NodeProto, Sequence[_Bound]], _Bound]


def check_axes(graph: onnx.GraphProto) -> None:
    """Checks that no tensor has many axes, which can double with each node.

    Args:
        graph: a graph without functions.

    Raises:
        ValueError: one may have. The graph need not be wrong.
    """
    known = {each.name: [None] * len(each.type.tensor_type.shape.dim) for each in graph.input}
    for node, _, bound in _walk(graph, known):
        if bound.axes > _MOST_AXES:
            raise ValueError(f"{node.op_type} may create a tensor with too many axes")


def check_entries(graph: onnx.GraphProto, known: Mapping[str, Sequence[int | None]]) -> None:
    """Checks that the memory of shape inference that follows values is small.

    Args:
        graph: a graph that passed `check_axes`.
        known: the axes of tensors by name, as found without following values; None for an axis of
            unknown length. It contains the inputs of the graph.

    Raises:
        ValueError: it is not known to be small. The graph need not be wrong.
    """
    entries = 0.0
    for node, inputs, _ in _walk(graph, known):
        if node.op_type in _FOLLOWED:
            entries += sum(input_.entries for input_ in inputs)
        if entries > _MOST_ENTRIES:
            raise ValueError(f"{node.op_type} may create a shape with too many elements")


def _walk(
    graph: onnx.GraphProto, known: Mapping[str, Sequence[int | None]]
) -> Iterator[tuple[onnx.NodeProto, list[_Bound], _Bound]]:
    """Yields each node with the bounds of its inputs and outputs."""
    bounds = {each.name: _bound_constant(each) for each in graph.initializer}
    for graph_input in graph.input:
        bounds.setdefault(graph_input.name, _refine(_Bound(), known.get(graph_input.name)))
    for node in graph.node:
        inputs = [bounds.get(name, _Bound(axes=1)) for name in node.input if name]
        bound = _bound_output(node, inputs)
        yield node, inputs, bound
        for name in node.output:
            bounds[name] = _refine(bound, known.get(name))


def _refine(bound: _Bound, sides: Sequence[int | None] | None) -> _Bound:
    """Returns a bound with the axes that are known."""
    if sides is None:
        return bound
    known = [side for side in sides if side is not None]
    elements = math.prod(known) if len(known) == len(sides) else math.inf
    least = elements if len(known) == len(sides) else 0
    return replace(
        bound,
        axes=len(sides),
        least_axes=len(sides),
        elements=min(bound.elements, elements),
        least_elements=max(bound.least_elements, least),
    )


def _bound_constant(tensor: onnx.TensorProto) -> _Bound:
    axes, elements = len(tensor.dims), math.prod(tensor.dims)
    values = None
    if axes <= 1 and elements <= _SHAPE_ELEMENTS and tensor.data_type == onnx.TensorProto.INT64:
        values = tuple(int(each) for each in numpy_helper.to_array(tensor).flat)
    return _Bound(axes, axes, elements, elements, values)


def _bound_output(node: onnx.NodeProto, inputs: Sequence[_Bound]) -> _Bound:
    if node.op_type == "Constant":
        return _bound_attribute(node)
    if not inputs:
        return _Bound()
    return _find_rule(node.op_type)(node, inputs)


def _find_rule(kind: str) -> _Rule:
    if kind in _IMAGES:
        return lambda _, inputs: _Bound(max(2, *(input_.axes for input_ in inputs)), 2)
    if kind in _RESIZED:
        return lambda _, inputs: _Bound(inputs[0].axes, inputs[0].least_axes)
    if kind in _LIKE_FIRST:
        return lambda _, inputs: replace(inputs[0], least_elements=0, values=None)
    if kind in _BROADCAST:
        return _bound_broadcast
    return _RULES.get(kind, lambda _, inputs: _Bound(max(input_.axes for input_ in inputs)))


def _bound_attribute(node: onnx.NodeProto) -> _Bound:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            return _bound_constant(attribute.t)
        if attribute.ints:
            values = tuple(attribute.ints)
            return _Bound(1, 1, len(values), len(values), values)
        count = max(1, len(attribute.floats), len(attribute.strings))
        return _Bound(1, 0, count, count)
    return _Bound()


def _bound_broadcast(_: onnx.NodeProto, inputs: Sequence[_Bound]) -> _Bound:
    axes = max(input_.axes for input_ in inputs)
    sizes = [max(input_.elements, 1) for input_ in inputs]
    return _Bound(
        axes,
        max(input_.least_axes for input_ in inputs),
        max(sizes) if axes <= 1 else math.prod(sizes),
        min(input_.least_elements for input_ in inputs),
    )


def _bound_concat(_: onnx.NodeProto, inputs: Sequence[_Bound]) -> _Bound:
    return _Bound(
        max(input_.axes for input_ in inputs),
        max(input_.least_axes for input_ in inputs),
        sum(input_.elements for input_ in inputs),
        sum(input_.least_elements for input_ in inputs),
    )


def _bound_shape(_: onnx.NodeProto, inputs: Sequence[_Bound]) -> _Bound:
    return _Bound(1, 1, inputs[0].axes, inputs[0].least_axes)


def _bound_gather(_: onnx.NodeProto, inputs: Sequence[_Bound]) -> _Bound:
    data, indices = inputs[0], inputs[-1]
    axes = data.axes + indices.axes
    if data.axes <= 1:
        return replace(indices, axes=axes, values=None)
    least = max(data.least_axes + indices.least_axes - 1, 0)
    return _Bound(axes, least, data.elements * max(indices.elements, 1))


def _bound_unsqueeze(node: onnx.NodeProto, inputs: Sequence[_Bound]) -> _Bound:
    most, least = _count_axes(node, inputs)
    data = inputs[0]
    return replace(data, axes=data.axes + most, least_axes=data.least_axes + least, values=None)


def _bound_squeeze(node: onnx.NodeProto, inputs: Sequence[_Bound]) -> _Bound:
    most, least = _count_axes(node, inputs)
    data = inputs[0]
    removed = most if least else data.least_axes  # without axes, any number is removed
    return replace(data, least_axes=max(data.least_axes - removed, 0), values=None)


def _count_axes(node: onnx.NodeProto, inputs: Sequence[_Bound]) -> tuple[int, int]:
    """Returns the bounds of the number of axes that an attribute or the second input lists."""
    listed = [len(each.ints) for each in node.attribute if each.name == "axes"]
    if listed:
        return listed[0], listed[0]
    if len(inputs) > 1:
        return int(min(inputs[1].elements, 2 * _MOST_AXES)), int(inputs[1].least_elements)
    return 0, 0


def _bound_reshape(_: onnx.NodeProto, inputs: Sequence[_Bound]) -> _Bound:
    data, shape = inputs[0], inputs[-1]
    elements = math.inf
    if shape.values is not None:
        sides = [side for side in shape.values if side > 0]
        # Shape inference does not compare the numbers of elements.
        elements = math.prod(sides) if len(sides) == len(shape.values) else data.elements
        elements *= math.prod(sides) if len(shape.values) == 1 else 1
    return _make_bound(shape, elements)


def _bound_filled(_: onnx.NodeProto, inputs: Sequence[_Bound]) -> _Bound:
    values = inputs[-1].values
    return _make_bound(inputs[-1], math.inf if values is None else math.prod(map(abs, values)))


def _bound_expand(_: onnx.NodeProto, inputs: Sequence[_Bound]) -> _Bound:
    bound = _make_bound(inputs[-1], math.inf)
    least = max(bound.least_axes, inputs[0].least_axes)
    return replace(bound, axes=max(bound.axes, inputs[0].axes), least_axes=least)


def _make_bound(shape: _Bound, elements: float) -> _Bound:
    axes = int(min(shape.elements, 2 * _MOST_AXES))
    return _Bound(axes, int(shape.least_elements), elements)


def _bound_reduction(node: onnx.NodeProto, inputs: Sequence[_Bound]) -> _Bound:
    keeps = all(each.i for each in node.attribute if each.name == "keepdims")
    most, least = _count_axes(node, inputs)
    removed = 0 if keeps else most if least else inputs[0].least_axes  # without axes, all of them
    data = inputs[0]
    return _Bound(data.axes, max(data.least_axes - removed, 0), data.elements)


def _bound_product(_: onnx.NodeProto, inputs: Sequence[_Bound]) -> _Bound:
    least = [input_.least_axes for input_ in inputs[:2]]
    return _Bound(max(input_.axes for input_ in inputs), max(least) if min(least) >= 2 else 0)  # noqa: PLR2004 - axes of a matrix


def _bound_widened(_: onnx.NodeProto, inputs: Sequence[_Bound]) -> _Bound:
    return _Bound(sum(input_.axes for input_ in inputs) + 1)


_RULES: Mapping[str, _Rule] = {
    "Concat": _bound_concat,
    "ConstantOfShape": _bound_filled,
    "Einsum": _bound_widened,
    "Expand": _bound_expand,
    "Gather": _bound_gather,
    "GatherND": _bound_widened,
    "MatMul": _bound_product,
    "OneHot": _bound_widened,
    "ReduceMax": _bound_reduction,
    "ReduceMean": _bound_reduction,
    "ReduceMin": _bound_reduction,
    "ReduceProd": _bound_reduction,
    "ReduceSum": _bound_reduction,
    "Reshape": _bound_reshape,
    "Shape": _bound_shape,
    "Size": lambda *_: _Bound(0, 0, 1, 1),
    "Squeeze": _bound_squeeze,
    "Unsqueeze": _bound_unsqueeze,
}
