"""The settings of the command that trains a generator.

This module imports little: torch is imported when the command runs, not when its options are
listed.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from imagemint.training.data_options import DataOptions
from imagemint.training.errors import DatasetError, ProcessesError, TrainingFailed
from imagemint.training.loop.schedules import Schedule
from imagemint.training.run_command import LoopSettings, choose_device

if TYPE_CHECKING:
    import torch

    from imagemint.training.datasets import LabelledImages
    from imagemint.training.distributed import Distributed
    from imagemint.training.evaluation.curve import QualityCurve
    from imagemint.training.loop.generator_task import GeneratorTask
    from imagemint.training.networks.precision import Passes
    from imagemint.training.recipes.recipe import Recipe


class TrainGenerator(LoopSettings, DataOptions):
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
    collapse_grace: int | None = Field(default=None, ge=0)
    """Images before mode collapse is judged. Default: the recipe's own, 1,800,000 for vanilla-mnist
    and 128,000 for the others."""
    collapse_patience: int | None = Field(default=None, ge=0)
    """Images for which a collapse has to last to end the run; until then it is a warning. Default:
    the recipe's own, 1,800,000 for vanilla-mnist and 256,000 for the others."""
    compile_: bool = Field(default=False, alias="compile")
    """Compile the passes with PyTorch. On a CPU this needs a C++ compiler, and a minute or more."""
    processes: int = Field(default=1, ge=1)
    """Processes on this machine that share each batch. Each has its own GPU, or the CPU."""
    nodes: int = Field(default=1, ge=1)
    """Machines, each with this number of processes. The environment says how they connect."""

    def run(self) -> int:
        """Trains, or prints what the run would do."""
        if self.compile_ and self.processes * self.nodes > 1:
            raise ProcessesError(
                "--compile needs a single process: several processes exchange statistics, and the"
                " compiler does not support these exchanges"
            )
        device = choose_device(self.device)
        if self.resume:
            from imagemint.training.datasets import DATASETS  # noqa: PLC0415 - torch
            from imagemint.training.loop.resume import resume_settings  # noqa: PLC0415 - torch

            return resume_settings(self, self.out, DATASETS).start(device)
        return self.start(device)

    def start(self, device: "torch.device") -> int:
        """Trains with exactly these settings, in their number of processes."""
        from imagemint.training.distributed import SINGLE_PROCESS, start_distributed  # noqa: PLC0415 - torch

        if self.dry_run:
            return self._train(SINGLE_PROCESS, device)
        processes, device = start_distributed(device, self.processes, self.nodes)
        try:
            return self._train(processes, device)
        except TrainingFailed:
            if processes.rank == 0:
                raise
            return 1  # the first process reports the error

    def _train(self, processes: "Distributed", device: "torch.device") -> int:
        from imagemint.training.loop.generator_task import GeneratorTask  # noqa: PLC0415 - torch
        from imagemint.training.networks.precision import Passes  # noqa: PLC0415 - torch

        recipe = self.recipe_type(
            **{name: getattr(self, name) for name in self.recipe_type.model_fields}
        )
        with processes.rank_zero_first():  # the first process downloads for all
            task = GeneratorTask(recipe, self._load_training_data(recipe))
        schedule = Schedule(
            self.log_interval,
            self.snapshot_interval or recipe.snapshots_every,
            recipe.judged_after if self.collapse_grace is None else self.collapse_grace,
            self.rollbacks,
            self.divergence_factor,
            recipe.recovers_within if self.collapse_patience is None else self.collapse_patience,
        )
        precision = self.choose_precision(device)
        return self.run_task(
            *(task, schedule, device),
            passes=Passes(precision, compiled=self.compile_, device_type=device.type),
            processes=processes,
            recorded={"compile": self.compile_, "processes": self.processes * self.nodes},
        )

    def find_warnings(self, task: "GeneratorTask") -> list[str]:
        """Returns possible problems of the training pictures, and what the run omits."""
        from imagemint.training.loop.dry_run import find_training_warnings  # noqa: PLC0415 - torch

        return find_training_warnings(task.recipe, task.data)

    def rehearse(
        self,
        task: "GeneratorTask",
        schedule: Schedule,
        device: "torch.device",
        passes: "Passes",
    ) -> dict[str, Any]:
        """Returns the classes with their counts, possible problems, and the expected time."""
        from imagemint.training.loop import dry_run, start  # noqa: PLC0415 - torch

        warnings = self.find_warnings(task)
        start.make_initial_state(task.recipe, task.data, device)  # raises for unsuitable images
        test = self._load_test_split(task.recipe)
        warnings += dry_run.find_evaluation_warnings(test)
        data = dry_run.describe_data(task.data, test)
        return {
            "data": data,
            "warnings": [*data.pop("remarks"), *warnings],
            "expected": dry_run.estimate_time(task, schedule, device, passes),
        }

    def measure(self, task: "GeneratorTask", device: "torch.device") -> "QualityCurve | None":
        """Returns the function that measures the generator, None without a classifier."""
        from imagemint.training.evaluation import open_extractor  # noqa: PLC0415 - torch
        from imagemint.training.evaluation.curve import QualityCurve  # noqa: PLC0415 - torch

        if self.classifier is None:
            return None
        test = self._load_test_split(task.recipe)
        if isinstance(test, str):
            raise DatasetError(f"--classifier needs test images: {test}")
        extractor, _ = open_extractor(self.classifier, None, device)
        return QualityCurve(task.recipe, task.data, test, extractor)

    def _load_training_data(self, recipe: "Recipe") -> "LabelledImages":
        """Returns the training pictures; a resumed run keeps its order of the classes."""
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
        except DatasetError:  # other classes; the error of the checkpoint names its own data
            return data

    def _load_test_split(self, recipe: "Recipe") -> "LabelledImages | str":
        """Returns the test pictures for `imagemint evaluate`, or the reason why there are none."""
        name = self.data_set or recipe.dataset
        try:
            return self.load(name, "test", self.data, size=self.size, channels=self.channels)
        except DatasetError as error:
            return str(error)
