"""Tests of imagemint.training.evaluation: figures of a run and of images somebody brings."""

import numpy as np
import pytest
import torch

from imagemint.training.checkpoints import read_generator
from imagemint.training.errors import CheckpointError, DatasetError
from imagemint.training.evaluation import evaluate

pytestmark = pytest.mark.usefixtures("toy_mnist")
METRICS = [
    "class_accuracy",
    "worst_class_accuracy",
    "frechet_distance",
    "coverage",
    "training_copies",
]


@pytest.fixture
def measured(judge):
    """Evaluates a source with the toy judge; gives the figures by metric."""

    def measure(source, samples=120):
        found = evaluate(source, judge, None, samples=samples, seed=3, device=torch.device("cpu"))
        assert [figure.metric for figure in found] == METRICS
        return {figure.metric: figure for figure in found}

    return measure


@pytest.fixture
def npz(tmp_path):
    """Writes images and classes where somebody's generator would."""

    def write(image, class_id):
        np.savez(tmp_path / "some.npz", image=image, class_id=class_id)
        return tmp_path / "some.npz"

    return write


def test_real_images_are_perfect(measured, npz, test_digits):
    """The test set measured against itself is right, near, covering, and copies nothing."""
    found = measured(npz(test_digits.images, test_digits.labels))
    assert found["class_accuracy"].value == found["class_accuracy"].reference == 1.0
    assert found["worst_class_accuracy"].value == 1.0
    assert found["frechet_distance"].value == pytest.approx(0, abs=1e-9)
    assert found["frechet_distance"].reference > 0
    assert found["coverage"].value == 1.0
    assert found["coverage"].reference <= 1.0
    assert found["training_copies"].value == found["training_copies"].reference == 0.0


def test_wrong_classes_show(measured, npz, test_digits):
    """Images of one class sold as another lower the accuracy of that class alone."""
    asked = np.where(test_digits.labels == 3, 4, test_digits.labels)
    found = measured(npz(test_digits.images, asked))
    assert found["class_accuracy"].value == pytest.approx(0.9)
    assert found["worst_class_accuracy"].value == 0.5
    assert "worst class, 4" in found["worst_class_accuracy"].protocol


def test_missing_mode_shows(measured, npz, test_digits):
    """Half the classes cover half of the real images."""
    few = test_digits.labels < 5
    images = np.repeat(test_digits.images[few], 2, axis=0)
    found = measured(npz(images, np.repeat(test_digits.labels[few], 2)))
    assert found["coverage"].value == pytest.approx(0.5, abs=0.05)
    assert found["frechet_distance"].value > found["frechet_distance"].reference


def test_copies_show(measured, npz, digits, test_digits):
    """Training images, slightly changed, are recognised as copies, whatever their class."""
    images = np.concatenate([test_digits.images[:20], digits.images[:20] // 2 * 2])
    labels = np.concatenate([test_digits.labels[:20], digits.labels[:20]])
    assert measured(npz(images, labels))["training_copies"].value == 0.5


def test_run_is_measured_and_reported(measured, train, tmp_path):
    """A run's figures name seed, sample size and judge, and are kept for exactly these weights."""
    train(tmp_path, images=32)
    found = measured(tmp_path)
    assert read_generator(tmp_path).evaluations == tuple(found.values())
    assert all(figure.sample_size == 120 for figure in found.values())
    protocol = found["class_accuracy"].protocol
    assert "seed 3, indices 0 to 119, classes in turn" in protocol
    assert "judge mnist-classifier, SHA-256" in protocol
    assert "layer features.relu" in protocol
    train(tmp_path, images=40, resume=True)
    assert read_generator(tmp_path).evaluations == ()


@pytest.mark.parametrize(
    ("image", "class_id", "text"),
    [
        (np.zeros((4, 28, 28, 1), np.float32), np.zeros(4, int), "images are float32"),
        (np.zeros((4, 28, 28), np.uint8), np.zeros(4, int), r"uint8 \[4, 28, 28\]"),
        (np.zeros((4, 32, 32, 3), np.uint8), np.zeros(4, int), r"\['N', 28, 28, 1\]"),
        (np.zeros((1, 28, 28, 1), np.uint8), np.zeros(1, int), "at least 2"),
        (np.zeros((4, 28, 28, 1), np.uint8), np.zeros(3, int), "must hold 4 classes"),
        (np.zeros((4, 28, 28, 1), np.uint8), np.full(4, 10), "0 to 9"),
    ],
)
def test_unlike_images_are_refused(measured, npz, image, class_id, text):
    """Images that cannot be compared with the real ones are refused with what they are."""
    with pytest.raises(DatasetError, match=f"some.npz: .*{text}"):
        measured(npz(image, class_id))


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\3\4 torn"])
def test_unreadable_npz_is_refused(measured, tmp_path, content):
    """A file that is no .npz is named."""
    (tmp_path / "some.npz").write_bytes(content)
    with pytest.raises(DatasetError, match=r"some.npz: no .npz with image and class_id"):
        measured(tmp_path / "some.npz")


def test_incomplete_npz_is_refused(measured, tmp_path):
    """An .npz without classes says what is missing."""
    np.savez(tmp_path / "some.npz", image=np.zeros((4, 28, 28, 1), np.uint8))
    with pytest.raises(DatasetError, match="class_id"):
        measured(tmp_path / "some.npz")


def test_missing_sources_are_refused(measured, tmp_path):
    """A run or classifier that is not there is named."""
    with pytest.raises(CheckpointError, match="no checkpoint under"):
        measured(tmp_path / "run")
    with pytest.raises(CheckpointError, match="holds no classifier"):
        evaluate(tmp_path, tmp_path, None, samples=100, seed=0, device=torch.device("cpu"))
