"""Tests of imagemint.training.evaluation.classifying: discriminators that also classify."""

from dataclasses import replace

import pytest
import torch

from imagemint.training.evaluation import open_source
from imagemint.training.evaluation.classifying import measure_discriminator
from imagemint.training.loop import training_loop as loop
from imagemint.training.loop.generator_task import GeneratorTask
from imagemint.training.loop.schedules import Schedule
from imagemint.training.recipes import RECIPES

CPU = torch.device("cpu")
SMALL = {
    "batch_size": 40,
    "z_dim": 4,
    "generator_channels": 4,
    "discriminator_channels": 8,
    "learning_rate": 2e-3,
}


@pytest.fixture
def run(tmp_path, digits):
    """A function that trains a small recipe on the toy digits and opens the run."""

    def train(name, **options):
        task = GeneratorTask(RECIPES[name](**SMALL | options), digits)
        loop.train(task, tmp_path, schedule=Schedule(10_000, 10_000), device=CPU, quiet=True)
        return open_source(str(tmp_path), CPU)

    return train


@pytest.mark.parametrize(
    ("options", "labels"),
    [({"name": "ssgan", "labelled": 3}, 30), ({"name": "acgan", "c_dim": 2}, 40)],
)
def test_discriminator_classifies(run, digits, test_digits, options, labels):
    """The accuracy of D's classifier on the test images is measured, and its labels are counted."""
    source = run(images=1_200, **options)
    (figure,) = measure_discriminator(source, digits, test_digits)
    assert (figure.metric, figure.sample_size) == ("classifier_accuracy", 60)
    assert figure.value > 0.8
    assert f"{labels} labels shown" in figure.protocol
    assert "all 60 images of mnist/test" in figure.protocol
    wrong = replace(test_digits, labels=(test_digits.labels + 1) % 10)
    (figure,) = measure_discriminator(source, digits, wrong)
    assert figure.value < 0.2


def test_codes_are_assigned_to_classes(run, digits, test_digits):
    """D's codes are measured by their best assignment to classes, whatever the class names are."""
    source = run("infogan", images=80, c_dim=2)
    (figure,) = measure_discriminator(source, digits, test_digits)
    assert figure.metric == "code_classifier_accuracy"
    renamed = replace(test_digits, labels=(test_digits.labels + 3) % 10)
    assert measure_discriminator(source, digits, renamed)[0].value == figure.value
    assert 0.1 <= figure.value <= 1


def test_statistics_of_heads_are_those_of_real_images(run, digits, test_digits):
    """Batch normalisation in a head, too, is measured again on real images."""
    source, moved = run("infogan", images=400, c_dim=2), {}
    load = source.load_discriminator

    def load_with_other_statistics(num_classes):
        D = load(num_classes)
        for name, layer in D.named_modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.running_mean.add_(100)
                moved[name] = layer
        return D

    (figure,) = measure_discriminator(source, digits, test_digits)
    source.load_discriminator = load_with_other_statistics
    assert measure_discriminator(source, digits, test_digits)[0].value == figure.value
    assert any(name.startswith("heads.code") for name in moved)
    assert all(layer.num_batches_tracked > 0 for layer in moved.values())


def test_other_discriminators_have_no_metric(run, digits, test_digits):
    """A D without a classifier has no metric."""
    assert measure_discriminator(run("dcgan", images=80), digits, test_digits) == []
