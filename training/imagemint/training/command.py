"""The commands ``imagemint train`` and ``imagemint evaluate``: settings here, work elsewhere.

Import-light: torch is imported when a command runs, not when its options are listed.
"""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator
from pydantic_settings import CliPositionalArg

from imagemint.training.data_options import DataOptions
from imagemint.training.errors import (
    CheckpointError,
    DatasetError,
    ProcessesError,
    TrainingError,
    TrainingFailed,
)
from imagemint.training.recipes import CLASSIFIER_TABLE, TABLE

if TYPE_CHECKING:
    import torch

    from imagemint.training.classifier.recipes import ClassifierRecipe
    from imagemint.training.datasets import LabelledImages
    from imagemint.training.distributed import Distributed
    from imagemint.training.evaluation.curve import QualityCurve
    from imagemint.training.networks.precision import Precision
    from imagemint.training.recipes.recipe import Recipe

_log = logging.getLogger(__name__)

_INTERRUPTED = 130  # as the root command ends on Ctrl-C: a script must not export half a run


class RunSettings(BaseModel):
    """Settings of every training run, besides the options of its recipe."""

    model_config = ConfigDict(use_attribute_docstrings=True, allow_inf_nan=False)

    out: Path
    """Directory of the run; created when missing."""
    data: Path | None = None
    """Folder of the data sets. Default: the user's cache, filled by download."""
    dry_run: bool = False
    """Print the options, the classes with their counts, the image shape, the device, problems of
    the data, and the expected time, measured on a few steps. Write nothing."""
    quiet: bool = False
    """Show no progress bar."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on. auto: a GPU if there is one."""


class TrainGenerator(RunSettings, DataOptions):
    """Settings of a generator's run, besides the options of its recipe."""

    recipe_type: ClassVar[type["Recipe"]]

    data_set: str | None = Field(default=None, alias="dataset")
    """Data set by name, or a folder or file: pictures in folders of their classes, or listed by a
    CSV or JSON Lines file, Parquet files, tar shards. Default: that of the recipe."""
    size: int | None = Field(default=None, ge=8)
    """Height and width that images are scaled and cropped to. Default: those of the data set."""
    channels: Literal[1, 3] | None = None
    """1 for gray, 3 for RGB. Default: as the data set has them."""
    per_class: int | None = Field(default=None, ge=1)
    """Number of images of each class, for experiments with few data. Default: all."""
    classifier: Path | None = None
    """Directory of a classifier that `imagemint train mnist-classifier` or another wrote. With it
    the log has the quality of 5,000 images at every checkpoint: Frechet distance as a multiple of
    that of real images, coverage, and accuracy or modes."""
    resume: bool = False
    """Continue from the newest whole checkpoint in --out, with the options of the run. Options that
    you give anew must agree with it, except those that set its length and what it reports."""
    log_interval: int = Field(default=6_400, ge=1)
    """Images between two rows of the log."""
    snapshot_interval: int | None = Field(default=None, ge=1)
    """Images between two checkpoints, each with a grid of samples. Default: that of the recipe, an
    epoch of 60,000 for vanilla-mnist and 64,000 for the others."""
    collapse_grace: int | None = Field(default=None, ge=0)
    """Images before mode collapse is judged. Default: the recipe's own, 1,800,000 for vanilla-mnist
    and 128,000 for the others."""
    collapse_patience: int | None = Field(default=None, ge=0)
    """Images for which a collapse has to last to end the run; until then it is a warning. Default:
    the recipe's own, 1,800,000 for vanilla-mnist and 256,000 for the others."""
    divergence_factor: float = Field(default=100.0, gt=1, allow_inf_nan=True)
    """A run diverges when its losses exceed their usual size by this factor. inf: never."""
    rollbacks: int = Field(default=0, ge=0)
    """How often a run that diverged or collapsed may continue from its last good checkpoint, with
    half the learning rate and another order of the data, before it fails."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of convolutions and dense layers. auto: that of the checkpoint with --resume, else
    bf16 on a GPU that supports it, else fp32. Weights are always float32."""
    compile_: bool = Field(default=False, alias="compile")
    """Compile the passes with PyTorch. On a CPU this needs a C++ compiler, and a minute or more."""
    processes: int = Field(default=1, ge=1)
    """Processes on this machine that share each batch. Each has its own GPU, or the CPU."""
    nodes: int = Field(default=1, ge=1)
    """Machines, each with this number of processes. The environment tells how they connect."""

    def run(self) -> int:
        """Trains, or prints what it would do."""
        if self.compile_ and self.processes * self.nodes > 1:
            raise ProcessesError(
                "--compile is for one process: statistics that several work out together are"
                " calls to each other, which the compiler does not see through"
            )
        device = _device(self.device)
        if self.resume:
            from imagemint.training.datasets import DATASETS  # noqa: PLC0415 - torch
            from imagemint.training.loop.resume import resume_settings  # noqa: PLC0415 - torch

            return resume_settings(self, self.out, DATASETS).start(device)
        return self.start(device)

    def start(self, device: "torch.device") -> int:
        """Trains with exactly these settings, in as many processes as they say."""
        from imagemint.training.distributed import SINGLE_PROCESS, start_distributed  # noqa: PLC0415 - torch

        if self.dry_run:
            return self._train(SINGLE_PROCESS, device)
        processes, device = start_distributed(device, self.processes, self.nodes)
        try:
            return self._train(processes, device)
        except TrainingFailed:
            if processes.rank == 0:
                raise
            return 1  # the first process says why

    def _train(self, processes: "Distributed", device: "torch.device") -> int:
        from imagemint.training.loop import (  # noqa: PLC0415 - torch
            dry_run,
            provenance,
            start,
            training_loop,
        )
        from imagemint.training.loop.checkpoints import (  # noqa: PLC0415 - torch
            find_fitting_checkpoint,
            latest_checkpoint,
            list_checkpoints,
        )
        from imagemint.training.loop.resume import settings_to_record  # noqa: PLC0415
        from imagemint.training.loop.schedules import Schedule  # noqa: PLC0415
        from imagemint.training.networks.precision import Passes  # noqa: PLC0415

        recipe = self.recipe_type(
            **{name: getattr(self, name) for name in self.recipe_type.model_fields}
        )
        with processes.rank_zero_first():  # which downloads for all
            data = self._training_data(recipe)
        schedule = Schedule(
            self.log_interval,
            self.snapshot_interval or recipe.snapshots_every,
            recipe.judged_after if self.collapse_grace is None else self.collapse_grace,
            self.rollbacks,
            self.divergence_factor,
            recipe.recovers_within if self.collapse_patience is None else self.collapse_patience,
        )
        passes = Passes(self._precision(device), compiled=self.compile_, device_type=device.type)
        about = provenance.describe(recipe, data, passes.precision)
        options = about | {
            "schedule": asdict(schedule),
            "device": str(device),
            "compile": self.compile_,
            "processes": self.processes * self.nodes,
            "settings": settings_to_record(self, about["options"]),
        }
        if self.resume:
            found = find_fitting_checkpoint(self.out, about, free=training_loop.FREE_ON_RESUME)
            _log.info("resuming from %s", found)
        elif list_checkpoints(self.out):
            raise CheckpointError(f"{self.out} holds a run already; --resume continues it")
        if self.dry_run or processes.rank == 0:
            warnings = dry_run.warnings_for(recipe, data)
        if self.dry_run:
            start.initial_state(recipe, data, device)  # refuses images that networks cannot draw
            test = self._test_split(recipe)
            warnings += dry_run.warnings_on_test(test)
            options["data"] = dry_run.describe_data(data, test)
            options["warnings"] = [*options["data"].pop("remarks"), *warnings]
            options["expected"] = dry_run.expected_time(recipe, data, schedule, device, passes)
            print(json.dumps(options, indent=2))  # noqa: T201 - what the command is for
            return 0
        if processes.rank == 0:
            for warning in warnings:
                _log.warning("%s: %s", data.name, warning)
            provenance.write_options(self.out, options)
        state = training_loop.train(
            recipe,
            data,
            self.out,
            schedule=schedule,
            device=device,
            passes=passes,
            processes=processes,
            resume=self.resume,
            measure=self._quality_curve(recipe, data, device) if processes.rank == 0 else None,
            quiet=self.quiet,
        )
        if processes.rank:
            return 0
        stopped = state.images_seen < recipe.images
        hint = f" of {recipe.images:,}; --resume continues" if stopped else ""
        print(f"{latest_checkpoint(self.out)}: {state.images_seen:,} images{hint}")  # noqa: T201 - the command's answer
        return _INTERRUPTED if stopped else 0

    def _training_data(self, recipe: "Recipe") -> "LabelledImages":
        """Returns the training pictures, on resume with the classes in the order of the run."""
        from imagemint.training.loop.resume import read_class_order  # noqa: PLC0415 - torch

        def load(order: tuple[str, ...] | None = None) -> "LabelledImages":
            name = self.data_set or recipe.dataset
            return self.load(
                *(name, "train", self.data),
                class_labels=order,
                size=self.size,
                channels=self.channels,
                per_class=self.per_class,
            )

        data = load()
        order = read_class_order(self.out, data) if self.resume else None
        if order is None:
            return data
        try:
            return load(order)
        except DatasetError:  # other classes: the checkpoint says what it was made of
            return data

    def _test_split(self, recipe: "Recipe") -> "LabelledImages | str":
        """Returns the test pictures that `imagemint evaluate` takes, or why there are none."""
        name = self.data_set or recipe.dataset
        try:
            return self.load(name, "test", self.data, size=self.size, channels=self.channels)
        except DatasetError as error:
            return str(error)

    def _quality_curve(
        self, recipe: "Recipe", data: "LabelledImages", device: "torch.device"
    ) -> "QualityCurve | None":
        """Returns what measures the generator at each checkpoint; None without a classifier."""
        from imagemint.training.evaluation import open_extractor  # noqa: PLC0415 - torch
        from imagemint.training.evaluation.curve import QualityCurve  # noqa: PLC0415

        if self.classifier is None:
            return None
        test = self._test_split(recipe)
        if isinstance(test, str):
            raise DatasetError(f"--classifier needs test images: {test}")
        extractor, _ = open_extractor(self.classifier, None, device)
        return QualityCurve(recipe, data, test, extractor)

    def _precision(self, device: "torch.device") -> "Precision":
        from imagemint.training.loop.checkpoints import (  # noqa: PLC0415 - torch
            find_whole_checkpoint,
            read_description,
        )
        from imagemint.training.networks.precision import precision_of  # noqa: PLC0415

        if self.precision != "auto":
            return self.precision
        if self.resume:
            found: Precision = read_description(find_whole_checkpoint(self.out)).get(
                "precision", "fp32"
            )
            return found
        return precision_of(device)


class TrainClassifier(RunSettings, DataOptions):
    """Settings of a classifier's training, besides the options of its recipe."""

    recipe_type: ClassVar[type["ClassifierRecipe"]]

    def run(self) -> int:
        """Trains, writes the weights and ``classifier.json``, and prints the latter."""
        from imagemint.training.classifier.training import (  # noqa: PLC0415 - torch
            preview,
            train_classifier,
        )

        recipe = self.recipe_type(
            **{name: getattr(self, name) for name in self.recipe_type.model_fields}
        )
        train, test = (
            self.load(recipe.dataset, split, self.data, size=recipe.size)
            for split in ("train", "test")
        )
        device = _device(self.device)
        if self.dry_run:
            about = recipe.model_dump(mode="json") | preview(recipe, train, test)
            about["device"] = str(device)
        else:
            about = train_classifier(recipe, train, test, self.out, device=device, quiet=self.quiet)
        print(json.dumps(about, indent=2))  # noqa: T201 - the command's answer
        return 0


class ListRecipes(BaseModel):
    """Shows every recipe: data set, expected time and recorded quality."""

    def run(self) -> int:
        """Prints a table of what was recorded; the rest is marked."""
        from imagemint.training.recipes.results import table  # noqa: PLC0415 - rarely asked for

        print(table())  # noqa: T201 - the command's answer
        return 0


class Train(BaseModel):
    """Trains a network by recipe: imagemint train RECIPE --out RUN."""

    @classmethod
    def variants(cls) -> dict[str, str]:
        """Returns the recipes by name, each with one line of help. Imports none of them."""
        table = TABLE | CLASSIFIER_TABLE
        lines = {name: f"Trains {each.summary} ({each.dataset})." for name, each in table.items()}
        return lines | {"--list": (ListRecipes.__doc__ or "").partition("\n")[0]}

    @classmethod
    def load_variant(cls, name: str) -> type[BaseModel]:
        """Returns the command that trains by the recipe, whose options are its own."""
        if name == "--list":
            return ListRecipes
        entry = (TABLE | CLASSIFIER_TABLE)[name]
        recipe = entry.load()
        command = create_model(
            f"Train{recipe.__name__}",
            __base__=(TrainGenerator if name in TABLE else TrainClassifier, recipe),
            __doc__=cls.variants()[name],
            __module__=__name__,
        )
        # Set, not declared, because a ClassVar cannot be given to create_model.
        setattr(command, "recipe_type", recipe)  # noqa: B010
        return command


class Evaluate(DataOptions):
    """Measures a trained run, a bundle, a server or a set of images against the real test set."""

    model_config = ConfigDict(use_attribute_docstrings=True, allow_inf_nan=False)

    source: CliPositionalArg[str]
    """Run, checkpoint, bundle, folder of pictures or .npz of `imagemint generate`, or
    grpc://HOST:PORT/MODEL[@VERSION]. The classes of pictures in a folder come from a CSV file
    there, from their serial numbers, or from folders."""
    classifier: list[Path] = Field(default_factory=list)
    """Directory of a classifier that `imagemint train mnist-classifier` or another wrote. With
    several, images are judged by each; figures of the second and further ones have the name of its
    directory behind an @."""
    inception: Path | None = None
    """Weights of the standard Inception network. Its features are compared instead."""
    dataset: str | None = None
    """Data set to compare with. Default: that of the source, else that of the classifier."""
    data: Path | None = None
    """Folder of the data sets. Default: the user's cache, filled by download."""
    samples: int | None = Field(default=None, ge=100)
    """Images of each seed, with the classes in turn. Default: 10,000, or 26,000 of Stacked MNIST.
    All images of a file are used."""
    seed: int = Field(default=0, ge=0, lt=2**64)
    """First seed whose images are drawn."""
    seeds: int = Field(default=1, ge=1, le=100)
    """Number of seeds. Figures are their mean, with the standard deviation."""
    out: Path | None = None
    """Folder for table and pictures. Default: `evaluation/` of a run; none for other sources."""
    variant: str = "reference"
    """Graph of a bundle that is measured: reference, auto (as a server chooses), or its name."""
    cache: bool = True
    """Return the result of an earlier evaluation of the same weights by the same protocol."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to compute on. auto: a GPU if there is one."""

    @field_validator("classifier", mode="before")
    @classmethod
    def _accept_one(cls, given: object) -> object:
        """A file of settings may name a single classifier as text."""
        return [given] if isinstance(given, str | Path) else given

    def run(self) -> int:
        """Prints the figures; those of a run are also written to its ``evaluation.json``."""
        from imagemint.training import evaluation  # noqa: PLC0415 - torch

        device = _device(self.device)
        classifiers: list[Path | None] = [*self.classifier] or [None]
        judgings = [
            evaluation.Judging(
                each.resolve().name if each else "",
                *evaluation.open_extractor(each, self.inception, device),
            )
            for each in classifiers
        ]
        source = evaluation.open_source(self.source, device, variant=self.variant)
        run = getattr(source, "run", None)
        try:
            figures = evaluation.evaluate_under_all(
                source,
                judgings,
                evaluation.Protocol(self.samples, self.seed, self.seeds, self.dataset),
                self.data,
                out=self.out or (run / "evaluation" if run else None),
                cache=self.cache,
                reading=self if DataOptions.model_fields.keys() & self.model_fields_set else None,
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
