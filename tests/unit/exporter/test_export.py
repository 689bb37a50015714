"""Tests of imagemint.exporter.export: complete bundles."""

import dataclasses
import json

import numpy as np
import onnx
import pytest
import torch
from google.protobuf import json_format
from PIL import Image
from torch import nn

from imagemint.engine import Serial, draw_classes, draw_latents
from imagemint.engine.batch import Batch
from imagemint.engine.bundle import read_bundle
from imagemint.engine.bundle.findings import Batching
from imagemint.engine.captions import Captions
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.exporter import parity
from imagemint.exporter.errors import ExportError
from imagemint.exporter.export import export_generator
from imagemint.exporter.parity import Tolerance
from imagemint.v1 import manifest_pb2 as pb


def test_returned_bundle_is_the_written_one(exported):
    """The returned bundle equals the one that the server reads, with all files."""
    again = read_bundle(exported.directory)
    assert again == exported
    assert exported.directory.parts[-2:] == ("digits", "1")
    names = sorted(path.name for path in exported.directory.iterdir())
    assert names == ["SHA256SUMS", "card.md", "model.onnx", "samples.png"]


def test_manifest_has_the_provenance(exported):
    """The file contains provenance, measurements, licence and shapes of the run."""
    (entry,) = onnx.load(exported.model_path).metadata_props
    manifest = json_format.Parse(entry.value, pb.BundleManifest())
    assert manifest == exported.manifest
    assert manifest.format_version == 1
    assert (manifest.name, manifest.title) == ("digits", "mnist/train at 28x28, 3 classes")
    assert list(manifest.class_labels) == ["zero", "one", "two"]
    assert (manifest.latent.z_dim, manifest.image.height, manifest.image.channels) == (8, 28, 1)
    assert manifest.latent.truncation.kind == pb.TRUNCATION_KIND_THRESHOLD
    assert manifest.precision == pb.PRECISION_FP32
    assert manifest.license == "CC-BY-SA-3.0"
    training = manifest.training
    assert json.loads(training.options_json) == {"learning_rate": 0.0002, "beta1": 0.0}
    assert (training.seed, training.images_seen) == (2**64 - 1, 1_600_000)
    assert (training.code_revision, training.checkpoint_sha256) == ("0123abc", "ab" * 32)
    accuracy, speed = manifest.evaluations
    assert (accuracy.metric, accuracy.value, accuracy.reference) == (
        "class_accuracy",
        0.9912,
        0.994,
    )
    assert not speed.HasField("reference")
    assert manifest.parity.samples == 1000


def test_pixels_equal_those_of_pytorch(trained, exported):
    """Latents that the export did not use give PyTorch's pixels within one level."""
    z, classes = draw_latents(99, 5, 200, 8), draw_classes(99, 5, 200, 3)
    backend = OnnxBackend(exported, device="cpu")
    served = backend.run(Batch(z, classes)).astype(int)
    assert np.abs(served - parity.run_pytorch(trained, Batch(z, classes))).max() <= 1
    assert served.std() > 20


def test_exported_graph_needs_no_padding(exported):
    """Batches of the exported generator run without padding, including a single image."""
    assert OnnxBackend(exported, device="cpu").batching is Batching.AS_THEY_COME


def test_samples_are_the_first_serials(exported):
    """The sheet has a row of ten images per class, exactly as served."""
    sheet = np.asarray(Image.open(exported.directory / "samples.png"))
    assert sheet.shape == (3 * 30 + 2, 10 * 30 + 2)
    backend = OnnxBackend(exported, device="cpu")
    for row, column in ((0, 0), (1, 4), (2, 9)):
        z = draw_latents(0, row * 10 + column, 1, 8)
        (image,) = backend.run(Batch(z, np.int64([row])))
        top, left = 2 + row * 30, 2 + column * 30
        assert np.array_equal(sheet[top : top + 28, left : left + 28], image[:, :, 0])


def test_samples_file_describes_itself(exported):
    """The text of the PNG has its serials and says that a trained network made it."""
    text = Image.open(exported.directory / "samples.png").text
    first, _, last = text["Serials"].partition(" to ")
    assert Serial.parse(first) == Serial("digits", 1, 0, 0, 0)
    assert Serial.parse(last) == Serial("digits", 1, 0, 29, 2)
    assert text["DigitalSourceType"] == "trainedAlgorithmicMedia"


def test_card_is_complete(exported):
    """The card has the measurements, options, parity, licence and an example command."""
    card = (exported.directory / "card.md").read_text()
    for said in (
        "# digits 1: mnist/train at 28x28, 3 classes",
        "| class_accuracy | 0.9912 | 0.994 | 10,000 |",
        "| images_per_second | 512 |  | 64 |",
        "judged by a classifier",
        "| learning_rate | 0.0002 |",
        "1,600,000",
        "0123abc",
        "1,000 latents in batches of 1, 3, 64",
        "CC-BY-SA-3.0",
        "--model digits --class 2",
        "digits@1/42/17?class=2",
    ):
        assert said in card


def test_second_export_increments_the_version(trained, exported):
    """The same generator gives the same bytes again, as the next version."""
    repository = exported.directory.parent.parent
    second = export_generator(trained, name="digits", repository=repository)
    assert second.version == 2
    assert second.model_path.read_bytes() == exported.model_path.read_bytes()
    with pytest.raises(ExportError, match="2 exists"):
        export_generator(trained, name="digits", repository=repository, version=2)


def test_failed_parity_writes_nothing(trained, tmp_path, monkeypatch):
    """A generator that differs from its graph writes nothing to the repository."""
    expected = parity.run_pytorch
    monkeypatch.setattr(parity, "run_pytorch", lambda *a: expected(*a)[:, ::-1])
    with pytest.raises(ExportError, match="differs from PyTorch by up to"):
        export_generator(trained, name="digits", repository=tmp_path, tolerance=Tolerance(1, 1.0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "../digits"}, "name"),
        ({"name": "Digits"}, "name"),
        ({"title": "two\nlines"}, "title"),
        ({"thresholds": (2.0, 1.0)}, "truncation"),
        ({"thresholds": (0.0, 1.0)}, "above 0"),
        ({"version": -1}, "version must be 1 or more"),
    ],
)
def test_invalid_option_is_refused_early(trained, tmp_path, changed, said):
    """Values that a manifest cannot have are refused before anything is computed or written."""
    options = {"name": "digits", "repository": tmp_path / "models"} | changed
    with pytest.raises(ExportError, match=said):
        export_generator(trained, **options)
    assert list(tmp_path.iterdir()) == []


def test_wrong_image_size_is_refused(trained, tmp_path):
    """A run that records another image size than its network has is refused with the reason."""
    wrong = dataclasses.replace(trained, image_size=32)
    with pytest.raises(
        ExportError, match=r"output 'image' is uint8 \[N, 28, 28, 1\], not uint8 \[N, 32"
    ):
        export_generator(wrong, name="digits", repository=tmp_path)
    assert list(tmp_path.iterdir()) == []


class _Captioned(nn.Module):
    """A generator of gray images in which the caption changes every pixel."""

    def __init__(self, captions):
        super().__init__()
        self.words = nn.Embedding(len(captions.vocabulary) + 1, 8, padding_idx=0)
        self.project = nn.Linear(16, 28 * 28)

    def forward(self, z, tokens):
        text = self.words(tokens).sum(dim=1)
        return torch.tanh(self.project(torch.cat([z, text], dim=1))).unflatten(1, (1, 28, 28))


def test_captions_are_exported(trained, tmp_path):
    """The graph takes `tokens`, the manifest declares the words, and the card shows them."""
    captions = Captions(("red", "hair", "round", "glasses"), 4, ("red hair", "round glasses"))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = _Captioned(captions).eval().requires_grad_(requires_grad=False)
    told = dataclasses.replace(trained, module=module, class_labels=(), captions=captions)
    bundle = export_generator(told, name="people", repository=tmp_path)
    assert bundle.spec.captions == captions
    backend = OnnxBackend(bundle, device="cpu")
    z = draw_latents(1, 0, 2, 8)
    batch = Batch(z, tokens=captions.encode(["glasses red", "red hair"]))
    served = backend.run(batch)
    assert np.abs(served.astype(int) - parity.run_pytorch(told, batch)).max() <= 1
    swapped = backend.run(Batch(z, tokens=captions.encode(["red hair", "red hair"])))
    assert not np.array_equal(served[0], swapped[0])
    assert np.array_equal(served[1], swapped[1])
    sheet = np.asarray(Image.open(bundle.directory / "samples.png"))
    for row, text in enumerate(captions.examples):
        shown = Batch(draw_latents(0, 10 * row, 1, 8), tokens=captions.encode([text]))
        left = sheet[2 + 30 * row : 30 + 30 * row, 2:30]
        assert np.array_equal(left, backend.run(shown)[0, :, :, 0])
    card = (bundle.directory / "card.md").read_text()
    assert "- red hair\n- round glasses\n" in card
    assert "Known words: glasses, hair, red, round." in card
    assert '--caption "red hair"' in card
    assert "`people@1/42/17?caption=red%20hair`" in card
