"""Estimates the time and memory of a graph from its shapes, before a runtime loads it.

A bundle of a few kilobytes can need any amount of time and memory: functions that call functions,
constants that the runtime folds when it creates a session, images of any size. The estimate runs no
part of the graph. If it is incomplete, the bundle is first loaded in a trial process that can be
killed (see the package trial).
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx.inliner

from imagemint.engine.bundle.row_mixing import find_mixed_rows, split_words
from imagemint.engine.bundle.shapes import Dims, Shapes, infer_shapes

MOST_NODES = 50_000
"""Maximum number of nodes, with functions inlined. Large generators have a few thousand."""

_MOST_CONNECTIONS = 10 * MOST_NODES
_MOST_PARTS = 4 * MOST_NODES
_LISTS = ("node", "initializer", "sparse_initializer", "input", "output", "value_info")
_DEEPEST = 64
# Shapes are inferred for batches of these sizes. An axis that differs between the last two is a
# batch axis. The sizes are primes, so that no product of constants equals one of them.
_ONE, _FEW, _MORE = 1, 61, 67


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimated time and memory of one graph."""

    nodes: int
    """Number of nodes, with functions inlined."""
    is_complete: bool
    """Whether all shapes and operators are known; if not, the other values are too low."""
    constant_bytes: int = 0
    """Bytes of the tensors that depend on no input; creating a session computes them."""
    constant_flops: int = 0
    """Operations to compute these tensors."""
    row_bytes: int = 0
    """Working memory of a batch of one image, without weights."""
    row_flops: int = 0
    """Operations to compute one image."""
    mixing: tuple[str, ...] = ()
    """Operators that let the pixels of an image depend on other rows of its batch."""


class TooLarge(ValueError):  # noqa: N818 - the name states the condition
    """The graph is larger than any generator needs; the message says what exceeds which limit."""


def check_size(model: onnx.ModelProto) -> None:
    """Checks that a graph is small enough to be inspected part by part.

    Raises:
        TooLarge: it is not; the message says which part is too large.
    """
    for field in _LISTS:
        if len(getattr(model.graph, field)) > MOST_NODES:
            raise TooLarge(f"more than {MOST_NODES:,} entries in {field}")
    for seen, _ in enumerate(_iterate_parts(model), 1):
        if seen > _MOST_PARTS:
            raise TooLarge(f"more than {_MOST_PARTS:,} nodes and attributes")
    count_nodes(model)


def _iterate_parts(model: onnx.ModelProto) -> Iterator[onnx.NodeProto | onnx.AttributeProto]:
    """Yields every node and attribute of the file: of the graph, of functions, and within both."""
    waiting: list[Iterable[onnx.NodeProto | onnx.AttributeProto]] = [model.graph.node]
    for function in model.functions:
        waiting += [function.node, function.attribute_proto]
    # Training graphs never run here, but other checks inspect them.
    for training in model.training_info:
        waiting += [training.initialization.node, training.algorithm.node]
    while waiting:
        for part in waiting.pop():
            yield part
            if isinstance(part, onnx.NodeProto):
                waiting.append(part.attribute)
                continue
            waiting += [graph.node for graph in part.graphs]
            if part.HasField("g"):
                waiting.append(part.g.node)


def count_nodes(model: onnx.ModelProto) -> int:
    """Returns the number of nodes with functions inlined, without inlining them.

    Raises:
        TooLarge: there are more than `MOST_NODES` nodes, or too many connections between them.
    """
    _check_size(len(model.graph.node), 0)
    _check_size(len(model.functions), 0)
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    sizes: dict[tuple[str, str, str], tuple[int, int]] = {}

    def count(nodes: Sequence[onnx.NodeProto], depth: int) -> tuple[int, int]:
        if depth > _DEEPEST:
            raise TooLarge(f"functions that call functions, more than {_DEEPEST} deep")
        total = links = 0
        for node in nodes:
            key = (node.domain, node.op_type, node.overload)
            if key in functions and key not in sizes:
                sizes[key] = count(functions[key].node, depth + 1)
            inner = sizes.get(key, (1, 0))
            total += inner[0]
            links += inner[1] + len(node.input) + len(node.output)
            _check_size(total, links)
        return total, links

    for function in model.functions:  # includes functions that are never called
        count(function.node, 0)
    return count(model.graph.node, 0)[0]


def _check_size(nodes: int, connections: int) -> None:
    if nodes > MOST_NODES:
        raise TooLarge(f"more than {MOST_NODES:,} nodes")
    if connections > _MOST_CONNECTIONS:
        raise TooLarge(f"more than {_MOST_CONNECTIONS:,} connections between its nodes")


def estimate(model: onnx.ModelProto, row_shapes: Mapping[str, Dims] | None = None) -> Estimate:
    """Returns the estimated time and memory of a graph.

    Args:
        model: a graph that `count_nodes` accepts; the first axis of its inputs is the batch.
        row_shapes: the largest shape of a row of each input by name, for inputs of free size.
    """
    nodes = count_nodes(model)
    try:
        return _estimate(model, nodes, row_shapes or {})
    except Exception:  # noqa: BLE001 - an arbitrary graph can break any assumption; the estimate is incomplete then
        return Estimate(nodes, is_complete=False)


def _estimate(model: onnx.ModelProto, nodes: int, row_shapes: Mapping[str, Dims]) -> Estimate:
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    one, few, more = (infer_shapes(model, rows, row_shapes) for rows in (_ONE, _FEW, _MORE))
    mixing = tuple(sorted(set(find_mixed_rows(model.graph, few, more))))
    varying = _depends_on_input(model.graph)
    steps = [*_estimate_steps(model.graph, one, varying)]
    constants = [step for step in steps if not step.varies]
    work = [step for step in steps if step.varies]
    return Estimate(
        nodes,
        is_complete=all(step.is_known for step in steps),
        constant_bytes=sum(step.bytes for step in constants),
        constant_flops=sum(step.flops for step in constants),
        row_bytes=_compute_peak(model.graph, work),
        row_flops=sum(step.flops for step in work),
        mixing=mixing,
    )


@dataclass(frozen=True, slots=True)
class _Step:
    """One node, for a batch of one image."""

    node: onnx.NodeProto
    varies: bool
    """Whether it depends on an input of the graph."""
    is_known: bool
    sizes: Mapping[str, int]
    """Bytes of its outputs, by name."""
    scratch: int
    """Temporary memory of the node, in bytes."""
    flops: int

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())


def _depends_on_input(graph: onnx.GraphProto) -> set[str]:
    constants = {tensor.name for tensor in graph.initializer}
    varying = {value.name for value in graph.input} - constants
    for node in graph.node:
        if not varying.isdisjoint(node.input):
            varying.update(node.output)
    return varying


def _estimate_steps(graph: onnx.GraphProto, shapes: Shapes, varying: set[str]) -> Iterator[_Step]:
    for node in graph.node:
        outputs = [name for name in node.output if name]
        sizes = {name: shapes.count_bytes(name) for name in outputs}
        is_known = all(size is not None for size in sizes.values())
        flops = _count_flops(node, shapes) if is_known else None
        yield _Step(
            node,
            varies=not varying.isdisjoint(node.input),
            is_known=flops is not None,
            sizes={name: size or 0 for name, size in sizes.items()},
            scratch=_estimate_scratch(node, shapes) if is_known else 0,
            flops=flops or 0,
        )


def _compute_peak(graph: onnx.GraphProto, steps: Iterable[_Step]) -> int:
    """Returns the maximum bytes in use at a time, if each tensor is freed after its last use."""
    steps = list(steps)
    last = {name: number for number, step in enumerate(steps) for name in step.node.input}
    last.update({value.name: len(steps) for value in graph.output})
    alive: dict[str, int] = {}
    now = peak = 0
    for number, step in enumerate(steps):
        alive.update(step.sizes)
        now += step.bytes
        peak = max(peak, now + step.scratch)
        for name in (*step.node.input, *step.node.output):
            if last.get(name, number) <= number:
                now -= alive.pop(name, 0)
    return peak


# Operators whose time is proportional to the number of elements of their inputs and outputs.
_ELEMENTWISE = split_words(
    """
    Abs Add And ArgMax ArgMin BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape Cos
    DepthToSpace DequantizeLinear Div DynamicQuantizeLinear Elu Equal Erf Exp Expand Flatten Floor
    Gather GatherElements Gelu GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual
    GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization LayerNormalization
    LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization Max Mean Min Mish Mod Mul Neg Not Or
    PRelu Pad Pow QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp
    ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round
    Selu Shape Sigmoid Sign Sin Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze
    Sub Sum Tan Tanh Tile Transpose Unsqueeze Upsample Where Xor
    """
)
_PER_ELEMENT = 8


def _count_flops(node: onnx.NodeProto, shapes: Shapes) -> int | None:
    """Returns the number of operations of a node; None for an unknown operator."""
    if node.domain not in ("", "ai.onnx"):
        return None
    touched = sum(shapes.count_elements(name) or 0 for name in (*node.input, *node.output) if name)
    if node.op_type in _ELEMENTWISE:
        return _PER_ELEMENT * touched
    per_element = _count_sums_per_element(node, [shapes.get_dims(name) for name in node.input])
    # In a transposed convolution, the sums run per element of the input, not of the output.
    counted = node.input if node.op_type == "ConvTranspose" else node.output
    elements = shapes.count_elements(counted[0])
    return None if per_element is None or elements is None else touched + 2 * elements * per_element


def _count_sums_per_element(node: onnx.NodeProto, dims: Sequence[Dims | None]) -> int | None:
    """Returns the number of products summed for one element; None if unknown."""
    weight_at = {"Conv": 1, "ConvInteger": 1, "ConvTranspose": 1, "QLinearConv": 3}
    if node.op_type in weight_at:
        weight = dims[weight_at[node.op_type]]
        return math.prod(weight[1:]) if weight else None
    if node.op_type in ("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul"):
        # A Gemm can be transposed, so either axis can be the one that it sums over.
        left = dims[0]
        return (max(left) if node.op_type == "Gemm" else left[-1]) if left else None
    if node.op_type in ("AveragePool", "MaxPool"):
        return next((math.prod(a.ints) for a in node.attribute if a.name == "kernel_shape"), None)
    return None


def _estimate_scratch(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Returns the temporary bytes of a node besides inputs and outputs, if they can be many."""
    if node.op_type != "ConvTranspose":
        return 0
    weight, source = shapes.get_dims(node.input[1]), shapes.get_dims(node.input[0])
    if not weight or not source:
        return 0
    return 4 * math.prod(weight[1:]) * math.prod(source[2:])
