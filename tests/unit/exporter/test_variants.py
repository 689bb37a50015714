"""Tests of imagemint.exporter.variants: variants are judged before they are written."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_bundles import tiny_manifest

from imagemint.engine import draw_classes, draw_latents
from imagemint.engine.batch import Batch
from imagemint.engine.bundle import read_bundle
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.spec import ModelSpec
from imagemint.exporter import variants
from imagemint.exporter.draft import GraphOptions
from imagemint.exporter.errors import ExportError
from imagemint.exporter.export import export_generator
from imagemint.training.evaluation.comparing import Compared, Comparison, Difference
from imagemint.v1 import manifest_pb2 as pb

GENEROUS = {"int8": variants.Limits(20, 255, 1.0), "fp16": variants.Limits(1, 9, 0.1)}


def _make_comparison(*losses, mean=0.4):
    """Returns a comparison that finds these losses in turn, in units of the noise."""
    left = list(losses)

    def compare(model, other):
        ours, theirs = (source.draw(3, 0, 9)[0].astype(int) for source in (model, other))
        compare.apart.append(np.abs(ours - theirs).mean())
        compare.names.append(tuple(each.name.rpartition(", ")[2] for each in (model, other)))
        loss = left.pop(0)
        figure = Comparison("frechet_distance", 2.0 + 0.1 * loss, 2.0, 0.1, 0.1 * loss)
        return Compared(Difference(9, mean, 7, 0.3, 0.05), (figure,), "by a test", 9, 2)

    compare.apart, compare.names = [], []
    return compare


@pytest.fixture
def export(trained, tmp_path, monkeypatch):
    """A function that exports the tiny generator with variants."""
    monkeypatch.setattr(variants, "LIMITS", GENEROUS)
    monkeypatch.setattr(variants, "_CALIBRATION_IMAGES", 64)  # enough to be near, and faster

    def run(compare, *names):
        options = GraphOptions("cpu", names, compare)
        return export_generator(trained, name="digits", repository=tmp_path, graph_options=options)

    return run


def test_variants_are_declared(export):
    """Each variant has its file, measurements and tolerance in the manifest and the card."""
    compare = _make_comparison(0.5, -1.0)
    bundle = export(compare, "int8", "fp16")
    assert read_bundle(bundle.directory) == bundle
    int8, fp16 = bundle.manifest.variants
    assert (int8.name, int8.precision, int8.target) == (
        *("int8", pb.PRECISION_INT8),
        pb.TARGET_DEVICE_CPU,
    )
    assert (fp16.precision, fp16.target) == (pb.PRECISION_FP16, pb.TARGET_DEVICE_CUDA)
    assert (int8.difference.maximum, int8.difference.tolerance_mean) == (7, 20)
    (figure,) = int8.quality
    assert (figure.value, figure.model, figure.noise) == (2.05, 2.0, 0.1)
    assert "in 8 bits: Gemm, Conv, MatMul" in int8.method
    assert all(0 < apart < 5 for apart in compare.apart)
    assert compare.names == [("fp32", "int8"), ("fp32", "fp16")]
    card = (bundle.directory / "card.md").read_text()
    assert "| int8 | CPU | 0.400 | 7 | 5.000% |" in card
    assert "| int8 | frechet_distance | 2.0500 | 2.0000 | 0.1000 |" in card
    names = {path.name for path in bundle.directory.iterdir()}
    assert names == {
        *("model.onnx", "int8.onnx", "fp16.onnx"),
        *("SHA256SUMS", "card.md", "samples.png"),
    }


def test_variant_must_not_depend_on_the_batch(export, monkeypatch):
    """The images of a variant are compared in all batch sizes before its quality is measured."""

    def refuse(spec, backend):
        raise ExportError(f"{spec.name}, {backend.variant.name}: a serial would change its image")

    monkeypatch.setattr(variants, "check_batch_independence", refuse)
    compare = _make_comparison(0)
    with pytest.raises(ExportError, match="digits, fp16: a serial would change its image"):
        export(compare, "fp16")
    assert compare.names == []


def test_calibration_covers_the_inputs():
    """The ranges of int8 come from 1,024 latents, all classes in turn, and psi from 0 to 1."""
    spec = ModelSpec.of(tiny_manifest(truncation="psi", num_classes=3))
    feeds = list(variants._draw_calibration(spec))
    assert {feed["z"].shape for feed in feeds} == {(32, 8)}
    z, classes, psi = (
        np.concatenate([feed[name] for feed in feeds]) for name in ("z", "class_id", "truncation")
    )
    assert len(np.unique(z, axis=0)) == 1_024
    assert classes.shape == psi.shape == (1_024, 1)
    assert classes[:, 0].tolist() == [number % 3 for number in range(1_024)]
    assert psi[:, 0] == pytest.approx(np.linspace(0, 1, 1_024))


def test_fewer_sums_are_quantized_after_a_loss(export):
    """A form that loses quality in 8 bits is tried again with fewer sums in 8 bits."""
    bundle = export(_make_comparison(1.5, 0.5), "int8")
    (variant,) = bundle.manifest.variants
    assert "in 8 bits: Conv, MatMul" in variant.method
    assert variant.quality[0].value == pytest.approx(2.05)


def test_worse_variant_is_refused(export, tmp_path):
    """If every form is worse than the noise, the export fails and writes no bundle."""
    with pytest.raises(ExportError, match=r"no int8 variant: frechet_distance 2\.\d+, where"):
        export(_make_comparison(1.5, 2.0, 1.1), "int8")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("dtype", "name", "said"),
    [
        (np.float32, "fp16", "no fp16 variant: no operator of model.onnx has a form"),
        (np.float32, "int8", "no int8 variant: no operator of model.onnx has a form"),
        (np.float16, "int8", "no int8 variant: it is made of float32, and the file has other"),
    ],
)
def test_graph_without_form_is_refused(tmp_path, dtype, name, said):
    """The reason is given for a graph without sums, or of floats that have no 8-bit form."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [
        helper.make_node("Mul", ["z", "factor"], ["x"]),
        helper.make_node("Cast", ["x"], ["y"], to=TensorProto.UINT8),
        helper.make_node("Reshape", ["y", "shape"], ["image"]),
    ]
    constants = {"factor": dtype(9), "shape": np.int64([0, 2, 4, 1])}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("z", element, ["N", 8])],
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 2, 4, 1])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(ExportError, match=said):
        variants.add_variants(tmp_path, model, tiny_manifest(), [name], _make_comparison())


def test_variant_beyond_its_tolerance_is_refused(export, monkeypatch):
    """A variant must stay within its pixel tolerance, whatever its quality."""
    monkeypatch.setattr(variants, "LIMITS", {"int8": variants.Limits(0.1, 255, 1.0)})
    with pytest.raises(ExportError, match=r"mean difference 0.4, allowed is 0.1"):
        export(_make_comparison(0, 0, 0), "int8")


def test_variant_needs_a_judge(export):
    """A variant without a measured quality is not written."""
    with pytest.raises(ExportError, match="needs a judge"):
        export(None, "int8")


def test_layout_depends_on_the_target(trained, tmp_path):
    """On CUDA model.onnx keeps transposed convolutions. The pixels agree within one level."""
    images = []
    for target in ("cpu", "cuda"):
        bundle = export_generator(
            trained, name="digits", repository=tmp_path / target, graph_options=GraphOptions(target)
        )
        assert (b"ConvTranspose" in bundle.read_model()) == (target == "cuda")
        z, classes = draw_latents(1, 0, 50, 8), draw_classes(1, 0, 50, 3)
        images.append(OnnxBackend(bundle, device="cpu").run(Batch(z, classes)).astype(int))
    assert np.abs(images[0] - images[1]).max() <= 1
