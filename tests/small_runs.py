"""Training runs of any recipe with tiny networks, forty images of noise and a few steps."""

import signal

import numpy as np
import torch

from imagemint.training.datasets import IMAGE_SHAPES, LabelledImages
from imagemint.training.datasets.avatars import VALUES
from imagemint.training.datasets.images import Attribute
from imagemint.training.loop import training_loop as loop
from imagemint.training.loop.generator_task import GeneratorTask
from imagemint.training.loop.monitor import Monitor
from imagemint.training.loop.schedules import Schedule

SMALL = {
    "batch_size": 8,
    "images": 48,
    "z_dim": 12,
    "w_dim": 4,
    "c_dim": 2,
    "generator_channels": 16,
    "discriminator_channels": 16,
    "refine_channels": 8,
    "width": 4,
    "labelled": 2,
    "virtual_batch": 4,
    "penalty_interval": 2,
    "stage_images": 8,
    "warm_up_steps": 1,
    "warm_up_turns": 3,
}
SCHEDULE = Schedule(log_interval=16, snapshot_interval=24, collapse_grace=1_000)
CPU = torch.device("cpu")


def small(recipe, **options):
    """Returns a recipe with tiny networks and few images, without the options that it lacks."""
    options = {"discriminator_steps": min(2, recipe().discriminator_steps)} | options
    known = {name: value for name, value in SMALL.items() if name in recipe.model_fields}
    return recipe(**known | options)


def pictures(recipe):
    """Returns forty images of noise of ten classes in the size and colours of a recipe.

    For a recipe of captions they have attributes besides.
    """
    rng = np.random.Generator(np.random.Philox(key=[3, 0]))
    images = rng.integers(0, 256, (40, *IMAGE_SHAPES[recipe.dataset])).astype(np.uint8)
    attributes = tuple(
        Attribute(name, values, rng.integers(len(values), size=40))
        for name, values in (VALUES.items() if recipe.condition == "caption" else ())
    )
    classes, labels = np.arange(40) % 10, tuple("abcdefghij")
    return LabelledImages("toy/train", images, classes, labels, "0" * 64, attributes=attributes)


def train(recipe, run, *, schedule=SCHEDULE, device=CPU, **further):
    """Trains on the CPU into a directory."""
    task = GeneratorTask(recipe, pictures(type(recipe)))
    return loop.train(task, run, schedule=schedule, device=device, quiet=True, **further)


def stop_after(monkeypatch, steps):
    """Raises SIGINT when the monitor gets the losses of a step."""
    step = Monitor.add_step

    def watched(self, *losses):
        step(self, *losses)
        if self._state.step == steps:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Monitor, "add_step", watched)


def train_twice(recipe, folder, monkeypatch):
    """Trains to `folder`/whole, and with an interruption to `folder`/cut. The ends are equal."""
    whole = train(recipe, folder / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        train(recipe, folder / "cut")
    assert are_equal(train(recipe, folder / "cut", resume=True), whole)


def are_equal(state, other):
    """Returns whether two states are equal bit for bit."""
    ours, theirs = state.collect_tensors(), other.collect_tensors()
    assert ours.keys() == theirs.keys()
    return [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
