"""The commands ``imagemint train`` and ``imagemint evaluate``: settings here, work elsewhere.

Import-light: torch is imported when a command runs, not when its options are listed.
"""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import CliPositionalArg

from imagemint.training.errors import CheckpointError, TrainingError
from imagemint.training.recipes.classifier import ClassifierRecipe
from imagemint.training.recipes.image_classifier import ImageClassifierRecipe
from imagemint.training.recipes.mnist import MnistRecipe
from imagemint.training.recipes.mnist_classifier import MnistClassifierRecipe

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

_INTERRUPTED = 130  # as the root command ends on Ctrl-C: a script must not export half a run


class RunSettings(BaseModel):
    """What every training run takes besides the options of its recipe."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    out: Path
    """Directory of the run; created when missing."""
    data: Path | None = None
    """Folder that holds the data sets; absent, the user's cache, filled by download."""
    dry_run: bool = False
    """Say what would be done, and check data and options, without training."""
    quiet: bool = False
    """No progress bar."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes the GPU when there is one."""


class TrainMnist(RunSettings, MnistRecipe):
    """Trains the class-conditional MNIST generator (two CPU cores: about 20 minutes)."""

    resume: bool = False
    """Continue from the newest checkpoint in --out."""
    log_interval: int = Field(default=6_400, ge=1)
    """Images between two rows of the log."""
    snapshot_interval: int = Field(default=64_000, ge=1)
    """Images between two checkpoints, each with a grid of samples."""
    collapse_grace: int = Field(default=128_000, ge=0)
    """Images before mode collapse is judged."""

    def run(self) -> int:
        """Trains, or says what it would do."""
        from imagemint.training import loop  # noqa: PLC0415 - torch
        from imagemint.training.checkpoints import (  # noqa: PLC0415
            fitting_checkpoint,
            latest_checkpoint,
            list_checkpoints,
        )
        from imagemint.training.datasets import load_dataset  # noqa: PLC0415

        recipe = MnistRecipe(**{name: getattr(self, name) for name in MnistRecipe.model_fields})
        data = load_dataset(recipe.dataset, "train", self.data)
        schedule = loop.Schedule(self.log_interval, self.snapshot_interval, self.collapse_grace)
        device = _device(self.device)
        about = loop.describe(recipe, data)
        options = about | {"schedule": asdict(schedule), "device": str(device)}
        if self.resume:
            found = fitting_checkpoint(self.out, about, free=loop.FREE_ON_RESUME)
            _log.info("resuming from %s", found)
        elif list_checkpoints(self.out):
            raise CheckpointError(f"{self.out} holds a run already; --resume continues it")
        if self.dry_run:
            print(json.dumps(options, indent=2))  # noqa: T201 - what the command is for
            return 0
        loop.write_options(self.out, options)
        state = loop.train(
            recipe,
            data,
            self.out,
            schedule=schedule,
            device=device,
            resume=self.resume,
            quiet=self.quiet,
        )
        stopped = state.images_seen < recipe.images
        hint = f" of {recipe.images:,}; --resume continues" if stopped else ""
        print(f"{latest_checkpoint(self.out)}: {state.images_seen:,} images{hint}")  # noqa: T201 - the command's answer
        return _INTERRUPTED if stopped else 0


class TrainMnistClassifier(RunSettings, MnistClassifierRecipe):
    """Trains the MNIST classifier that judges generators (two CPU cores: about ten minutes)."""

    def run(self) -> int:
        """Trains, writes ``classifier.safetensors`` and ``classifier.json``, says the accuracy."""
        return _train_classifier(self, MnistClassifierRecipe, self.dataset, None)


class TrainImageClassifier(RunSettings, ImageClassifierRecipe):
    """Trains a small residual classifier on CIFAR-10 or any data set (two cores: 40 minutes)."""

    def run(self) -> int:
        """Trains, writes ``classifier.safetensors`` and ``classifier.json``, says the accuracy."""
        return _train_classifier(self, ImageClassifierRecipe, self.dataset, self.size)


def _train_classifier(
    settings: RunSettings, kind: type[ClassifierRecipe], dataset: str, size: int | None
) -> int:
    from imagemint.training import classifier  # noqa: PLC0415 - torch
    from imagemint.training.datasets import load_dataset  # noqa: PLC0415

    recipe = kind(**{name: getattr(settings, name) for name in kind.model_fields})
    train, test = (
        load_dataset(dataset, split, settings.data, size=size) for split in ("train", "test")
    )
    if settings.dry_run:
        print(recipe.model_dump_json(indent=2))  # noqa: T201 - what the command is for
        return 0
    about = classifier.train_classifier(
        recipe, train, test, settings.out, device=_device(settings.device), quiet=settings.quiet
    )
    print(json.dumps(about, indent=2))  # noqa: T201 - the command's answer
    return 0


class Train(BaseModel):
    """Trains a network by recipe: imagemint train RECIPE --out RUN."""

    recipes: ClassVar[dict[str, type[BaseModel]]] = {
        MnistRecipe.name: TrainMnist,
        MnistClassifierRecipe.name: TrainMnistClassifier,
        ImageClassifierRecipe.name: TrainImageClassifier,
    }

    @classmethod
    def variants(cls) -> dict[str, type[BaseModel]]:
        """Returns the recipes by name, each with its own options."""
        return cls.recipes


class Evaluate(BaseModel):
    """Measures a trained run, or images somebody generated, against the real test set."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    source: CliPositionalArg[str]
    """Run, checkpoint, bundle, .npz of `imagemint generate`, or grpc://HOST:PORT/MODEL[@VERSION]."""
    classifier: Path | None = None
    """Directory of a classifier trained by `imagemint train mnist-classifier` or another."""
    inception: Path | None = None
    """Weights of the standard Inception network, whose features are then compared."""
    dataset: str | None = None
    """Data set to compare with; absent, the one that the source learnt, else the classifier's."""
    data: Path | None = None
    """Folder that holds the data sets; absent, the user's cache, filled by download."""
    samples: int | None = Field(default=None, ge=100)
    """Images of a seed, the classes in turn: 10,000, of Stacked MNIST 26,000; an .npz is whole."""
    seed: int = Field(default=0, ge=0, lt=2**64)
    """Seed whose images are drawn."""
    seeds: int = Field(default=1, ge=1, le=100)
    """So many seeds from there on; figures become their mean, with the standard deviation."""
    out: Path | None = None
    """Folder for table and pictures; absent, `evaluation/` of a run, and for others nowhere."""
    cache: bool = True
    """Take the result of an earlier evaluation of the same weights by the same protocol."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes the GPU when there is one."""

    def run(self) -> int:
        """Prints the figures; those of a run are also written to its ``evaluation.json``."""
        from imagemint.training import evaluation  # noqa: PLC0415 - torch

        device = _device(self.device)
        extractor, judge = evaluation.open_extractor(self.classifier, self.inception, device)
        source = evaluation.open_source(self.source, device)
        run = getattr(source, "run", None)
        try:
            figures = evaluation.evaluate(
                source,
                extractor,
                judge,
                evaluation.Protocol(self.samples, self.seed, self.seeds, self.dataset),
                self.data,
                out=self.out or (run / "evaluation" if run else None),
                cache=self.cache,
            )
        finally:
            source.close()
        for figure in figures:
            spread = "" if figure.deviation is None else f" ± {figure.deviation:.4f}"
            reference = "" if figure.reference is None else f"  (real data {figure.reference:.4f})"
            print(f"{figure.metric:28} {figure.value:9.4f}{spread}{reference}")  # noqa: T201 - the command's answer
        return 0


def _device(name: str) -> "torch.device":
    import torch  # noqa: PLC0415 - import-light

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    elif name == "cuda" and not torch.cuda.is_available():
        raise TrainingError("no GPU that this PyTorch can use; --device cpu or auto does without")
    return torch.device(name)
