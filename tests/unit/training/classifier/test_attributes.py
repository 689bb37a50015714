"""Tests of imagemint.training.classifier.attributes: the judge of people and their attributes."""

import json

import numpy as np
import pytest
import torch

from imagemint.training.classifier.attributes import AttributeClassifier
from imagemint.training.classifier.recipes import AvatarsClassifierRecipe
from imagemint.training.classifier.trained import load_classifier
from imagemint.training.classifier.training import train_classifier
from imagemint.training.datasets.avatars import STYLES, VALUES
from imagemint.training.datasets.images import Attribute, LabelledImages
from imagemint.training.errors import DatasetError
from imagemint.training.evaluation.extractors import Judge

CPU = torch.device("cpu")
COUNT = 80


def make_toy_people(name, seed):
    """Returns images whose shade shows the class and whose colour shows the first attributes."""
    rng = np.random.Generator(np.random.Philox(seed))
    labels = np.arange(COUNT) % len(STYLES)
    codes = {it: rng.integers(len(values), size=COUNT) for it, values in VALUES.items()}
    codes["skin"] %= 2
    images = rng.integers(0, 20, (COUNT, 64, 64, 3)).astype(np.uint8)
    for image, label, skin in zip(images, labels, codes["skin"], strict=True):
        image[6 * label : 6 * label + 6, :, 0] += 200
        image[:, :32, 1 + skin] += 150
    attributes = tuple(
        Attribute(it, values, codes[it], np.arange(COUNT) % 2 == 0 if it == "hair" else None)
        for it, values in VALUES.items()
    )
    return LabelledImages(
        f"avatars64/{name}", images, labels, tuple(STYLES), f"{seed:064x}", attributes=attributes
    )


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """The directory of a judge that is trained on toy people."""
    out = tmp_path_factory.mktemp("judge")
    recipe = AvatarsClassifierRecipe(
        width=4, epochs=30, batch_size=20, shift=0, dropout=0, learning_rate=1e-2
    )
    train_classifier(
        recipe, make_toy_people("train", 1), make_toy_people("test", 2), out, device=CPU, quiet=True
    )
    return out


def test_heads_learn_independently(judge):
    """The judge learns the class and the attribute that images show, and reports each accuracy."""
    about = json.loads((judge / "classifier.json").read_text())
    assert list(about["attribute_accuracy"]) == list(VALUES)
    assert about["test_accuracy"] > 0.95
    assert about["attribute_accuracy"]["skin"] > 0.95
    assert about["attribute_accuracy"]["mouth"] < 0.4  # no image shows it
    assert "skin " in Judge(judge, CPU).description


def test_judge_predicts_attributes(judge):
    """A judge that is loaded predicts attributes with the recorded accuracy."""
    model, about = load_classifier(judge, CPU)
    assert isinstance(model, AttributeClassifier)
    people = make_toy_people("test", 2)
    skin = {it.name: it for it in people.attributes}["skin"].codes
    share = (model.predict_attributes(people.images)["skin"] == skin).mean()
    assert share == about["attribute_accuracy"]["skin"]


def test_hidden_values_do_not_count():
    """A value that an image does not show changes no weight and no accuracy."""
    people = make_toy_people("train", 1)
    model = AttributeClassifier(len(STYLES), {"hair": len(VALUES["hair"])}, width=2)
    targets = model.make_targets(people)
    assert (targets[1::2, 1] == -1).all()
    assert (targets[::2, 1] >= 0).all()
    x = torch.zeros(4, 3, 64, 64)
    model.compute_loss(x, torch.from_numpy(targets[[1, 3, 5, 7]])).backward()
    assert model.heads["hair"].weight.grad.abs().max() == 0
    assert model.logits.weight.grad.abs().max() > 0


def test_unknown_attributes_are_refused():
    """The error names the attribute of the judge that the data lacks."""
    people = make_toy_people("train", 1)
    with pytest.raises(
        DatasetError, match=r"avatars64/train has no attribute tail with the values"
    ):
        AttributeClassifier(10, {"tail": 3}, width=2).make_targets(people)
    with pytest.raises(DatasetError, match="has no attribute skin"):
        AttributeClassifier(10, {"skin": 3}, width=2).make_targets(people)
