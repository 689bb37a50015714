"""Tests of imagemint.exporter.subpixel: equal sums, on graphs with exact sums."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from imagemint.engine.onnx.session import create_cpu_session
from imagemint.exporter.subpixel import replace_transposed_convolutions

HEIGHT, WIDTH = 3, 5


def make_model(
    *,
    colours=1,
    relu=True,
    tail="convolution",
    upsampling=None,
    stages=2,
    last=None,
    factor=None,
    layout=(0, 2, 3, 1),
    computed=None,
):
    """Returns a model: latents as an image, transposed convolutions and the tail of a generator.

    Weights and latents are small integers, so that every sum is exact in any order. A node computes
    the weights `computed`: `w0` of the first transposed convolution, or `last` of the last one.
    """
    random = np.random.default_rng(3)
    constants, nodes = {}, []

    def constant(name, *shape):
        constants[name] = random.integers(-2, 3, shape).astype(np.float32)
        return name

    def put(kind, inputs, **attributes):
        name = f"{kind}.{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    channels, h = 2, "x"
    constants["shape"] = np.int64([-1, channels, HEIGHT, WIDTH])
    h = put("Reshape", ["z", "shape"])
    attributes = {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [1] * 4} | (upsampling or {})
    for stage in range(stages):
        is_last = stage == stages - 1 and tail == "none"
        wide = colours if is_last else 3 - stage
        kernel = attributes["kernel_shape"]
        weight = constant(f"w{stage}", channels, wide // attributes.get("group", 1), *kernel)
        inputs = [h, weight, *([constant(f"b{stage}", wide)] if stage == 0 else [])]
        h = put("ConvTranspose", inputs, **attributes)
        channels = wide
        if relu and not is_last:
            positive = put("Relu", [h])
            h = put("Add", [positive, h]) if relu == "beside" else positive
    if tail in {"convolution", "skip"}:
        last = {"kernel_shape": [3, 3], "pads": [1] * 4} | (last or {})
        shape = colours, channels // last.get("group", 1), *last["kernel_shape"]
        summed = put("Conv", [h, constant("last", *shape), constant("bias", colours)], **last)
        h = put("Add", [summed, h]) if tail == "skip" else summed
    elif tail == "pooled":
        h = put("AveragePool", [h], kernel_shape=[1, 1])
    constants |= {
        "factor": np.float32((0.125 if stages > 1 else 1) if factor is None else factor),
        "low": np.float32(0),
        "high": np.float32(255),
        "half": np.float32([127.5]),
    }
    h = put("Add", [put("Mul", ["factor", h]), "half"])
    h = put("Cast", [put("Round", [put("Clip", [h, "low", "high"])])], to=TensorProto.UINT8)
    nodes.append(helper.make_node("Transpose", [h], ["image"], perm=layout))
    if computed is not None:
        constants[f"{computed}.stored"] = constants.pop(computed)
        nodes.insert(0, helper.make_node("Neg", [f"{computed}.stored"], [computed]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 2 * HEIGHT * WIDTH])],
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", None, None, None])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def compute_pixels(model, tmp_path, rows=3):
    """Returns the pixels that ONNX Runtime computes from small integer latents."""
    z = np.random.default_rng(4).integers(-3, 4, (rows, 2 * HEIGHT * WIDTH)).astype(np.float32)
    return create_cpu_session(model.SerializeToString(), 1, tmp_path).run({"z": z})


def list_operators(model):
    """Returns the operators of a graph in order."""
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("tail", ["convolution", "none", "pooled"])
@pytest.mark.parametrize("relu", [True, False])
def test_pixels_are_equal(tmp_path, colours, stages, tail, relu):
    """With exact sums all values are equal, also at the edges, and the original is unchanged."""
    model = make_model(colours=colours, relu=relu, tail=tail, stages=stages)
    before = model.SerializeToString(deterministic=True)
    plain = replace_transposed_convolutions(model)
    assert "ConvTranspose" not in list_operators(plain)
    assert model.SerializeToString(deterministic=True) == before
    expected = compute_pixels(model, tmp_path)
    assert expected.shape[1:3] == (HEIGHT * 2**stages, WIDTH * 2**stages)
    assert len(np.unique(expected)) > 10
    assert np.array_equal(compute_pixels(plain, tmp_path), expected)


def test_last_convolution_is_computed_on_blocks(tmp_path):
    """A narrow convolution after a Relu becomes one product on blocks, with zero padding."""
    plain = replace_transposed_convolutions(make_model())
    assert list_operators(plain).count("Conv") == 2
    assert list_operators(plain).count("MatMul") == list_operators(plain).count("Min") == 1
    # Without a Relu values may be negative, so no minimum could set them to 0 outside the image.
    assert "MatMul" not in list_operators(replace_transposed_convolutions(make_model(relu=False)))


@pytest.mark.parametrize(
    "options",
    [
        {"last": {"strides": [2, 2]}},
        {"last": {"pads": [0, 0, 0, 0]}},
        {"last": {"dilations": [2, 2], "pads": [2, 2, 2, 2]}},
        {"last": {"kernel_shape": [5, 5], "pads": [2, 2, 2, 2]}},
        {"last": {"group": 3}, "colours": 3},
        {"factor": [[[0.5]], [[1.0]], [[2.0]]], "colours": 3},
        {"layout": (0, 2, 1, 3), "colours": 3},
        {"layout": (0, 3, 2, 1)},
        {"tail": "skip", "colours": 3},
        {"relu": "beside"},
        {"computed": "last"},
    ],
)
def test_other_tails_keep_their_pixels(tmp_path, options):
    """A last convolution of another form, or beside which its input is read, stays a convolution.

    So does one whose channels have different factors.
    """
    model = make_model(stages=1, **options)
    plain = replace_transposed_convolutions(model)
    assert "ConvTranspose" not in list_operators(plain)
    assert "MatMul" not in list_operators(plain)
    assert np.array_equal(compute_pixels(plain, tmp_path), compute_pixels(model, tmp_path))


def test_computed_weights_are_kept():
    """A transposed convolution whose weights another node computes is not replaced."""
    plain = replace_transposed_convolutions(make_model(computed="w0", tail="none", stages=1))
    assert list_operators(plain).count("ConvTranspose") == 1


@pytest.mark.parametrize(
    "upsampling",
    [
        {"pads": [0, 0, 0, 0]},
        {"strides": [1, 1]},
        {"kernel_shape": [2, 2], "pads": [0] * 4},
        {"dilations": [2, 2]},
        {"output_padding": [1, 1]},
        {"group": 2},
        {"auto_pad": "SAME_UPPER", "pads": None},
    ],
)
def test_other_convolutions_are_kept(upsampling):
    """Transposed convolutions with other attributes are not replaced."""
    model = make_model(upsampling=upsampling, stages=1, tail="none", colours=2)
    for node in model.graph.node:
        kept = [a for a in node.attribute if a.type != onnx.AttributeProto.UNDEFINED]
        del node.attribute[:]
        node.attribute.extend(kept)
    assert "ConvTranspose" in list_operators(replace_transposed_convolutions(model))
