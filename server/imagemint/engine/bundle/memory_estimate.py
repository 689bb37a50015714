"""What a graph takes to run, computed from its shapes before a runtime sees it.

A bundle of a few kilobytes can ask for any amount of time and memory: functions that call
functions, constants that are folded when a session is made, images of any size. The estimate runs
nothing. Where it cannot tell, it says so, and the bundle is tried in a process that can be killed
(see trial.py).
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx.inliner

from imagemint.engine.bundle.row_mixing import mixed_rows, words
from imagemint.engine.bundle.shapes import Dims, Shapes, infer_shapes

MOST_NODES = 50_000
"""Nodes of a graph, functions written out. Large generators have some thousands."""

_MOST_CONNECTIONS = 10 * MOST_NODES
_MOST_PARTS = 4 * MOST_NODES
_LISTS = ("node", "initializer", "sparse_initializer", "input", "output", "value_info")
_DEEPEST = 64
# Shapes are inferred for batches of these sizes: what differs between the last two belongs to the
# batch. They are primes, so that no product of constants equals one of them.
_ONE, _FEW, _MORE = 1, 61, 67


@dataclass(frozen=True, slots=True)
class Estimate:
    """Time and memory of one graph."""

    nodes: int
    """With functions written out."""
    is_complete: bool
    """Whether every shape and every operator is known; if not, the other figures are too low."""
    constant_bytes: int = 0
    """Of the tensors that depend on no input; a session computes them when it is made."""
    constant_flops: int = 0
    """Operations for these tensors."""
    row_bytes: int = 0
    """Working memory of a batch of one image, weights aside."""
    row_flops: int = 0
    """Operations for one image."""
    mixing: tuple[str, ...] = ()
    """Operators by which the pixels of an image depend on what shares its batch."""


class TooLarge(ValueError):  # noqa: N818 - it names what was found
    """A graph that no generator needs; the message says what is too much."""


def check_size(model: onnx.ModelProto) -> None:
    """Refuses a graph of which even a look at every part would take long.

    Raises:
        TooLarge: says what there is too much of.
    """
    for field in _LISTS:
        if len(getattr(model.graph, field)) > MOST_NODES:
            raise TooLarge(f"more than {MOST_NODES:,} entries in {field}")
    seen = 0
    for node in _all_nodes(model):
        seen += 1 + len(node.attribute)
        if seen > _MOST_PARTS:
            raise TooLarge(f"more than {_MOST_PARTS:,} nodes and attributes")
    count_nodes(model)


def _all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node written in the file: of the graph, of functions, and of graphs within nodes."""
    waiting: list[Iterable[onnx.NodeProto]] = [model.graph.node]
    waiting += [function.node for function in model.functions]
    # Training graphs are never run here, yet everything in them is looked at.
    for training in model.training_info:
        waiting += [training.initialization.node, training.algorithm.node]
    while waiting:
        for node in waiting.pop():
            yield node
            for attribute in node.attribute:
                waiting += [graph.node for graph in attribute.graphs]
                if attribute.HasField("g"):
                    waiting.append(attribute.g.node)


def count_nodes(model: onnx.ModelProto) -> int:
    """The nodes of a graph, with functions written out; computed without writing them out.

    Raises:
        TooLarge: there are more than `MOST_NODES`, or more connections than so many nodes have.
    """
    _check_size(len(model.graph.node), 0)
    _check_size(len(model.functions), 0)
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    sizes: dict[tuple[str, str, str], tuple[int, int]] = {}

    def size_of(nodes: Sequence[onnx.NodeProto], depth: int) -> tuple[int, int]:
        if depth > _DEEPEST:
            raise TooLarge(f"functions that call functions, more than {_DEEPEST} deep")
        total = links = 0
        for node in nodes:
            key = (node.domain, node.op_type, node.overload)
            if key in functions and key not in sizes:
                sizes[key] = size_of(functions[key].node, depth + 1)
            inner = sizes.get(key, (1, 0))
            total += inner[0]
            links += inner[1] + len(node.input) + len(node.output)
            _check_size(total, links)
        return total, links

    for function in model.functions:  # those that are never called are checked as well
        size_of(function.node, 0)
    return size_of(model.graph.node, 0)[0]


def _check_size(nodes: int, connections: int) -> None:
    if nodes > MOST_NODES:
        raise TooLarge(f"more than {MOST_NODES:,} nodes")
    if connections > _MOST_CONNECTIONS:
        raise TooLarge(f"more than {_MOST_CONNECTIONS:,} connections between its nodes")


def estimate(model: onnx.ModelProto) -> Estimate:
    """What a graph takes; `count_nodes` has accepted it.

    Args:
        model: a graph whose inputs have the batch as their first axis.
    """
    nodes = count_nodes(model)
    try:
        return _estimate(model, nodes)
    except Exception:  # noqa: BLE001 - a foreign graph may break any assumption: nothing is known then
        return Estimate(nodes, is_complete=False)


def _estimate(model: onnx.ModelProto, nodes: int) -> Estimate:
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    one, few, more = (infer_shapes(model, rows) for rows in (_ONE, _FEW, _MORE))
    mixing = tuple(sorted(set(mixed_rows(model.graph, few, more))))
    varying = _depends_on_input(model.graph)
    steps = [*_steps(model.graph, one, varying)]
    constants = [step for step in steps if not step.varies]
    work = [step for step in steps if step.varies]
    return Estimate(
        nodes,
        is_complete=all(step.is_known for step in steps),
        constant_bytes=sum(step.bytes for step in constants),
        constant_flops=sum(step.flops for step in constants),
        row_bytes=_peak(model.graph, work),
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
    """Bytes of its outputs."""
    scratch: int
    """Bytes that it needs while it runs."""
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


def _steps(graph: onnx.GraphProto, shapes: Shapes, varying: set[str]) -> Iterator[_Step]:
    for node in graph.node:
        outputs = [name for name in node.output if name]
        sizes = {name: shapes.bytes_of(name) for name in outputs}
        is_known = all(size is not None for size in sizes.values())
        flops = _flops(node, shapes) if is_known else None
        yield _Step(
            node,
            varies=not varying.isdisjoint(node.input),
            is_known=flops is not None,
            sizes={name: size or 0 for name, size in sizes.items()},
            scratch=_scratch(node, shapes) if is_known else 0,
            flops=flops or 0,
        )


def _peak(graph: onnx.GraphProto, steps: Iterable[_Step]) -> int:
    """The most bytes that are alive at a time, where each tensor goes after its last use."""
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


# Operators whose time is that of looking at each element of their inputs and outputs a few times.
_ELEMENTWISE = words(
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


def _flops(node: onnx.NodeProto, shapes: Shapes) -> int | None:
    """Operations of a node; None of an operator that is not known here."""
    if node.domain not in ("", "ai.onnx"):
        return None
    touched = sum(shapes.elements_of(name) or 0 for name in (*node.input, *node.output) if name)
    if node.op_type in _ELEMENTWISE:
        return _PER_ELEMENT * touched
    per_element = _sums_per_element(node, [shapes.dims_of(name) for name in node.input])
    # Of a transposed convolution each element of the input, not of the output, enters the sums.
    counted = node.input if node.op_type == "ConvTranspose" else node.output
    elements = shapes.elements_of(counted[0])
    return None if per_element is None or elements is None else touched + 2 * elements * per_element


def _sums_per_element(node: onnx.NodeProto, dims: Sequence[Dims | None]) -> int | None:
    """Products that are added up for one element; None where it is not known."""
    weight_at = {"Conv": 1, "ConvInteger": 1, "ConvTranspose": 1, "QLinearConv": 3}
    if node.op_type in weight_at:
        weight = dims[weight_at[node.op_type]]
        return math.prod(weight[1:]) if weight else None
    if node.op_type in ("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul"):
        # A Gemm may be transposed, so that either axis is the one along which it sums.
        left = dims[0]
        return (max(left) if node.op_type == "Gemm" else left[-1]) if left else None
    if node.op_type in ("AveragePool", "MaxPool"):
        return next((math.prod(a.ints) for a in node.attribute if a.name == "kernel_shape"), None)
    return None


def _scratch(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Bytes that the runtime needs beside inputs and outputs, where they can be many."""
    if node.op_type != "ConvTranspose":
        return 0
    weight, source = shapes.dims_of(node.input[1]), shapes.dims_of(node.input[0])
    if not weight or not source:
        return 0
    return 4 * math.prod(weight[1:]) * math.prod(source[2:])
