"""Tests of imagemint.training.classifier: the judge of digits."""

import json
import shutil

import numpy as np
import pytest
import torch

from imagemint.training.classifier import Classifier, _shifted, load_classifier, train_classifier
from imagemint.training.errors import CheckpointError
from imagemint.training.recipes.mnist_classifier import MnistClassifierRecipe

CPU = torch.device("cpu")


def test_toy_digits_are_learnt(judge, test_digits):
    """Digits whose class is plain to see are told apart, also those it was not shown."""
    about = json.loads((judge / "classifier.json").read_text())
    assert about["test_accuracy"] == 1.0
    assert (about["trained_on"], about["tested_on"]) == ("mnist/train", "mnist/test")
    model, _ = load_classifier(judge, CPU)
    features, classes = model.judge(test_digits.images)
    assert np.array_equal(classes, test_digits.labels)
    assert (features.dtype, features.shape) == (np.float64, (60, 128))


def test_features_are_of_the_named_layer(judge, test_digits):
    """Features are the input of the logits, whatever the batches in which they are computed."""
    model, _ = load_classifier(judge, CPU)
    features, classes = model.judge(np.tile(test_digits.images, (10, 1, 1, 1)))
    with torch.no_grad():
        logits = model.logits(torch.from_numpy(features).float())
    assert np.array_equal(logits.argmax(dim=1).numpy(), classes)
    assert np.allclose(features[:60], features[540:], atol=1e-5)
    assert (features >= 0).all()


def test_training_repeats(digits, test_digits, tmp_path):
    """The same recipe gives the same weights, shifts and dropout included."""
    recipe = MnistClassifierRecipe(epochs=1, batch_size=20)
    digests = [
        train_classifier(recipe, digits, test_digits, tmp_path / name, device=CPU, quiet=True)
        for name in ("a", "b")
    ]
    assert digests[0]["sha256"] == digests[1]["sha256"]


def test_shift_moves_the_picture():
    """A batch is moved by at most so many pixels and filled with black."""
    x = torch.full((1, 1, 28, 28), -1.0)
    x[0, 0, 14, 14] = 1
    places = {
        tuple(divmod(int(_shifted(x, 2, 0, step).flatten().argmax()), 28)) for step in range(200)
    }
    assert places == {(14 + down, 14 + right) for down in range(-2, 3) for right in range(-2, 3)}
    assert _shifted(x, 2, 0, 3).sum() == x.sum()
    assert torch.equal(_shifted(x, 0, 0, 3), x)


@pytest.mark.parametrize(
    ("file", "change", "text"),
    [
        ("classifier.safetensors", lambda b: b[:-1] + b"\0", "SHA-256 is"),
        ("classifier.safetensors", None, "holds no classifier"),
        ("classifier.json", None, "`imagemint train mnist-classifier --out"),
        ("classifier.json", lambda _: b"{", "holds no classifier"),
        ("classifier.json", lambda _: b"[]", "holds no classifier"),
        ("classifier.json", lambda b: b.replace(b"test_accuracy", b"x"), "test_accuracy"),
        ("classifier.json", lambda b: b.replace(b'"9"', b'"9", "10"'), "size mismatch"),
    ],
)
def test_damaged_classifier_is_refused(judge, tmp_path, file, change, text):
    """Weights and description must be there, be whole, and belong together."""
    copy = shutil.copytree(judge, tmp_path / "judge")
    content = (copy / file).read_bytes()
    (copy / file).unlink() if change is None else (copy / file).write_bytes(change(content))
    with pytest.raises(CheckpointError, match=text):
        load_classifier(copy, CPU)


def test_classifier_gives_logits():
    """Images [N, 1, 28, 28] become logits [N, K]."""
    assert Classifier(7)(torch.zeros(2, 1, 28, 28)).shape == (2, 7)
