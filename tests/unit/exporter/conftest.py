"""Fixtures: a tiny trained generator and its bundle, exported once because it takes seconds."""

import pytest
import torch
from onnx_registry import keep_registry  # noqa: F401 - a fixture
from torch import nn

from imagemint.exporter.export import export_generator
from imagemint.training.evaluation_report import EvaluationFigure
from imagemint.training.networks import ConditionalGenerator
from imagemint.training.trained import TrainedGenerator


@pytest.fixture(scope="session")
def trained():
    """The recipe's generator, small, with batch statistics that differ clearly from 0 and 1."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        module = ConditionalGenerator(8, 3, c_dim=4, base_channels=8, image_channels=1)
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias)
                nn.init.normal_(layer.running_mean)
                nn.init.uniform_(layer.running_var, 0.05, 2.0)
    return describe(module.eval().requires_grad_(requires_grad=False))


def describe(module, **changed):
    """Returns what a training run records about a module."""
    return TrainedGenerator(
        **{
            "module": module,
            "z_dim": 8,
            "class_labels": ("zero", "one", "two"),
            "image_size": 28,
            "image_channels": 1,
            "recipe": "mnist",
            "options": {"learning_rate": 0.0002, "beta1": 0.0},
            "dataset": "mnist/train",
            "license": "CC-BY-SA-3.0",
            "seed": 2**64 - 1,
            "images_seen": 1_600_000,
            "code_revision": "0123abc",
            "weights_sha256": "ab" * 32,
            "evaluations": (
                EvaluationFigure("class_accuracy", 0.9912, "judged by a classifier", 10_000, 0.994),
                EvaluationFigure("images_per_second", 512.0, "measured", 64),
            ),
        }
        | changed
    )


@pytest.fixture(scope="session")
def exported(trained, tmp_path_factory):
    """The bundle of the tiny generator: `<tmp>/digits/1`."""
    return export_generator(trained, name="digits", repository=tmp_path_factory.mktemp("models"))
