"""Tests of imagemint.exporter.adoption: graphs of other exporters."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from imagemint.engine import draw_latents
from imagemint.engine.batch import Batch
from imagemint.engine.bundle import read_bundle
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.exporter.adoption import ForeignModel, adopt
from imagemint.exporter.errors import ExportError
from imagemint.exporter.export import adopt_generator

LABELS = ("cat", "dog", "owl")


def write_foreign_file(
    folder, *, latent=("N", 6), classes=None, layout="nchw", batch="N", opset=13, more_inputs=()
):
    """Writes a generator of 4x5 RGB images in [-1, 1] and returns its path.

    Args:
      folder: directory of the file.
      latent: shape of the input `noise`.
      classes: dtype and shape of the input `label`, or None for no such input.
      layout: layout of the output `fake`.
      batch: the batch axis, a name or a number.
      opset: operator set.
      more_inputs: names of unused inputs.
    """
    random = np.random.default_rng(6)
    constants = {"w": random.normal(0, 0.4, (6, 60)).astype(np.float32)}
    inputs = [helper.make_tensor_value_info("noise", TensorProto.FLOAT, [batch, *latent[1:]])]
    nodes = [
        helper.make_node("Flatten", ["noise"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["h"]),
    ]
    value = "h"
    if classes is not None:
        dtype, shape = classes
        inputs.append(helper.make_tensor_value_info("label", dtype, [batch, *shape]))
        constants["e"] = random.normal(0, 1, (3, 60)).astype(np.float32)
        if dtype == TensorProto.FLOAT:
            nodes.append(helper.make_node("MatMul", ["label", "e"], ["c"]))
        else:
            constants["flat_shape"] = np.int64([-1])
            nodes.append(helper.make_node("Reshape", ["label", "flat_shape"], ["y"]))
            nodes.append(helper.make_node("Gather", ["e", "y"], ["c"]))
        nodes.append(helper.make_node("Add", ["h", "c"], ["hc"]))
        value = "hc"
    constants["shape"] = np.int64([-1, 3, 4, 5] if layout == "nchw" else [-1, 4, 5, 3])
    nodes += [
        helper.make_node("Reshape", [value, "shape"], ["r"]),
        helper.make_node("Tanh", ["r"], ["fake"]),
    ]
    inputs += [helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, 2]) for n in more_inputs]
    graph = helper.make_graph(
        nodes,
        "theirs",
        inputs,
        [helper.make_tensor_value_info("fake", TensorProto.FLOAT, [batch, None, None, None])],
        [numpy_helper.from_array(v, name) for name, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    model.producer_name, model.doc_string = "somebody", "from /home/me/somebody.py"
    path = folder / "theirs.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def adopt_file(path, repository, **told):
    """Adopts a file and returns the bundle."""
    foreign = ForeignModel(path, told.pop("value_range", (-1, 1)), **told)
    return adopt_generator(foreign, name="theirs", repository=repository, license="CC0-1.0")


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ({}, {}),
        ({"latent": ("N", 6, 1, 1)}, {}),
        ({"layout": "nhwc", "opset": 18}, {"layout": "nhwc"}),
        ({"layout": "nhwc"}, {}),
        ({"classes": (TensorProto.INT64, [])}, {"class_labels": LABELS}),
        ({"classes": (TensorProto.INT32, [1]), "opset": 20}, {"class_labels": LABELS}),
        ({"classes": (TensorProto.FLOAT, [3])}, {"class_labels": LABELS, "class_input": "label"}),
        ({"batch": 2}, {}),
        ({}, {"latent_input": "noise", "output": "fake", "value_range": (-0.8, 0.9)}),
    ],
)
def test_foreign_generator_is_served(tmp_path, made, told):
    """The images equal those of the file, whatever the form of its latents, classes and layout."""
    path = write_foreign_file(tmp_path, **made)
    bundle = adopt_file(path, tmp_path / "models", **told)
    assert read_bundle(bundle.directory) == bundle
    assert (bundle.spec.z_dim, bundle.spec.height, bundle.spec.width) == (6, 4, 5)
    assert (bundle.spec.channels, bundle.spec.class_labels) == (3, told.get("class_labels", ()))
    assert bundle.manifest.license == "CC0-1.0"
    assert bundle.manifest.parity.samples == 1000
    z, classes = draw_latents(3, 0, 7, 6), np.arange(7) % 3 if "classes" in made else None
    images = OnnxBackend(bundle, device="cpu").run(Batch(z, classes))
    weights = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    h = z @ weights["w"] + (weights["e"][classes] if classes is not None else 0)
    x = np.tanh(h).reshape(7, *weights["shape"][1:])
    x = x.transpose(0, 2, 3, 1) if made.get("layout") != "nhwc" else x
    low, high = told.get("value_range", (-1, 1))
    levels = np.clip((x - low) / (high - low) * 255, 0, 255)
    assert np.abs(images - levels).max() < 0.51


def test_names_of_the_origin_are_removed(tmp_path):
    """Names and paths of the exporter are removed, and the digest of the file is kept."""
    path = write_foreign_file(tmp_path)
    bundle = adopt_file(path, tmp_path / "models")
    assert b"somebody" not in bundle.read_model()
    assert len(bundle.manifest.training.checkpoint_sha256) == 64
    card = (bundle.directory / "card.md").read_text()
    assert "Compared with theirs.onnx on 1,000 latents" in card


@pytest.mark.parametrize(
    ("made", "told", "said"),
    [
        ({}, {"value_range": (1, 1)}, "value range 1,1: black must be below white"),
        ({}, {"latent_input": "z"}, "There is no input 'z'. The inputs are noise"),
        ({}, {"output": "image"}, "There is no output 'image'. The outputs are fake"),
        ({}, {"class_labels": LABELS}, "no input takes as many classes"),
        ({"latent": ("N", 6, 2, 1)}, {}, r"\[\?, 6, 2, 1\]\) is no batch of latents"),
        (
            {"classes": (TensorProto.INT64, [])},
            {},
            "Input 'label' .* is not mapped. Use --class-input label and --labels",
        ),
        ({"classes": (TensorProto.INT64, [2])}, {"class_labels": LABELS}, "neither one number"),
        ({"classes": (TensorProto.INT64, [3])}, {"class_labels": LABELS}, "does not run"),
        (
            {"more_inputs": ["style"]},
            {"latent_input": "noise"},
            "Input 'style' .* is not mapped. Use --fix-input style=NUMBER or",
        ),
    ],
)
def test_wrong_description_is_refused(tmp_path, made, told, said):
    """The error names what the file contains instead of what the options say."""
    path = write_foreign_file(tmp_path, **made)
    with pytest.raises(ExportError, match=said):
        adopt(ForeignModel(path, **{"value_range": (-1, 1), **told}))


def test_invalid_file_is_refused(tmp_path):
    """The error names a missing file or one that is not an ONNX model."""
    path = tmp_path / "x.onnx"
    with pytest.raises(ExportError, match=r"x.onnx: No such file"):
        adopt(ForeignModel(path, (-1, 1)))
    path.write_bytes(b"no model")
    with pytest.raises(ExportError, match=r"x.onnx is no ONNX model"):
        adopt(ForeignModel(path, (-1, 1)))


def test_missing_shapes(tmp_path):
    """The shape of an output is found out, and an input without a shape is named."""
    path = write_foreign_file(tmp_path)
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    assert adopt(ForeignModel(path, (-1, 1))).shape == (4, 5, 3)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    with pytest.raises(ExportError, match=r"Input 'noise' of .* has no shape"):
        adopt(ForeignModel(path, (-1, 1)))


def test_licence_is_required(tmp_path):
    """Weights of another author need a licence."""
    foreign = ForeignModel(write_foreign_file(tmp_path), (-1, 1))
    with pytest.raises(ExportError, match="licence"):
        adopt_generator(foreign, name="theirs", repository=tmp_path, license=" ")
