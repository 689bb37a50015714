"""The settings of the command that trains a translator.

This module imports little: torch is imported when the command runs, not when its options are
listed.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from imagemint.training.errors import CheckpointError, DatasetError
from imagemint.training.loop.schedules import Schedule
from imagemint.training.run_command import LoopSettings, choose_device

if TYPE_CHECKING:
    import torch

    from imagemint.training.datasets import Split
    from imagemint.training.datasets.translations import Pairs
    from imagemint.training.loop.recorder import Measure
    from imagemint.training.loop.translation_task import Judge, TranslationTask
    from imagemint.training.networks.precision import Passes
    from imagemint.training.recipes.translation import TranslationRecipe


class TrainTranslator(LoopSettings):
    """Settings of a translator's run, besides the options of its recipe."""

    recipe_type: ClassVar[type["TranslationRecipe"]]

    data_set: str | None = Field(default=None, alias="dataset")
    """Data set by name, or a folder or file, whose images are the targets. Default: that of the
    recipe."""
    size: int | None = Field(default=None, ge=8)
    """Height and width that targets are scaled and cropped to. Default: those of the data set."""
    pairs: Literal["made", "left-to-right", "right-to-left"] = "made"
    """made: the recipe makes the sources from the images. left-to-right: each picture of the data
    set has a source in its left half and the target in its right half; --size is that of a half.
    right-to-left: the reverse."""
    per_class: int | None = Field(default=None, ge=1)
    """Number of images of each class, for experiments with few data. Default: all."""
    judge: Path | None = None
    """Directory of a classifier that `imagemint train avatars-classifier` or another wrote, in
    whose features a perceptual loss compares images."""
    log_interval: int = Field(default=1_600, ge=1)
    """Images between two rows of the log."""

    def run(self) -> int:
        """Trains, or prints what the run would do."""
        device = choose_device(self.device)
        if self.resume:
            from imagemint.training.datasets import DATASETS  # noqa: PLC0415 - torch
            from imagemint.training.loop.resume import resume_settings  # noqa: PLC0415 - torch

            return resume_settings(self, self.out, DATASETS).start(device)
        return self.start(device)

    def start(self, device: "torch.device") -> int:
        """Trains with exactly these settings."""
        from imagemint.training.distributed import SINGLE_PROCESS  # noqa: PLC0415 - torch
        from imagemint.training.loop.examples import Examples  # noqa: PLC0415 - torch
        from imagemint.training.loop.translation_task import TranslationTask  # noqa: PLC0415 - torch
        from imagemint.training.networks.precision import Passes  # noqa: PLC0415 - torch

        recipe = self.recipe_type(
            **{name: getattr(self, name) for name in self.recipe_type.model_fields}
        )
        pairs = self._load(recipe, "train")
        judge = self._read_judge(pairs) if self.judge is not None else None
        examples = Examples.of(self._load(recipe, "test", per_class=None))
        schedule = Schedule(
            self.log_interval,
            self.snapshot_interval or recipe.snapshots_every,
            rollbacks=self.rollbacks,
            divergence_factor=self.divergence_factor,
        )
        return self.run_task(
            *(TranslationTask(recipe, pairs, examples, judge), schedule, device),
            passes=Passes(self.choose_precision(device), device_type=device.type),
            processes=SINGLE_PROCESS,
            recorded={},
        )

    def find_warnings(self, task: "TranslationTask") -> list[str]:
        """Returns nothing: a run logs the remarks about its data when it reads them."""
        del task
        return []

    def rehearse(
        self,
        task: "TranslationTask",
        schedule: Schedule,
        device: "torch.device",
        passes: "Passes",
    ) -> dict[str, Any]:
        """Returns the number of pairs, possible problems, and the expected time."""
        from imagemint.training.loop.dry_run import estimate_time  # noqa: PLC0415 - torch

        return {
            "data": {"pairs": len(task.pairs), "paired": task.pairs.paired},
            "warnings": list(task.pairs.data.remarks),
            "expected": estimate_time(task, schedule, device, passes),
        }

    def measure(self, task: "TranslationTask", device: "torch.device") -> "Measure | None":
        """Returns nothing: the grids show the quality of a translator as it trains."""
        del task, device
        return None

    def _load(self, recipe: "TranslationRecipe", split: "Split", **other: int | None) -> "Pairs":
        from imagemint.training.datasets.translations import load_pairs  # noqa: PLC0415 - SciPy

        name = self.data_set or recipe.dataset
        options = {"size": self.size, "per_class": self.per_class} | other
        task = recipe.task if self.pairs == "made" else self.pairs
        if task != recipe.task and not recipe.takes_pairs:
            raise DatasetError(f"recipe {recipe.name} makes its sources itself: leave out --pairs")
        if task != recipe.task and self.data_set is None:
            raise DatasetError(f"--pairs {task} needs pictures of yours: name them by --dataset")
        return load_pairs(task, split, self.data, dataset=name, **options)

    def _read_judge(self, pairs: "Pairs") -> "Judge":
        """Returns the layers of the classifier.

        Raises:
            CheckpointError: there is none, or it does not take the targets.
        """
        import torch  # noqa: PLC0415 - import-light
        from torch import nn  # noqa: PLC0415 - import-light

        from imagemint.training.classifier.trained import load_classifier  # noqa: PLC0415 - torch
        from imagemint.training.loop.translation_task import Judge  # noqa: PLC0415 - torch

        assert self.judge is not None  # noqa: S101 - for the type checker; start made sure
        model, metadata = load_classifier(self.judge, torch.device("cpu"))
        if not model.takes(*pairs.target_shape) or not isinstance(model.features, nn.Sequential):
            raise CheckpointError(
                f"the classifier in {self.judge} does not accept images of"
                f" {list(pairs.target_shape)}: train one on {pairs.data.name}"
            )
        return Judge(model.features, metadata["sha256"])
