"""Tests of imagemint.training.evaluation.curve."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from imagemint.client.cli import main
from imagemint.training.datasets import LabelledImages
from imagemint.training.errors import DatasetError
from imagemint.training.evaluation import curve as module
from imagemint.training.evaluation.curve import QualityCurve
from imagemint.training.evaluation.extractors import Judge
from imagemint.training.recipes.mnist import MnistRecipe
from imagemint.training.recipes.vanilla_mnist import VanillaMnistRecipe


class Replay(nn.Module):
    """A generator that returns given images uint8 [N, H, W, C] in order."""

    def __init__(self, images):
        super().__init__()
        self.register_parameter("nothing", nn.Parameter(torch.zeros(())))
        self._images = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1

    def forward(self, z, y=None):
        """Returns the first images, as many as there are latents."""
        return self._images[: len(z)]


def alternate_classes(data):
    """Returns the images of a data set, sorted so that the classes alternate."""
    rows = [np.flatnonzero(data.labels == y) for y in range(10)]
    return data.images[np.stack(rows, axis=1).reshape(-1)]


def test_training_images_score_their_floor(digits, test_digits, judge):
    """A generator of all training images has the distance of the training images."""
    extractor = Judge(judge, torch.device("cpu"))
    curve = QualityCurve(MnistRecipe(), digits, test_digits, extractor)
    found = curve(Replay(alternate_classes(digits)))
    assert found["frechet_over_floor"] == pytest.approx(1.0, rel=1e-4)
    assert found["class_accuracy"] == 1.0
    assert found["coverage"] > 0.3


def test_noise_scores_worse(digits, test_digits, judge):
    """Noise covers nothing and is far away. A recipe without classes counts modes."""
    extractor = Judge(judge, torch.device("cpu"))
    curve = QualityCurve(VanillaMnistRecipe(), digits, test_digits, extractor)
    noise = np.random.Generator(np.random.Philox(key=[1, 1])).integers(0, 256, digits.images.shape)
    found = curve(Replay(noise.astype(np.uint8)))
    assert found["frechet_over_floor"] > 10
    assert found["coverage"] == 0.0
    assert 1 <= found["modes"] <= 10


def test_sorted_test_images_are_drawn_at_random(digits, judge, monkeypatch):
    """Where fewer images are compared than there are, they come from the whole test set."""
    monkeypatch.setattr(module, "CURVE_SAMPLES", len(digits) // 2)
    order = np.argsort(digits.labels, kind="stable")
    by_class = dataclasses.replace(digits, images=digits.images[order], labels=digits.labels[order])
    extractor = Judge(judge, torch.device("cpu"))
    curve, shuffled = (
        QualityCurve(VanillaMnistRecipe(), digits, test, extractor) for test in (by_class, digits)
    )
    # Half of the classes alone would be far from all of them.
    assert curve._floor < 2 * shuffled._floor


def test_floor_of_zero_is_skipped(digits, judge):
    """A test set of training images has floor 0, and the run continues without this metric."""
    curve = QualityCurve(MnistRecipe(), digits, digits, Judge(judge, torch.device("cpu")))
    # The floor uses the training images in another order, so it is 0 up to rounding.
    curve._floor = 0.0
    assert curve(Replay(alternate_classes(digits))).keys() == {"coverage", "class_accuracy"}


def test_too_few_test_images_are_refused(digits, judge):
    """Five images have no fifth neighbour."""
    few = LabelledImages(
        "mnist/test", digits.images[:5], digits.labels[:5], digits.class_labels, "0" * 64
    )
    extractor = Judge(judge, torch.device("cpu"))
    with pytest.raises(DatasetError, match="has 5 images, too few"):
        QualityCurve(MnistRecipe(), digits, few, extractor)


@pytest.mark.usefixtures("toy_mnist")
def test_run_logs_its_quality(tmp_path, judge):
    """With a classifier the log has the metrics of every checkpoint, also after a resume."""
    run = tmp_path / "run"
    command = ["train", "mnist", "--out", str(run), "--quiet", "--device", "cpu"]
    small = ["--batch-size", "8", "--z-dim", "4", "--generator-channels", "4"]
    often = ["--log-interval", "8", "--snapshot-interval", "16", "--discriminator-channels", "1"]
    told = [*small, *often, "--classifier", str(judge)]
    assert main([*command, *told, "--images", "24"]) == 0
    assert main([*command, "--resume", "--images", "32"]) == 0
    rows = [json.loads(row) for row in (run / "log.jsonl").read_text().splitlines()]
    assert [row["images"] for row in rows if "frechet_over_floor" in row] == [16, 32]
    assert [row["images"] for row in rows if "class_accuracy" in row] == [16, 32]
    assert all(row["cpu_s"] > 0 for row in rows)
