"""Fixtures: toy digits, tiny networks, and training runs of about a second."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_registry import keep_registry  # noqa: F401 - a fixture

from imagemint.training import datasets
from imagemint.training.classifier.recipes import MnistClassifierRecipe
from imagemint.training.classifier.training import train_classifier
from imagemint.training.datasets import LabelledImages
from imagemint.training.loop import health, monitor, provenance, training_loop
from imagemint.training.loop.generator_task import GeneratorTask
from imagemint.training.loop.schedules import Schedule
from imagemint.training.recipes.mnist import MnistRecipe

LABELS = tuple("0123456789")
TINY = {
    "z_dim": 4,
    "c_dim": 2,
    "generator_channels": 4,
    "discriminator_channels": 1,
    "batch_size": 8,
    "images": 96,
    "penalty_interval": 3,
    "learning_rate": 1e-3,
}
# Runs have twelve steps. The log has a row every third step, and a checkpoint every fourth.
SCHEDULE = Schedule(log_interval=24, snapshot_interval=32, collapse_grace=1_000)


@pytest.fixture(autouse=True, scope="session")
def _use_one_thread():
    """Uses one thread. Bitwise equality needs a fixed number, and other processes need cores."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed_torch():
    """Seeds PyTorch, so that freshly initialised networks do not depend on the tests before."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _shorten_and_fix_runs(monkeypatch):
    """Recalibrates on one batch and fixes the revision, as a commit may come between two runs."""
    monkeypatch.setattr(health, "RECALIBRATION_BATCHES", 1)
    monkeypatch.setattr(provenance, "read_code_revision", lambda: "0123abc+")


@pytest.fixture(autouse=True)
def _skip_plots(monkeypatch):
    """Skips the loss plot, which takes half of a tiny run.

    Module test_monitor overrides this fixture.
    """
    monkeypatch.setattr(monitor, "plot_losses", lambda _: None)


@pytest.fixture(autouse=True)
def _skip_animation(monkeypatch):
    """Skips the animation of the grids, whose palettes take half of a tiny run in colour.

    Modules test_monitor and test_training_loop override this fixture.
    """
    monkeypatch.setattr(monitor, "animate_grids", lambda _: None)


def make_toy_digits(name, per_class, seed):
    """Returns images of noise with a bright block whose position shows the class."""
    labels = np.tile(np.arange(10), per_class)
    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
    images = rng.integers(0, 60, (len(labels), 28, 28, 1)).astype(np.uint8)
    for image, y in zip(images, labels, strict=True):
        top, left = divmod(int(y), 4)
        image[9 * top : 9 * top + 6, 7 * left : 7 * left + 6] += 150
    return LabelledImages(name, images, labels, LABELS, f"{seed:064x}", license="CC0-1.0")


@pytest.fixture(scope="session")
def digits():
    """Forty training images, so that an epoch ends within a run."""
    return make_toy_digits("mnist/train", 4, seed=1)


@pytest.fixture(scope="session")
def test_digits():
    """Sixty other images for the test split."""
    return make_toy_digits("mnist/test", 6, seed=2)


@pytest.fixture
def toy_mnist(monkeypatch, digits, test_digits):
    """Registers the toy digits as MNIST for the commands."""
    splits = {"train": digits, "test": test_digits}
    monkeypatch.setitem(datasets.DATASETS, "mnist", lambda split, _: splits[split])


@pytest.fixture
def train(digits):
    """A function that trains a tiny recipe. An example is `train(run, resume=True, seed=3)`."""

    def start(run, *, resume=False, schedule=SCHEDULE, measure=None, **options):
        return training_loop.train(
            GeneratorTask(MnistRecipe(**TINY | options), digits),
            run,
            schedule=schedule,
            device=torch.device("cpu"),
            resume=resume,
            measure=measure,
            quiet=True,
        )

    return start


@pytest.fixture
def read_files():
    """A function that returns all files of a run by path, without the timings of the log."""

    def read(run):
        files = {
            str(path.relative_to(run)): path.read_bytes()
            for path in run.rglob("*")
            if path.is_file() and "tensorboard" not in path.parts
        }
        rows = [json.loads(row) for row in files["log.jsonl"].splitlines()]
        files["log.jsonl"] = [
            [
                (name, figure)
                for name, figure in row.items()
                if name not in ("images_per_s", "cpu_s")
            ]
            for row in rows
        ]
        return files

    return read


@pytest.fixture
def cut_power(monkeypatch):
    """A function that leaves of the files in a folder what was flushed to the disk.

    The rest becomes zeros, as with file systems that store the length of a file before its content.
    TensorBoard's files stay.
    """
    durable = {}

    def fsync(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_file():
            durable[path.stat().st_ino] = path.read_bytes()

    def cut(folder):
        for path in folder.rglob("*"):
            if path.is_file() and "tensorboard" not in path.parts:
                flushed = durable.get(path.stat().st_ino, b"")
                path.write_bytes(flushed.ljust(path.stat().st_size, b"\0"))

    monkeypatch.setattr(os, "fsync", fsync)
    return cut


@pytest.fixture
def poison(monkeypatch):
    """A function that fills the averaged generator's weights with a value from a step on."""

    def arm(first_step, value):
        steps = iter(range(1, 1_000))
        update_ema = training_loop.update_ema

        def average(averaged, running, weight):
            update_ema(averaged, running, weight)
            if next(steps) >= first_step:
                for parameter in averaged.parameters():
                    parameter.fill_(value)

        monkeypatch.setattr(training_loop, "update_ema", average)

    return arm


@pytest.fixture(scope="session")
def judge(tmp_path_factory, digits, test_digits):
    """The directory of a classifier that is trained on the toy digits."""
    out = tmp_path_factory.mktemp("judge")
    recipe = MnistClassifierRecipe(epochs=8, batch_size=20, shift=0, dropout=0.0)
    train_classifier(recipe, digits, test_digits, out, device=torch.device("cpu"), quiet=True)
    return out
