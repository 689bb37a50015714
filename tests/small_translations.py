"""Short runs of translators: tiny networks, forty noisy pictures, and a few steps."""

import numpy as np
import torch
from torch import nn

from imagemint.training.datasets import LabelledImages
from imagemint.training.datasets.translations import (
    DegradedImages,
    MovingImages,
    Pairs,
    SourceForm,
    UnpairedImages,
)
from imagemint.training.datasets.translations.degradations import (
    Edges,
    Gray,
    LowResolution,
    MotionBlur,
    Unchanged,
)
from imagemint.training.datasets.translations.holes import Holes
from imagemint.training.loop import training_loop
from imagemint.training.loop.examples import Examples
from imagemint.training.loop.schedules import Schedule
from imagemint.training.loop.translation_task import Judge, TranslationTask

SIZE = 16
SMALL = {
    "batch_size": 4,
    "images": 24,
    "base_channels": 4,
    "depth": 2,
    "blocks": 1,
    "discriminator_channels": 2,
    "discriminator_layers": 1,
    "adversarial_after": 0,
    "perceptual_after": 0,
    "pool": 6,
}
# Six steps; rows of the log after every second, checkpoints after every third.
SCHEDULE = Schedule(log_interval=8, snapshot_interval=12)
CPU = torch.device("cpu")


def pictures(seed=3, count=40):
    """Returns noisy pictures of ten classes."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
    images = rng.integers(0, 256, (count, SIZE, SIZE, 3)).astype(np.uint8)
    classes = np.arange(count) % 10
    return LabelledImages(f"toy-{seed}/train", images, classes, tuple("abcdefghij"), f"{seed:064x}")


class TwoFrames(Pairs):
    """Sources of two frames and a mask: the picture, the picture upside down, and its left half."""

    def __init__(self, data):
        form = SourceForm(SIZE, SIZE, 3, frames=2, mask=True)
        super().__init__(
            "masked-frames", data, form=form, target_shape=(SIZE, SIZE, 3), parameters=""
        )

    def draw(self, seed, first, count):
        """Returns pairs in the order of the data."""
        del seed
        return self.make_examples(np.arange(first, first + count) % len(self))

    def make_examples(self, rows):
        """Returns pairs of these rows."""
        x = self.data.images[rows]
        mask = np.zeros((*x.shape[:3], 1), np.uint8)
        mask[:, :, : SIZE // 2] = 255
        return np.concatenate([x, x[:, ::-1], mask], axis=3), x


def pairs_of(task, data=None):
    """Returns toy pairs of a task."""
    data = data or pictures()
    if task == "glasses":
        rows = np.arange(len(data))
        return UnpairedImages(task, data, rows[::2], rows[1::2], 255 - data.images[::2])
    if task == "frames":
        return MovingImages(task, data)
    if task == "masked-frames":
        return TwoFrames(data)
    degradations = {
        "edges": Edges(),
        "gray": Gray(),
        "low-resolution": LowResolution(),
        "motion-blur": MotionBlur(longest=4),
        "holes": Holes(),
        "images": Unchanged(),
    }
    return DegradedImages(task, data, degradations[task])


def toy_judge():
    """Returns layers like those of a classifier, with fixed random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * (SIZE // 2) ** 2, 8),
        )
    return Judge(layers.eval(), "5" * 64)


def small_task(recipe, **options):
    """Returns a task with tiny networks; options that the recipe does not have are ignored."""
    known = {name: value for name, value in SMALL.items() if name in recipe.model_fields}
    made = recipe(**known | options)
    pairs, examples = pairs_of(made.task), Examples.of(pairs_of(made.task, pictures(4, 12)))
    return TranslationTask(made, pairs, examples, toy_judge() if made.needs_judge else None)


def train(task, run, *, schedule=SCHEDULE, **further):
    """Trains into a directory, on the CPU."""
    return training_loop.train(task, run, schedule=schedule, device=CPU, quiet=True, **further)
