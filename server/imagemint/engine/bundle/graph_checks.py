"""Checks the operators and tensors in the graph of a bundle, and its inputs and output."""

from collections.abc import Iterable, Iterator, Mapping

import onnx
from onnx import TensorProto, helper

from imagemint.engine.spec import ANY_SIDE, GraphInput

ALLOWED_DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
"""The operator domains that ONNX Runtime ships. Other domains need custom code."""

CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})
"""Operators that run graphs within nodes."""
RANDOM = frozenset(
    {
        "Bernoulli",
        "BiasDropout",
        "BitmaskBiasDropout",
        "BitmaskDropout",
        "Dropout",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Sampling",
    }
)
"""Operators with random results. Dropout and its fused forms are random only in training mode,
which no generator needs."""
# Operators of com.microsoft that use more than the file: a compiled file beside it, Python, Triton.
_REACHING_OUT = frozenset({"EPContext", "PythonOp", "PythonOpGrad", "TritonOp"})


def find_faults(
    model: onnx.ModelProto,
    inputs: Mapping[str, GraphInput],
    outputs: Mapping[str, GraphInput],
) -> Iterator[str]:
    """Yields the faults of nodes, tensors, inputs and outputs for which a model is refused.

    Args:
        model: the model.
        inputs: the inputs that its manifest requires.
        outputs: the outputs that its manifest requires.
    """
    graphs, nodes = _collect_nodes(model)
    faults = {fault for node in nodes for fault in _find_node_faults(node)}
    faults |= {fault for function in model.functions for fault in _find_default_faults(function)}
    yield from sorted(faults)
    attributes = [attribute for node in nodes for attribute in node.attribute]
    attributes += _list_defaults(model)
    tensors = [*_list_graph_tensors(graphs), *_list_attribute_tensors(attributes)]
    external = [t.name for t in tensors if t.data_location or t.external_data]
    if external:
        yield f"external data: tensor {external[0]!r} is stored outside the file"
    yield from _find_signature_faults(model.graph, inputs, outputs)


def _collect_nodes(
    model: onnx.ModelProto,
) -> tuple[list[onnx.GraphProto], list[onnx.NodeProto]]:
    """Returns all graphs and nodes, including graphs within nodes, and functions."""
    graphs = [model.graph]
    # Training graphs never run here, but they are part of the bundle.
    for training in model.training_info:
        graphs += [training.initialization, training.algorithm]
    for attribute in _list_defaults(model):
        graphs += _list_inner_graphs(attribute)
    nodes = [node for function in model.functions for node in function.node]
    seen = 0
    nodes += [node for graph in graphs for node in graph.node]
    while seen < len(nodes):
        for attribute in nodes[seen].attribute:
            inner = _list_inner_graphs(attribute)
            graphs += inner
            nodes += [node for graph in inner for node in graph.node]
        seen += 1
    return graphs, nodes


def _list_defaults(model: onnx.ModelProto) -> list[onnx.AttributeProto]:
    """Returns the default attributes of functions, which nodes in their bodies refer to by name."""
    return [attribute for function in model.functions for attribute in function.attribute_proto]


def _list_inner_graphs(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _find_node_faults(node: onnx.NodeProto) -> Iterator[str]:
    if node.domain not in ALLOWED_DOMAINS:
        yield f"operator {node.op_type!r} of domain {node.domain!r}, which is not allowed"
    if node.op_type in CONTROL_FLOW or any(map(_list_inner_graphs, node.attribute)):
        yield f"control flow: {node.op_type}"
    if node.op_type in RANDOM:
        yield f"random node: {node.op_type}"
    if node.op_type in _REACHING_OUT:
        yield f"operator that uses files or code outside of the bundle: {node.op_type}"


def _find_default_faults(function: onnx.FunctionProto) -> Iterator[str]:
    if any(map(_list_inner_graphs, function.attribute_proto)):
        yield f"control flow: {function.name}"


def _list_graph_tensors(graphs: Iterable[onnx.GraphProto]) -> Iterator[TensorProto]:
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)


def _list_attribute_tensors(attributes: Iterable[onnx.AttributeProto]) -> Iterator[TensorProto]:
    for attribute in attributes:
        yield from attribute.tensors
        if attribute.HasField("t"):
            yield attribute.t
        sparse = [*attribute.sparse_tensors]
        if attribute.HasField("sparse_tensor"):
            sparse.append(attribute.sparse_tensor)
        for tensor in sparse:
            yield from (tensor.values, tensor.indices)


def _find_signature_faults(
    graph: onnx.GraphProto,
    inputs: Mapping[str, GraphInput],
    outputs: Mapping[str, GraphInput],
) -> Iterator[str]:
    """Yields the differences between the inputs and outputs and the manifest."""
    # Before IR version 4, every initializer is also listed as an input.
    constants = {tensor.name for tensor in graph.initializer}
    found = [value for value in graph.input if value.name not in constants]
    yield from _find_value_faults("input", found, inputs)
    yield from _find_value_faults("output", graph.output, outputs)


def _find_value_faults(
    kind: str,
    values: Iterable[onnx.ValueInfoProto],
    expected: Mapping[str, GraphInput],
) -> Iterator[str]:
    found = {value.name: value.type for value in values}
    if set(found) != set(expected):
        yield (
            f"{kind}s are {', '.join(sorted(found)) or 'none'}; "
            f"the manifest requires {', '.join(sorted(expected))}"
        )
    for name in sorted(set(found) & set(expected)):
        dtype, tail = helper.np_dtype_to_tensor_dtype(expected[name].dtype), expected[name].row
        sides = ["?" if side == ANY_SIDE else str(side) for side in tail]
        element = TensorProto.DataType.Name(dtype).lower()
        description = f"{element} [{', '.join(['N', *sides])}]"
        if not _is_batch_of(found[name], dtype, tail):
            dynamic = "N and ? dynamic" if ANY_SIDE in tail else "N dynamic"
            yield f"{kind} {name!r} is {_format_type(found[name])}, not {description}, {dynamic}"


def _format_type(found: onnx.TypeProto) -> str:
    if not found.HasField("tensor_type"):
        return "no tensor"
    tensor = found.tensor_type
    sides = [
        str(d.dim_value) if d.HasField("dim_value") else d.dim_param[:32] or "?"
        for d in tensor.shape.dim[:16]
    ]
    known = TensorProto.DataType.values()
    element = (
        TensorProto.DataType.Name(tensor.elem_type).lower() if tensor.elem_type in known else "?"
    )
    return f"{element} [{', '.join(sides)}]"


def _is_batch_of(found: onnx.TypeProto, dtype: int, tail: tuple[int, ...]) -> bool:
    tensor = found.tensor_type
    if not found.HasField("tensor_type") or tensor.elem_type != dtype:
        return False
    batch, *rest = tensor.shape.dim or [onnx.TensorShapeProto.Dimension(dim_value=0)]
    sides = [d.dim_value if d.HasField("dim_value") else ANY_SIDE for d in rest]
    return not batch.HasField("dim_value") and sides == list(tail)
