"""Prepares the operators of a foreign graph, and refuses those that no bundle may have."""

from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import helper, inliner, numpy_helper

from imagemint.engine.bundle.graph_checks import ALLOWED_DOMAINS, CONTROL_FLOW, RANDOM
from imagemint.exporter.errors import ExportError

_TRAINING_MODE = 2  # the input of Dropout that has the mode


def inline_functions(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Returns the model with the nodes of its functions in place of their calls.

    Raises:
        ExportError: operators of other domains remain, which only code of their authors can run.
    """
    if model.functions:
        model = inliner.inline_local_functions(model)
    unsupported = sorted(
        {
            f"{node.op_type} of domain {node.domain!r}"
            for node in _list_nodes(model.graph)
            if node.domain not in ALLOWED_DOMAINS
        }
    )
    if unsupported:
        raise ExportError(
            f"{path} has operators that ONNX Runtime does not ship: {', '.join(unsupported)}. A"
            " bundle contains no code, so export it with standard operators"
        )
    return model


def drop_unused_nodes(graph: onnx.GraphProto, output: str) -> None:
    """Removes the nodes and weights of other outputs; changes the graph in place.

    Graphs within nodes read values of the outer graph, which are kept.
    """
    needed, kept = {output}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(*(inner.input for inner in _list_nodes_of(node)))
            kept.append(node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(kept)]
    del graph.node[:]
    graph.node.extend(kept)
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(weights)
    outputs = [value for value in graph.output if value.name == output]
    del graph.output[:]
    graph.output.extend(outputs)


def prepare_operators(graph: onnx.GraphProto, path: Path) -> None:
    """Replaces Dropout in inference mode by Identity, and checks that the graph is deterministic.

    Changes the graph in place.

    Raises:
        ExportError: the graph has random operators or control flow.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    for node in list(graph.node):
        if node.op_type == "Dropout":
            mode = "".join(node.input[_TRAINING_MODE : _TRAINING_MODE + 1])
            is_training = bool(mode) and not (mode in constants and not constants[mode].any())
            has_mask = any(node.output[1:])
            if not is_training and not has_mask:
                node.CopyFrom(helper.make_node("Identity", node.input[:1], node.output[:1]))
    found = {node.op_type for node in _list_nodes(graph)}
    if branches := sorted(found & CONTROL_FLOW):
        raise ExportError(
            f"{path} has control flow: {', '.join(branches)}. A bundle has none, so that each image"
            " takes the same time. Export the model by tracing, with loops unrolled"
        )
    if random := sorted(found & RANDOM):
        raise ExportError(
            f"{path} has random operators: {', '.join(random)}. A serial must always give the same"
            " image. Export the model in evaluation mode (model.eval() in PyTorch), with noise as"
            " an input that --fix-input or --ignore-input fills"
        )


def _list_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yields the nodes of a graph and of the graphs within it."""
    for node in graph.node:
        yield from _list_nodes_of(node)


def _list_nodes_of(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    yield node
    for attribute in node.attribute:
        for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            yield from _list_nodes(inner)
