"""Tests of imagemint.exporter.subpixel: the same sums, on graphs whose sums are exact."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from imagemint.engine.onnx.session import cpu_session
from imagemint.exporter.subpixel import replace_transposed_convolutions

HEIGHT, WIDTH = 3, 5


def generator(*, colours=1, relu=True, tail="convolution", upsampling=None, stages=2):
    """Latents as an image, transposed convolutions, and what makes pixels of it.

    Weights and latents are small integers, so that every sum is exact in whatever order.
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
        last = stage == stages - 1 and tail == "none"
        wide = colours if last else 3 - stage
        kernel = attributes["kernel_shape"]
        weight = constant(f"w{stage}", channels, wide, *kernel)
        inputs = [h, weight, *([constant(f"b{stage}", wide)] if stage == 0 else [])]
        h = put("ConvTranspose", inputs, **attributes)
        channels = wide
        if relu and not last:
            h = put("Relu", [h])
    if tail == "convolution":
        inputs = [h, constant("last", colours, channels, 3, 3), constant("bias", colours)]
        h = put("Conv", inputs, kernel_shape=[3, 3], pads=[1] * 4)
    elif tail == "pooled":
        h = put("AveragePool", [h], kernel_shape=[1, 1])
    constants |= {
        "factor": np.float32(0.125 if stages > 1 else 1),
        "low": np.float32(0),
        "high": np.float32(255),
        "half": np.float32([127.5]),
    }
    h = put("Add", [put("Mul", ["factor", h]), "half"])
    h = put("Cast", [put("Round", [put("Clip", [h, "low", "high"])])], to=TensorProto.UINT8)
    nodes.append(helper.make_node("Transpose", [h], ["image"], perm=[0, 2, 3, 1]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 2 * HEIGHT * WIDTH])],
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", None, None, None])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def pixels(model, tmp_path, rows=3):
    """What ONNX Runtime makes of small whole latents."""
    z = np.random.default_rng(4).integers(-3, 4, (rows, 2 * HEIGHT * WIDTH)).astype(np.float32)
    return cpu_session(model.SerializeToString(), 1, tmp_path).run({"z": z})


def kinds(model):
    """Operators of a graph, in order."""
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("tail", ["convolution", "none", "pooled"])
@pytest.mark.parametrize("relu", [True, False])
def test_pixels_are_the_same(tmp_path, colours, stages, tail, relu):
    """With exact sums not one value differs, at the edges neither, and the weights stay."""
    model = generator(colours=colours, relu=relu, tail=tail, stages=stages)
    before = model.SerializeToString(deterministic=True)
    plain = replace_transposed_convolutions(model)
    assert "ConvTranspose" not in kinds(plain)
    assert model.SerializeToString(deterministic=True) == before
    expected = pixels(model, tmp_path)
    assert expected.shape[1:3] == (HEIGHT * 2**stages, WIDTH * 2**stages)
    assert len(np.unique(expected)) > 10
    assert np.array_equal(pixels(plain, tmp_path), expected)


def test_last_convolution_meets_the_blocks(tmp_path):
    """A narrow convolution behind a Relu is one product on blocks, with zeros off the image."""
    plain = replace_transposed_convolutions(generator())
    assert kinds(plain).count("Conv") == 2
    assert kinds(plain).count("MatMul") == kinds(plain).count("Min") == 1
    # Values may be negative where no Relu is, so nothing could hold them to 0 off the image.
    assert "MatMul" not in kinds(replace_transposed_convolutions(generator(relu=False)))


@pytest.mark.parametrize(
    "upsampling",
    [
        {"pads": [0, 0, 0, 0]},
        {"strides": [1, 1]},
        {"kernel_shape": [2, 2], "pads": [0] * 4},
        {"dilations": [2, 2]},
        {"output_padding": [1, 1]},
        {"auto_pad": "SAME_UPPER", "pads": None},
    ],
)
def test_other_kinds_stay(upsampling):
    """What is not of the one kind is left as it is."""
    model = generator(upsampling=upsampling, stages=1, tail="none")
    for node in model.graph.node:
        kept = [a for a in node.attribute if a.type != onnx.AttributeProto.UNDEFINED]
        del node.attribute[:]
        node.attribute.extend(kept)
    assert "ConvTranspose" in kinds(replace_transposed_convolutions(model))
