"""Tests of imagemint.training.evaluation.comparing with the toy judge."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from imagemint.training.data_options import DataOptions
from imagemint.training.evaluation import compare, open_extractor
from imagemint.training.metrics import frechet_distance

pytestmark = pytest.mark.usefixtures("toy_mnist")


class _Drawn:
    """A source of digits by seed, the same for every instance except for a fault."""

    def __init__(self, digits, fault=lambda images: images):
        self.name, self.sha256, self.dataset, self.num_classes = "drawn", "", "mnist", 10
        self.class_labels, self.image_shape = digits.class_labels, digits.images.shape[1:]
        self._digits, self._fault = digits, fault

    def draw(self, seed, first, count):
        rows = (np.arange(first, first + count) + 7 * seed) % len(self._digits)
        return self._fault(self._digits.images[rows].copy()), self._digits.labels[rows]

    def close(self):
        """Has nothing to close."""


@pytest.fixture
def compared(digits, judge):
    """A function that compares toy digits with the same digits under a fault."""
    extractor, seer = open_extractor(judge, None, torch.device("cpu"))

    def run(fault, **options):
        model, other = _Drawn(digits), _Drawn(digits, fault)
        return compare(model, other, extractor, seer, None, samples=30, seeds=3, **options)

    return run


def test_equal_sources_do_not_differ(compared):
    """Equal sources have no difference in any pixel or metric."""
    found = compared(lambda images: images)
    assert found.difference.images == 90
    assert (found.difference.mean, found.difference.maximum) == (0.0, 0)
    assert [figure.metric for figure in found.figures] == ["frechet_distance", "class_accuracy"]
    assert all(figure.loss == 0 and figure.value == figure.model for figure in found.figures)
    assert "seeds 1000 to 1002, indices 0 to 29, classes in turn" in found.protocol


def test_pixel_differences_are_measured(compared):
    """Mean, maximum and shares are over all values and count both signs."""

    def fault(images):
        images[:, 0, 0] = np.where(images[:, 0, 0] > 100, images[:, 0, 0] - 9, images[:, 0, 0] + 9)
        images[:, 0, 1] = np.where(images[:, 0, 1] > 100, images[:, 0, 1] - 1, images[:, 0, 1] + 1)
        return images

    difference = compared(fault).difference
    size = 28 * 28
    assert difference.maximum == 9
    assert difference.mean == pytest.approx(10 / size)
    assert difference.differing_share == pytest.approx(2 / size)
    assert difference.over_one_share == pytest.approx(1 / size)


def test_loss_of_blank_images_exceeds_noise(compared):
    """Blank images are further from real ones and not of the requested class."""
    distance, accuracy = compared(np.zeros_like).figures
    assert distance.loss > distance.noise >= 0
    assert accuracy.loss > accuracy.noise >= 1 / 30
    assert accuracy.value < accuracy.model


def test_noise_is_the_deviation_of_the_model(digits, test_digits, judge):
    """Each seed is a separate sample. The noise is the deviation of the model alone over them."""
    extractor, seer = open_extractor(judge, None, torch.device("cpu"))
    model, other = _Drawn(digits), _Drawn(digits, lambda images: images // 2)
    distance, _ = compare(model, other, extractor, seer, None, samples=13, seeds=3).figures
    real = extractor.extract(test_digits.images).features
    ours, theirs = (
        [
            frechet_distance(extractor.extract(source.draw(seed, 0, 13)[0]).features, real)
            for seed in (1000, 1001, 1002)
        ]
        for source in (model, other)
    )
    assert len({*ours}) == 3
    assert (distance.value, distance.model) == (
        pytest.approx(np.mean(theirs)),
        pytest.approx(np.mean(ours)),
    )
    assert distance.noise == pytest.approx(np.std(ours, ddof=1))
    assert distance.loss == pytest.approx(np.mean(theirs) - np.mean(ours))


def test_real_images_are_those_of_the_run(compared, test_digits, tmp_path):
    """Path and label column of a run's data set count, and real images get the model's size."""
    rows = []
    for label, image in zip(test_digits.labels, test_digits.images, strict=True):
        content = io.BytesIO()
        Image.fromarray(np.kron(image[..., 0], np.ones((2, 2), np.uint8))).save(content, "PNG")
        rows.append({"image": content.getvalue(), "label": 0, "digit": int(label)})
    (tmp_path / "mnist").mkdir()
    for split in ("train", "test"):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"mnist/{split}.parquet")
    options = DataOptions(label_column="digit")
    found = compared(np.copy, dataset=str(tmp_path / "mnist"), reading=options)
    assert [figure.metric for figure in found.figures] == ["frechet_distance", "class_accuracy"]
    assert "60 test images of mnist;" in found.protocol
    assert str(tmp_path) not in found.protocol
