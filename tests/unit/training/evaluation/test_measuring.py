"""Tests of imagemint.training.evaluation.measuring and copies on features with known results."""

import numpy as np
import pytest

from imagemint.training.datasets import LabelledImages
from imagemint.training.evaluation import measuring
from imagemint.training.evaluation.copies import find_nearest_training_images
from imagemint.training.evaluation.extractors import Extracted
from imagemint.training.evaluation.measuring import Sample, measure
from imagemint.training.evaluation.real_images import extract_real_images

CLASSES = 3


class Pixels:
    """An extractor of sixteen numbers of an image and of the class in its first pixel."""

    description, sha256, accuracy, trained_on = "pixels", "0" * 64, 1.0, "noise/train"

    def extract(self, images):
        """Returns features and log-probabilities."""
        features = images.reshape(len(images), -1)[:, :16].astype(np.float64)
        sure = np.eye(CLASSES)[(features[:, 0] // 80).astype(int)]
        return Extracted(features, np.log(sure * 0.97 + 0.01))


def make_images(count, seed, name="noise/train"):
    """Returns `count` images of noise of 8x8 pixels with the class in the first pixel."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
    labels = np.arange(count) % CLASSES
    images = rng.integers(0, 80, (count, 8, 8, 1))
    images[:, 0, 0, 0] += 80 * labels
    return LabelledImages(name, images.astype(np.uint8), labels, ("a", "b", "c"), f"{seed:064x}")


def measure_images(fake, test=90):
    """Returns the results for images by metric, beside a small test set."""
    reals = extract_real_images("noise", make_images(3_000, 1), make_images(test, 2), Pixels())
    extracted = Pixels().extract(fake.images)
    found = measure(reals, Sample(fake.images, fake.labels, extracted, extracted), Pixels())
    return {each.metric: each for each in found}


@pytest.mark.parametrize(("test", "fakes"), [(90, 3_000), (90, 120), (3_000, 300)])
def test_perfect_generator_scores_its_reference(test, fakes):
    """Held-out real images score like training images, whatever the sizes of both sets."""
    found = measure_images(make_images(fakes, 3), test)
    close = 0.1 if fakes == 3_000 else 0.3  # fewer images give one noisy sample only
    for metric in (
        *("frechet_distance", "coverage", "density", "precision", "recall"),
        *("within_class_variety", "class_coverage", "inception_score"),
    ):
        each = found[metric]
        assert each.value == pytest.approx(each.reference, rel=close), metric
    assert found["frechet_distance"].detail == f"{min(test, fakes):,} of each"


def measure_beside(reals, fake):
    """Returns the results for images by metric, beside prepared real images."""
    extracted = Pixels().extract(fake.images)
    found = measure(reals, Sample(fake.images, fake.labels, extracted, extracted), Pixels())
    return {each.metric: each for each in found}


def test_reference_is_the_figure_of_training_images():
    """The training images of the references have these as their own figures, to the last digit.

    Worse images have other figures beside the same references.
    """
    reals = extract_real_images("noise", make_images(400, 1), make_images(90, 2), Pixels())
    rows = np.random.Generator(np.random.Philox(key=[0, 0])).permutation(400)
    train = reals.train
    same = LabelledImages(
        "same", train.images[rows], train.labels[rows], train.class_labels, "f" * 64
    )
    found = measure_beside(reals, same)
    of_test = {"class_accuracy", "inception_score", "mode_score", "training_copies"}
    compared = [name for name, each in found.items() if each.reference and name not in of_test]
    assert {*compared} >= {
        *("frechet_distance", "kernel_distance", "coverage", "precision", "recall", "density"),
        *("two_sample_accuracy", "within_class_variety", "class_coverage", "worst_class_coverage"),
    }
    for name in compared:
        assert found[name].value == found[name].reference, name
    assert (found["training_copies"].value, found["training_copies"].reference) == (1, 0)
    blurred = same.images // 40 * 40
    blurred[:, 0, 0, 0] %= 80  # of one class, to the judge
    worse = measure_beside(
        reals, LabelledImages("worse", blurred, same.labels, same.class_labels, "e" * 64)
    )
    for name in (*compared, *of_test):
        assert worse[name].reference == found[name].reference, name
    for name in {*compared, *of_test} - {"recall"}:
        assert worse[name].value != found[name].value, name
    assert worse["precision"].value < found["precision"].value


def test_mode_score_is_that_of_the_judge():
    """Beside an extractor that knows other classes the judge scores, and there is no reference."""
    reals = extract_real_images("noise", make_images(400, 1), make_images(90, 2), Pixels())
    fake = make_images(90, 3)
    judged = Pixels().extract(fake.images)
    extracted = Extracted(judged.features, np.full((90, 7), -np.log(7)))
    measured = measure(reals, Sample(fake.images, fake.labels, extracted, judged), Pixels())
    found, beside = {each.metric: each for each in measured}, measure_beside(reals, fake)
    assert found["mode_score"].value == beside["mode_score"].value > 2
    assert (found["mode_score"].reference, found["inception_score"].value) == (
        None,
        pytest.approx(1),
    )


def test_small_samples_are_disjoint():
    """A figure of few points is a mean over up to ten samples, none of which has a point twice."""
    points = np.arange(700.0)[:, np.newaxis]
    drawn = measuring._draw_samples(points, 60)
    assert [len(each) for each in drawn] == [60] * 10
    values = np.concatenate(drawn)[:, 0]
    assert len({*values}) == 600
    assert [len(sample) for sample in measuring._draw_samples(points, 300)] == [300, 300]
    assert [len(sample) for sample in measuring._draw_samples(np.zeros((7_000, 1)), 3_500)] == [
        3_500
    ]
    # Points often come sorted, and a sample of the first ones would not be like the others.
    assert abs(drawn[0].mean() - points.mean()) < 100


def test_ignored_latent_has_no_variety():
    """One image per class has perfect accuracy and no variety within a class."""
    one = make_images(CLASSES, 4)
    rows = np.arange(3_000) % CLASSES
    found = measure_images(LabelledImages("one", one.images[rows], rows, ("a", "b", "c"), "f" * 64))
    assert found["class_accuracy"].value == 1.0
    assert found["within_class_variety"].value == 0.0
    assert found["within_class_variety"].reference == pytest.approx(1, abs=0.1)
    assert found["class_coverage"].value < 0.2 < found["class_coverage"].reference


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (-1, 2), (2, -2)])
def test_shifted_copies_are_found(shift):
    """A training image that is shifted by up to two pixels is nearest to itself, at 0."""
    rng = np.random.Generator(np.random.Philox(key=[5, 0]))
    known = np.zeros((300, 28, 28, 1), np.uint8)
    # Blocks of noise make neighbouring pixels alike, as in photographs.
    known[:, 4:-4, 4:-4] = np.kron(
        rng.integers(0, 256, (300, 5, 5, 1)), np.ones((1, 4, 4, 1))
    ).astype(np.uint8)
    moved = np.roll(known[:40], shift, axis=(1, 2))
    distances, rows = find_nearest_training_images(moved, known)
    assert rows.tolist() == list(range(40))
    assert distances == pytest.approx(0)
    strangers, _ = find_nearest_training_images(known[:40], known[40:])
    assert strangers.min() > 500


def test_nearest_training_image_is_exact():
    """With few images the distance is the minimum over all shifts, computed one by one."""
    rng = np.random.Generator(np.random.Philox(key=[6, 0]))
    images, known = (rng.integers(0, 256, (n, 14, 14, 3)).astype(np.uint8) for n in (4, 9))
    windows = [
        known[:, down : down + 12, right : right + 12].astype(float)
        for down in range(3)
        for right in range(3)
    ]
    expected = [
        min(np.sqrt(np.square(w - x[1:13, 1:13]).sum(axis=(1, 2, 3))).min() for w in windows)
        for x in images
    ]
    assert find_nearest_training_images(images, known)[0] == pytest.approx(expected)
