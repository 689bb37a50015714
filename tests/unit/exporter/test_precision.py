"""Tests of imagemint.exporter.precision on a generator of the recipe."""

import math

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from imagemint.engine import draw_classes, draw_latents
from imagemint.engine.onnx.session import create_cpu_session
from imagemint.exporter import precision
from imagemint.exporter.graph import build_graph
from imagemint.exporter.precision import convert_to_fp16, quantize_to_int8
from imagemint.exporter.subpixel import replace_transposed_convolutions

KINDS = ("Conv", "Gemm", "MatMul")


def make_feed(count, seed=0):
    """Returns inputs of the tiny generator."""
    return {
        "z": draw_latents(seed, 0, count, 8),
        "class_id": draw_classes(seed, 0, count, 3)[:, None],
    }


def run(model, given, folder):
    """Returns the pixels that ONNX Runtime computes."""
    return create_cpu_session(model.SerializeToString(), 1, folder).run(given)


@pytest.fixture(scope="module")
def graph(trained):
    """The graph as PyTorch exports it."""
    return build_graph(trained)


@pytest.fixture(scope="module")
def quantised(graph):
    """The graph with all sums in 8 bits."""
    return quantize_to_int8(
        replace_transposed_convolutions(graph), [make_feed(32, seed) for seed in range(8)], KINDS
    )


def list_operators(model):
    """Returns the operators of a graph in order."""
    return [node.op_type for node in model.graph.node]


def test_int8_pixels_are_close(graph, quantised, tmp_path):
    """Pixels of the int8 graph differ, and only slightly."""
    expected = run(graph, make_feed(200, 9), tmp_path).astype(int)
    apart = np.abs(run(quantised, make_feed(200, 9), tmp_path) - expected)
    assert 0 < apart.mean() < 2
    assert expected.std() > 20


def test_int8_rows_do_not_depend_on_the_batch(quantised, tmp_path):
    """A row has the same bytes alone and in a batch."""
    given = make_feed(64, 5)
    whole = run(quantised, given, tmp_path)
    for row in (0, 17, 63):
        alone = {name: value[row : row + 1] for name, value in given.items()}
        assert np.array_equal(run(quantised, alone, tmp_path)[0], whole[row])


def test_int8_weights_are_bytes(graph, quantised):
    """Only scales and the embedding remain float32, and the names of tools are removed."""

    def floats(model):
        kept = [t.dims for t in model.graph.initializer if t.data_type == TensorProto.FLOAT]
        return sum(math.prod(dims) for dims in kept)

    assert floats(quantised) < 0.25 * floats(graph)
    constants = {tensor.name: tensor for tensor in quantised.graph.initializer}
    weights = [
        (constants[node.input[0]].dims, constants[node.input[1]].dims)
        for node in quantised.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
        if constants[node.input[0]].data_type == TensorProto.INT8
    ]
    assert len(weights) == 4
    assert all(scales and scales[0] in weight for weight, scales in weights)
    assert quantised.producer_name == "imagemint"
    assert not quantised.metadata_props


def test_every_feed_counts(graph):
    """The range of a value is that of all batches of the calibration, not of the first."""
    plain, feed = replace_transposed_convolutions(graph), make_feed(32)
    wide = feed | {"z": 10 * feed["z"]}

    def read_scale(feeds):
        model = quantize_to_int8(plain, feeds, ["Gemm"])
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        (node,) = (each for each in model.graph.node if each.op_type == "QuantizeLinear")
        return numpy_helper.to_array(constants[node.input[1]])

    assert read_scale([feed, wide]) == read_scale([wide]) > 2 * read_scale([feed])


def test_quantization_is_not_moved_before_a_shared_value():
    """A moved value that something else reads, too, stays float32."""
    quantise = ["moved", "scale", "zero"]
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["x"], ["moved"], perm=[1, 0]),
            helper.make_node("QuantizeLinear", quantise, ["bytes"]),
            helper.make_node("Relu", ["moved"], ["other"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2])],
        [],
        [
            numpy_helper.from_array(np.float32(0.5), "scale"),
            numpy_helper.from_array(np.uint8(0), "zero"),
        ],
    )
    before = graph.SerializeToString(deterministic=True)
    precision._quantise_before_moving(graph)
    assert graph.SerializeToString(deterministic=True) == before
    del graph.node[2]
    precision._quantise_before_moving(graph)
    assert [node.op_type for node in graph.node] == ["QuantizeLinear", "Transpose"]


def test_quantization_follows_the_computation(quantised):
    """QuantizeLinear comes directly after a computing operator, so that bytes are moved."""
    makers = {name: node.op_type for node in quantised.graph.node for name in node.output}
    above = [
        makers.get(node.input[0])
        for node in quantised.graph.node
        if node.op_type == "QuantizeLinear"
    ]
    assert len(above) == 4
    assert not {"Transpose", "Reshape", "Slice", "Min"} & set(above)


def test_fp16_keeps_float32_inputs_and_outputs(graph, tmp_path):
    """The graph is fp16 inside. It takes float32 latents and is float32 after the last sum."""
    half = convert_to_fp16(graph)
    assert half.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert half.ByteSize() < 0.7 * graph.ByteSize()
    nodes = list(half.graph.node)
    last = max(i for i, node in enumerate(nodes) if node.op_type == "Conv")
    assert [node.op_type for node in nodes[last + 1 :]] == [
        *("Cast", "Tanh", "Mul", "Add", "Clip", "Round", "Cast", "Transpose")
    ]
    apart = np.abs(
        run(half, make_feed(64), tmp_path).astype(int)
        - run(graph, make_feed(64), tmp_path).astype(int)
    )
    assert apart.max() <= 1
    assert 0 < apart.mean() < 0.1
