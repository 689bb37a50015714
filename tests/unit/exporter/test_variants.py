"""Tests of imagemint.exporter.variants: judged before they are written."""

import numpy as np
import pytest

from imagemint.engine import drawn_classes, latents
from imagemint.engine.batch import Batch
from imagemint.engine.bundle import read_bundle
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.exporter import variants
from imagemint.exporter.errors import ExportError
from imagemint.exporter.export import GraphOptions, export_generator
from imagemint.training.evaluation.comparing import Compared, Comparison, Difference
from imagemint.v1 import manifest_pb2 as pb

GENEROUS = {"int8": variants.Limits(20, 255, 1.0), "fp16": variants.Limits(1, 9, 0.1)}


def _judged(*losses, mean=0.4):
    """A judgement that finds one loss after the other, measured in deviations."""
    left = list(losses)

    def compare(model, other):
        ours, theirs = (source.draw(3, 0, 9)[0].astype(int) for source in (model, other))
        compare.apart.append(np.abs(ours - theirs).mean())
        loss = left.pop(0)
        figure = Comparison("frechet_distance", 2.0 + 0.1 * loss, 2.0, 0.1, 0.1 * loss)
        return Compared(Difference(9, mean, 7, 0.3, 0.05), (figure,), "by a test", 9, 2)

    compare.apart = []
    return compare


@pytest.fixture
def export(trained, tmp_path, monkeypatch):
    """Exports the tiny generator with variants."""
    monkeypatch.setattr(variants, "LIMITS", GENEROUS)
    monkeypatch.setattr(variants, "_CALIBRATION_IMAGES", 64)  # enough to be near, and sooner

    def run(compare, *names):
        options = GraphOptions("cpu", names, compare)
        return export_generator(trained, name="digits", repository=tmp_path, graph_options=options)

    return run


def test_variants_are_declared(export):
    """Each has its file, its figures and its tolerance; the card tells them."""
    compare = _judged(0.5, -1.0)
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
    card = (bundle.directory / "card.md").read_text()
    assert "| int8 | CPU | 0.400 | 7 | 5.000% |" in card
    assert "| int8 | frechet_distance | 2.0500 | 2.0000 | 0.1000 |" in card
    names = {path.name for path in bundle.directory.iterdir()}
    assert names == {
        *("model.onnx", "int8.onnx", "fp16.onnx"),
        *("SHA256SUMS", "card.md", "samples.png"),
    }


def test_next_form_is_tried(export):
    """What falls short with its first sums in 8 bits is tried with fewer of them."""
    bundle = export(_judged(1.5, 0.5), "int8")
    (variant,) = bundle.manifest.variants
    assert "in 8 bits: Conv, MatMul" in variant.method
    assert variant.quality[0].value == pytest.approx(2.05)


def test_worse_variant_is_not_written(export, tmp_path):
    """Worse by more than the noise in every form: an error with the figures, and no bundle."""
    with pytest.raises(ExportError, match=r"no int8 variant: frechet_distance 2\.\d+, where"):
        export(_judged(1.5, 2.0, 1.1), "int8")
    assert list(tmp_path.iterdir()) == []


def test_distant_pixels_are_refused(export, monkeypatch):
    """However it is judged, a variant may not stray beyond its tolerance."""
    monkeypatch.setattr(variants, "LIMITS", {"int8": variants.Limits(0.1, 255, 1.0)})
    with pytest.raises(ExportError, match=r"mean difference 0.4, allowed is 0.1"):
        export(_judged(0, 0, 0), "int8")


def test_nobody_to_judge_is_an_error(export):
    """A variant that nobody looked at is not written."""
    with pytest.raises(ExportError, match="needs a judge"):
        export(None, "int8")


def test_target_decides_the_layout(trained, tmp_path):
    """For CUDA model.onnx keeps its transposed convolutions; the pixels agree within a level."""
    images = []
    for target in ("cpu", "cuda"):
        bundle = export_generator(
            trained, name="digits", repository=tmp_path / target, graph_options=GraphOptions(target)
        )
        assert (b"ConvTranspose" in bundle.read_model()) == (target == "cuda")
        z, classes = latents(1, 0, 50, 8), drawn_classes(1, 0, 50, 3)
        images.append(OnnxBackend(bundle, device="cpu").run(Batch(z, classes)).astype(int))
    assert np.abs(images[0] - images[1]).max() <= 1
