"""Tests of imagemint.training.evaluation.extractors."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from imagemint.training.datasets import stack_digits
from imagemint.training.errors import CheckpointError, DatasetError
from imagemint.training.evaluation.extractors import (
    Inception,
    Judge,
    StackedJudge,
    judge_of_classes,
    open_extractor,
)

CPU = torch.device("cpu")


def test_judge_describes_itself(judge, test_digits):
    """The description has name, digest, accuracy and layer, and probabilities sum to one."""
    seen = Judge(judge, CPU)
    extracted = seen.extract(test_digits.images)
    assert np.array_equal(extracted.classes, test_digits.labels)
    assert np.exp(extracted.log_probabilities).sum(axis=1) == pytest.approx(np.ones(60))
    assert extracted.features.shape == (60, 128)
    for part in ("mnist-classifier", seen.sha256[:16], "accuracy 1.0000", "layer features.relu"):
        assert part in seen.description
    assert open_extractor(judge, None, CPU)[0].sha256 == seen.sha256


def test_judge_of_other_classes_is_refused(judge, digits, caplog):
    """A judge counts for data of its name with its classes, by index; a reason is logged."""
    seen = Judge(judge, CPU)
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    named = replace(digits, class_labels=words)
    assert judge_of_classes(seen, digits) is judge_of_classes(seen, named) is seen
    assert judge_of_classes(seen, replace(digits, name="pets/train")) is None
    assert not caplog.messages
    seen.trained_on = "pets/train"
    pets = replace(digits, name="pets/train")
    assert judge_of_classes(seen, replace(pets, name="pets/test")) is seen
    assert judge_of_classes(seen, replace(pets, class_labels=words)) is None
    assert judge_of_classes(seen, replace(pets, class_labels=words[::-1])) is None
    assert "classes 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and not those of pets/train, zero," in caplog.text


def test_stacked_judge_reads_each_channel(judge, test_digits):
    """Its classes are the numbers of three digits, and its features are those of all three."""
    digits = Judge(judge, CPU)
    stacks = stack_digits(test_digits, 40)
    images, labels = stacks.images, stacks.labels
    extracted = StackedJudge(digits).extract(images)
    assert np.array_equal(extracted.classes, labels)
    assert extracted.log_probabilities.shape == (40, 1000)
    assert np.exp(extracted.log_probabilities).sum(axis=1) == pytest.approx(np.ones(40))
    green = digits.extract(images[..., [1]])
    assert extracted.features[:, 128:256] == pytest.approx(green.features, abs=1e-5)


def test_unsupported_shape_is_refused(judge):
    """The error names the shape of images that the judge does not support."""
    with pytest.raises(DatasetError, match=r"does not accept images of \[32, 32, 3\]"):
        Judge(judge, CPU).extract(np.zeros((2, 32, 32, 3), np.uint8))
    with pytest.raises(DatasetError, match="three channels, but these images have 1"):
        StackedJudge(Judge(judge, CPU)).extract(np.zeros((2, 28, 28, 1), np.uint8))


def test_unpublished_inception_weights_are_refused(tmp_path):
    """The weights are a pickle, so only the published file is unpickled."""
    (tmp_path / "weights.pth").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(CheckpointError, match=r"SHA-256 begins .*, that of .* 6726825d"):
        Inception(tmp_path / "weights.pth", CPU)
    with pytest.raises(CheckpointError, match=r"absent\.pth"):
        Inception(tmp_path / "absent.pth", CPU)
