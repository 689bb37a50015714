"""Tests of imagemint.exporter.adoption.operators: which operators a foreign graph may have."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from imagemint.engine import draw_latents
from imagemint.engine.batch import Batch
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.exporter.adoption import ForeignModel, adopt
from imagemint.exporter.errors import ExportError
from imagemint.exporter.export import adopt_generator

WEIGHTS = (np.random.default_rng(0).standard_normal((16, 64)) / 4).astype(np.float32)
NODE, VALUE = helper.make_node, helper.make_tensor_value_info


def make_body(*nodes, inputs=(), outputs):
    """Returns a graph for an attribute."""
    return helper.make_graph(
        nodes, "body", [VALUE(*e) for e in inputs], [VALUE(*e) for e in outputs]
    )


def write_file(
    path, *middle, constants=(), functions=(), opset=18, ir_version=8, domain="", outputs=()
):
    """Writes a generator tanh(f(z @ w)) of 8x8 gray images, where `middle` computes y = f(x).

    `outputs` are names of more outputs.
    """
    tensors = {"w": WEIGHTS, "s": np.array([-1, 1, 8, 8]), **dict(constants)}
    inputs = [VALUE("z", TensorProto.FLOAT, ["n", 16])]
    if ir_version < 4:
        inputs += [
            VALUE(name, helper.np_dtype_to_tensor_dtype(tensor.dtype), tensor.shape)
            for name, tensor in tensors.items()
        ]
    graph = helper.make_graph(
        [
            NODE("MatMul", ["z", "w"], ["x"]),
            *middle,
            NODE("Tanh", ["y"], ["t"]),
            NODE("Reshape", ["t", "s"], ["out"]),
        ],
        "g",
        inputs,
        [
            VALUE("out", TensorProto.FLOAT, ["n", 1, 8, 8]),
            *(VALUE(name, TensorProto.FLOAT, ["n", 64]) for name in outputs),
        ],
        [numpy_helper.from_array(tensor, name) for name, tensor in tensors.items()],
    )
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(graph, opset_imports=opsets, functions=functions)
    model.ir_version = ir_version
    onnx.save(model, path)
    return path


def compute_served_images(path, repository):
    """Returns the images of five latents by the bundle of a file, and the latents."""
    bundle = adopt_generator(
        ForeignModel(path, (-1, 1)), name="g", repository=repository, license="CC0-1.0"
    )
    z = draw_latents(1, 0, 5, 16)
    return OnnxBackend(bundle, device="cpu").run(Batch(z)), z


def compute_expected_images(z, factor=1.0):
    """Returns the images of tanh(factor * z @ w)."""
    return np.rint((np.tanh(factor * (z @ WEIGHTS)) + 1) * 127.5).reshape(-1, 8, 8, 1)


@pytest.mark.parametrize("opset", [5, 7, 8])
def test_file_of_ir_version_3_is_adopted(tmp_path, opset):
    """Such a file lists its weights among its inputs, which newer versions do not."""
    middle = NODE("Identity", ["x"], ["y"])
    path = write_file(tmp_path / "g.onnx", middle, opset=opset, ir_version=3)
    images, z = compute_served_images(path, tmp_path / "r")
    assert np.abs(images - compute_expected_images(z)).max() <= 1


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(("kind", "opset"), [("Upsample", 9), ("Resize", 10)])
def test_coordinates_of_old_resizes_are_kept(tmp_path, kind, opset, mode):
    """Upsample and the first Resize place their pixels as ONNX Runtime does for the file."""
    middle = [
        NODE("Reshape", ["x", "small"], ["r"]),
        NODE(kind, ["r", "scales"], ["u"], mode=mode),
        NODE("Reshape", ["u", "flat"], ["y"]),
    ]
    constants = {
        "w": WEIGHTS[:, :16],
        "small": np.array([-1, 1, 4, 4]),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "flat": np.array([-1, 64]),
    }
    path = write_file(tmp_path / "g.onnx", *middle, constants=constants, opset=opset)
    images, z = compute_served_images(path, tmp_path / "r")
    (values,) = ort.InferenceSession(path).run(None, {"z": z})
    expected = np.rint((values.transpose(0, 2, 3, 1) + 1) * 127.5)
    assert np.abs(images - expected).max() <= 1


def test_conversion_that_changes_images_is_refused(tmp_path):
    """The file itself is the original, and not its conversion, which is wrong for Hardmax."""
    middle = [
        NODE("Reshape", ["x", "rows"], ["r"]),
        NODE("Hardmax", ["r"], ["h"]),  # over the last two axes before operator set 13
        NODE("Reshape", ["h", "flat"], ["y"]),
    ]
    constants = {"rows": np.array([-1, 4, 16]), "flat": np.array([-1, 64])}
    path = write_file(tmp_path / "g.onnx", *middle, constants=constants, opset=12)
    with pytest.raises(ExportError, match=r"operator set 12, and its conversion to 18 changes im"):
        adopt(ForeignModel(path, (0, 1)))


def test_functions_are_inlined(tmp_path):
    """Local functions, whose domain no server allows, become nodes."""
    half = helper.make_function(
        "acme",
        "Half",
        ["i"],
        ["o"],
        [
            NODE("Constant", [], ["k"], value=numpy_helper.from_array(np.float32(0.5))),
            NODE("Mul", ["i", "k"], ["o"]),
        ],
        [helper.make_opsetid("", 13)],
    )
    call = NODE("Half", ["x"], ["y"], domain="acme")
    path = write_file(tmp_path / "g.onnx", call, functions=[half], opset=13, domain="acme")
    images, z = compute_served_images(path, tmp_path / "r")
    assert np.abs(images - compute_expected_images(z, 0.5)).max() <= 1


@pytest.mark.parametrize("mode", [None, False])
def test_dropout_in_inference_mode_is_removed(tmp_path, mode):
    """Dropout that lets everything through is no random operator."""
    names = ["x"] if mode is None else ["x", "ratio", "mode"]
    constants = {} if mode is None else {"ratio": np.float32(0.5), "mode": np.array(mode)}
    middle = NODE("Dropout", names, ["y"])
    path = write_file(tmp_path / "g.onnx", middle, constants=constants)
    images, z = compute_served_images(path, tmp_path / "r")
    assert np.abs(images - compute_expected_images(z)).max() <= 1


BRANCH = {
    "then_branch": make_body(NODE("Identity", ["x"], ["a"]), outputs=[("a", 1, None)]),
    "else_branch": make_body(NODE("Neg", ["x"], ["b"]), outputs=[("b", 1, None)]),
}
LOOP = make_body(
    NODE("Mul", ["v", "half"], ["next"]),
    NODE("Identity", ["go"], ["still"]),
    inputs=[("i", TensorProto.INT64, []), ("go", TensorProto.BOOL, []), ("v", 1, None)],
    outputs=[("still", TensorProto.BOOL, []), ("next", 1, None)],
)


@pytest.mark.parametrize(
    ("middle", "constants", "said"),
    [
        (
            NODE("If", ["c"], ["y"], **BRANCH),
            {"c": np.array(True)},
            "has control flow: If.*tracing",
        ),
        (
            NODE("Loop", ["n", "c", "x"], ["y"], body=LOOP),
            {"n": np.int64(2), "c": np.array(True), "half": np.float32(0.5)},
            "has control flow: Loop",
        ),
        (
            NODE("Dropout", ["x", "ratio", "mode"], ["y"]),
            {"ratio": np.float32(0.5), "mode": np.array(True)},
            r"random operators: Dropout.*evaluation mode \(model.eval\(\)",
        ),
        (NODE("RandomNormalLike", ["x"], ["y"]), {}, "random operators: RandomNormalLike"),
        (
            NODE("BatchNormalization", ["x", "1", "0", "0", "1"], ["y", "m", "v"], training_mode=1),
            {"0": np.zeros(64, np.float32), "1": np.ones(64, np.float32)},
            "differs by up to .* levels of 255 if other images are in its batch.*evaluation mode",
        ),
    ],
)
def test_graph_that_decides_otherwise_is_refused(tmp_path, middle, constants, said):
    """Control flow, random operators and batch statistics are errors that say how to export."""
    path = write_file(tmp_path / "g.onnx", middle, constants=constants)
    with pytest.raises(ExportError, match=said):
        adopt(ForeignModel(path, (-1, 1)))


def test_nodes_of_other_outputs_are_dropped(tmp_path):
    """What only another output needs is neither checked nor kept."""
    path = write_file(
        tmp_path / "g.onnx",
        NODE("Identity", ["x"], ["y"]),
        NODE("RandomNormalLike", ["x"], ["noise"]),
        NODE("Mul", ["noise", "k"], ["other"]),
        constants={"k": np.float32(2)},
        outputs=["other"],
    )
    adopted = adopt(ForeignModel(path, (-1, 1), output="out"))
    names = {tensor.name for tensor in adopted.model.graph.initializer}
    assert "adopted.w" in names
    assert "adopted.k" not in names
    assert "RandomNormalLike" not in {node.op_type for node in adopted.model.graph.node}


def test_custom_operator_is_refused(tmp_path):
    """The error names the operator and its domain."""
    middle = NODE("Magic", ["x"], ["y"], domain="acme")
    path = write_file(tmp_path / "g.onnx", middle, domain="acme")
    with pytest.raises(ExportError, match=r"does not ship: Magic of domain 'acme'\. A bundle"):
        adopt(ForeignModel(path, (-1, 1)))
