"""Tests of imagemint.training.classifier: the judges of digits and of images."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from imagemint.training.classifier.networks import (
    DigitClassifier,
    PooledClassifier,
    ResidualClassifier,
)
from imagemint.training.classifier.progress import Progress
from imagemint.training.classifier.recipes import (
    Cifar10ClassifierRecipe,
    ImageClassifierRecipe,
    MnistClassifierRecipe,
)
from imagemint.training.classifier.trained import load_classifier
from imagemint.training.classifier.training import augment, has_ended, train_classifier
from imagemint.training.datasets import LabelledImages, load_dataset
from imagemint.training.errors import CheckpointError, DatasetError

CPU = torch.device("cpu")


def test_toy_digits_are_learnt(judge, test_digits):
    """The judge classifies clear toy digits correctly, including those of the test split."""
    about = json.loads((judge / "classifier.json").read_text())
    assert about["test_accuracy"] == 1.0
    assert (about["trained_on"], about["tested_on"]) == ("mnist/train", "mnist/test")
    model, _ = load_classifier(judge, CPU)
    features, classes = model.judge(test_digits.images)
    assert np.array_equal(classes, test_digits.labels)
    assert (features.dtype, features.shape) == (np.float64, (60, 128))


def test_features_are_those_of_the_named_layer(judge, test_digits):
    """Features are the input of the logits and do not depend on the batch."""
    model, _ = load_classifier(judge, CPU)
    features, classes = model.judge(np.tile(test_digits.images, (10, 1, 1, 1)))
    with torch.no_grad():
        logits = model.logits(torch.from_numpy(features).float())
    assert np.array_equal(logits.argmax(dim=1).numpy(), classes)
    assert np.allclose(features[:60], features[540:], atol=1e-5)
    assert (features >= 0).all()


def test_training_is_reproducible(digits, test_digits, tmp_path):
    """The same recipe gives the same weights, including shifts and dropout."""
    recipe = MnistClassifierRecipe(epochs=1, batch_size=20)
    digests = [
        train_classifier(recipe, digits, test_digits, tmp_path / name, device=CPU, quiet=True)
        for name in ("a", "b")
    ]
    assert digests[0]["sha256"] == digests[1]["sha256"]


def test_shift_moves_the_image():
    """A batch moves by at most this many pixels and is filled with black."""
    x = torch.full((1, 1, 28, 28), -1.0)
    x[0, 0, 14, 14] = 1
    recipe = MnistClassifierRecipe(shift=2)
    places = {
        tuple(divmod(int(augment(x, recipe, step).flatten().argmax()), 28)) for step in range(200)
    }
    assert places == {(14 + down, 14 + right) for down in range(-2, 3) for right in range(-2, 3)}
    assert augment(x, recipe, 3).sum() == x.sum()
    assert torch.equal(augment(x, MnistClassifierRecipe(shift=0), 3), x)


def test_each_image_is_shifted_and_mirrored_separately():
    """Each image has its own offset and side, and keeps its pixels."""
    x = torch.full((64, 3, 10, 12), -1.0)
    x[:, :, 5, 6], x[:, :, 5, 8] = 1, 0.5
    moved = augment(x, ImageClassifierRecipe(shift=1), 7)
    assert moved.shape == x.shape
    assert torch.equal(moved.sum((1, 2, 3)), x.sum((1, 2, 3)))
    bright, dim = ((moved[:, 0] == level).nonzero()[:, 1:] for level in (1, 0.5))
    assert set((dim - bright)[:, 1].tolist()) == {2, -2}
    assert len({tuple(place) for place in bright.tolist()}) > 9
    assert torch.equal(augment(x, ImageClassifierRecipe(shift=0, mirror=False), 7), x)


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
    """Weights and description must exist, be complete and belong together."""
    copy = shutil.copytree(judge, tmp_path / "judge")
    content = (copy / file).read_bytes()
    (copy / file).unlink() if change is None else (copy / file).write_bytes(change(content))
    with pytest.raises(CheckpointError, match=text):
        load_classifier(copy, CPU)


def test_old_classifier_is_read(judge, tmp_path, test_digits):
    """A description without channels, from before there were RGB judges, is read as gray."""
    copy = shutil.copytree(judge, tmp_path / "judge")
    about = json.loads((copy / "classifier.json").read_text())
    del about["image_channels"], about["options"]["weight_decay"], about["options"]["mirror"]
    (copy / "classifier.json").write_text(json.dumps(about))
    model, _ = load_classifier(copy, CPU)
    assert (model.judge(test_digits.images)[1] == test_digits.labels).all()


def test_classifiers_return_logits():
    """Images [N, C, H, W] of a supported size give logits [N, K]."""
    assert DigitClassifier(7)(torch.zeros(2, 1, 28, 28)).shape == (2, 7)
    assert DigitClassifier(7).takes(28, 28, 1)
    assert not DigitClassifier(7).takes(32, 32, 1)
    deep = ResidualClassifier(5, width=4, blocks=2)
    for size in (8, 32, 64):
        assert deep.takes(size, size, 3)
        assert deep(torch.zeros(2, 3, size, size)).shape == (2, 5)
    assert deep.features(torch.zeros(2, 3, 32, 32)).shape == (2, 16)
    assert not deep.takes(4, 4, 3)
    pooled = PooledClassifier(5, width=8)
    for size in (9, 32, 64):
        assert pooled.takes(size, size, 3)
        assert pooled(torch.zeros(2, 3, size, size)).shape == (2, 5)
    assert pooled.features(torch.zeros(2, 3, 32, 32)).shape == (2, 32)
    assert not pooled.takes(8, 8, 3)


@pytest.fixture
def colours():
    """Forty RGB images of 12x12 pixels, red or blue."""
    labels = np.tile([0, 1], 20)
    images = np.zeros((40, 12, 12, 3), np.uint8)
    images[labels == 0, ..., 0] = 200
    images[labels == 1, ..., 2] = 200
    return LabelledImages("colours/train", images, labels, ("red", "blue"), "c" * 64)


def test_residual_classifier_learns(colours, tmp_path):
    """The recipe for images learns two colours, and the classifier can be saved and loaded."""
    recipe = ImageClassifierRecipe(width=2, epochs=8, batch_size=8, dropout=0.0)
    about = train_classifier(recipe, colours, colours, tmp_path, device=CPU, quiet=True)
    assert about["test_accuracy"] == 1.0
    assert about["image_channels"] == 3
    model, described = load_classifier(tmp_path, CPU)
    assert described["feature_layer"] == model.feature_layer == "features.pool"
    assert (model.judge(colours.images)[1] == colours.labels).all()


@pytest.mark.parametrize("damage", ["none", "power cut", "torn", "other options"])
def test_interrupted_training_resumes(colours, tmp_path, monkeypatch, damage, caplog, cut_power):  # noqa: PLR0917 - fixtures
    """A training that stops after an epoch and resumes gives the weights of an uninterrupted one.

    A state that is damaged or belongs to another recipe is ignored.
    """
    recipe = ImageClassifierRecipe(width=2, epochs=3, batch_size=8, dropout=0.2)
    train_classifier(recipe, colours, colours, tmp_path / "whole", device=CPU, quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "save", make_interrupting_save(Progress.save, 2))
        with pytest.raises(KeyboardInterrupt):
            train_classifier(recipe, colours, colours, tmp_path / "cut", device=CPU, quiet=True)
    (state,) = (tmp_path / "cut").iterdir()
    if damage == "power cut":
        cut_power(tmp_path / "cut")
    if damage == "torn":
        state.write_bytes(state.read_bytes()[:1_000])
    if damage == "other options":
        other = recipe.model_copy(update={"learning_rate": 1e-3})
        train_classifier(other, colours, colours, tmp_path / "cut", device=CPU, quiet=True)
        assert "belongs to another recipe" in caplog.text
        return
    train_classifier(recipe, colours, colours, tmp_path / "cut", device=CPU, quiet=True)
    whole, cut = (
        load_file(tmp_path / name / "classifier.safetensors") for name in ("whole", "cut")
    )
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert ("is damaged" in caplog.text) == (damage == "torn")
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == [
        "classifier.json",
        "classifier.safetensors",
    ]


def test_incomplete_classifier_does_not_count(colours, tmp_path, monkeypatch):
    """A kill while `classifier.json` is written leaves none, so that nobody takes it for done."""
    recipe = ImageClassifierRecipe(width=2, epochs=1, batch_size=8)
    write = Path.write_bytes

    def write_half(path, content):
        write(path, content[: len(content) // 2])
        if "classifier.json" in path.name:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_half)
        with pytest.raises(KeyboardInterrupt):
            train_classifier(recipe, colours, colours, tmp_path, device=CPU, quiet=True)
    assert not (tmp_path / "classifier.json").exists()
    train_classifier(recipe, colours, colours, tmp_path, device=CPU, quiet=True)
    load_classifier(tmp_path, CPU)


def make_interrupting_save(save, calls):
    """Returns a `Progress.save` that interrupts the training after this many calls."""
    left = iter(range(calls - 1, -1, -1))

    def saving(self, steps):
        save(self, steps)
        if next(left) == 0:
            raise KeyboardInterrupt

    return saving


@pytest.mark.parametrize(
    ("steps", "ended"), [(4, False), (5, True), (6, False), (9, False), (10, True)]
)
def test_epoch_end_is_detected(steps, ended):
    """With forty images in batches of eight, every fifth step completes an epoch."""
    assert has_ended(steps, 40, 8) == ended


def test_second_architecture_learns_digits(digits, test_digits, tmp_path):
    """The residual network classifies the toy digits and can be loaded again."""
    recipe = MnistClassifierRecipe(
        architecture="residual", epochs=8, batch_size=8, shift=0, dropout=0.0
    )
    about = train_classifier(recipe, digits, test_digits, tmp_path, device=CPU, quiet=True)
    assert about["test_accuracy"] > 0.9
    model, described = load_classifier(tmp_path, CPU)
    assert isinstance(model, ResidualClassifier)
    assert described["feature_layer"] == "features.pool"


@pytest.mark.parametrize(
    ("architecture", "optimizer"), [("pooled", "sgd"), ("pooled", "adam"), ("residual", "sgd")]
)
def test_judge_of_cifar10_learns_in_bfloat16(colours, tmp_path, architecture, optimizer):
    """Networks and optimisers of the recipe learn with augmentation in bfloat16."""
    recipe = Cifar10ClassifierRecipe(
        architecture=architecture,
        width=16,
        epochs=8,
        batch_size=8,
        learning_rate=1e-2,
        optimizer=optimizer,
        shift=1,
        precision="bf16",
    )
    about = train_classifier(recipe, colours, colours, tmp_path, device=CPU, quiet=True)
    assert about["test_accuracy"] == 1.0
    assert about["recipe"] == "cifar10-classifier"
    model, _ = load_classifier(tmp_path, CPU)
    assert (model.judge(colours.images)[1] == colours.labels).all()


def test_smooth_labels_count_all_classes():
    """With a smoothing of 0.2, a tenth of each label of two classes is the other's."""
    model = ResidualClassifier(2, width=2).eval()
    x, y = torch.randn(3, 3, 8, 8), torch.tensor([0, 1, 1])
    chances = model(x).log_softmax(dim=1)
    right, wrong = (chances[torch.arange(3), each].mean() for each in (y, 1 - y))
    expected = -(0.9 * right + 0.1 * wrong)
    assert torch.allclose(model.compute_loss(x, y, 0.2), expected, atol=1e-6)
    assert torch.allclose(model.compute_loss(x, y), -right, atol=1e-6)


def test_old_judge_of_cifar10_is_residual(colours, tmp_path):
    """A description from before the recipe had two networks is that of the residual one."""
    recipe = Cifar10ClassifierRecipe(architecture="residual", width=4, epochs=1, batch_size=8)
    train_classifier(recipe, colours, colours, tmp_path, device=CPU, quiet=True)
    about = json.loads((tmp_path / "classifier.json").read_text())
    del about["options"]["architecture"]
    (tmp_path / "classifier.json").write_text(json.dumps(about))
    model, _ = load_classifier(tmp_path, CPU)
    assert isinstance(model, ResidualClassifier)


def test_unsuitable_data_are_refused(colours, digits, tmp_path):
    """Images of an unsupported shape and a test split of other classes are refused."""
    with pytest.raises(DatasetError, match=r"mnist-classifier does not accept .*\[12, 12, 3\]"):
        train_classifier(MnistClassifierRecipe(), colours, colours, tmp_path, device=CPU)
    with pytest.raises(DatasetError, match="different classes"):
        train_classifier(MnistClassifierRecipe(), colours, digits, tmp_path, device=CPU)


@pytest.mark.data
def test_real_images_are_learnt(real_data, tmp_path):
    """A few steps on a few real images beat the share of the commonest class."""
    data = load_dataset("emoji64", "test", real_data, size=16)
    recipe = ImageClassifierRecipe(width=8, epochs=8, batch_size=32, learning_rate=1e-2)
    about = train_classifier(recipe, data, data, tmp_path, device=CPU, quiet=True)
    assert about["test_accuracy"] > np.bincount(data.labels).max() / len(data)
