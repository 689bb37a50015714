"""Tests of imagemint.training.evaluation.sources."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_bundles import write_bundle

from imagemint.engine.batch import Batch
from imagemint.engine.bundle import read_bundle
from imagemint.engine.errors import BundleRefused
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.sampling import draw_latents
from imagemint.training.errors import DatasetError
from imagemint.training.evaluation import open_source
from imagemint.training.loop.checkpoints import find_latest_checkpoint
from imagemint.training.loop.samples import generate_images
from imagemint.training.trained import read_generator

CPU = torch.device("cpu")


def test_run_draws_the_images_of_its_serials(train, tmp_path):
    """A run draws the images that its bundle generates, from any index on."""
    train(tmp_path, images=32)
    source = open_source(str(tmp_path), CPU)
    images, classes = source.draw(5, 300, 20)
    assert classes.tolist() == [n % 10 for n in range(300, 320)]
    trained = read_generator(tmp_path)
    assert np.array_equal(
        images, generate_images(trained.module, draw_latents(5, 300, 20, 4), classes)
    )
    assert (source.dataset, source.num_classes) == ("mnist", 10)
    assert source.sha256 == trained.weights_sha256
    assert source.run == tmp_path
    checkpoint = open_source(str(find_latest_checkpoint(tmp_path)), CPU)
    assert (checkpoint.sha256, checkpoint.run) == (source.sha256, None)


@pytest.mark.parametrize(
    ("options", "conditional"),
    [({}, True), ({"conditional": False, "size": (5, 3, 3)}, False), ({"truncation": "psi"}, True)],
)
def test_bundle_draws_the_images_of_its_serials(tmp_path, options, conditional):
    """A bundle draws with the latents of the serial, classes in turn and no truncation."""
    directory = write_bundle(tmp_path, "tiny", **options)
    Image.new("L", (40, 40)).save(directory / "samples.png")  # as in exported bundles
    source = open_source(str(directory), CPU)
    images, classes = source.draw(9, 250, 300)
    bundle = read_bundle(directory)
    backend = OnnxBackend(bundle, device="cpu")
    psi = np.ones(300, np.float32) if "truncation" in options else None
    expected = backend.run(Batch(draw_latents(9, 250, 300, 8), classes, truncation=psi))
    assert np.array_equal(images, expected)
    assert (classes is not None) == conditional
    assert (source.name, source.sha256) == ("bundle tiny@1, fp32", bundle.sha256)
    source.close()


def test_damaged_bundle_is_refused(tmp_path):
    """A bundle that the server would refuse is not measured."""
    directory = write_bundle(tmp_path, "tiny")
    (directory / "model.onnx").write_bytes(b"no model")
    with pytest.raises(BundleRefused, match="checksum"):
        open_source(str(directory), CPU)


def test_npz_may_have_no_classes(tmp_path):
    """Classes of -1 mean none, as `imagemint generate` writes them."""
    image = np.zeros((7, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "some.npz", image=image, class_id=np.full(7, -1), index=np.arange(7))
    source = open_source(str(tmp_path / "some.npz"), CPU)
    images, classes = source.draw(0, 0, 3)
    assert (images.shape, classes, source.num_classes) == (image.shape, None, 0)


def test_address_is_opened_by_its_scheme():
    """The rest of an address is passed to the source of its scheme."""
    assert open_source("grpc://some:1/model@2", CPU, {"grpc": str.upper}) == "SOME:1/MODEL@2"


def test_unknown_scheme_is_refused():
    """The error lists the schemes that are installed."""
    with pytest.raises(
        DatasetError, match="no installed source reads addresses http://; installed: grpc"
    ):
        open_source("http://some/model", CPU, {"grpc": str.upper})
