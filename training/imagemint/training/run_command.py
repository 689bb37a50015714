"""The common settings and steps of all training commands.

This module imports little.
"""

import json
import logging
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from imagemint.training.errors import CheckpointError, TrainingError
from imagemint.training.loop.schedules import Schedule

if TYPE_CHECKING:
    import torch

    from imagemint.training.distributed import Distributed
    from imagemint.training.loop.recorder import Measure
    from imagemint.training.loop.task import Task
    from imagemint.training.networks.precision import Passes, Precision

_log = logging.getLogger(__name__)

_INTERRUPTED = 130  # as after Ctrl-C, so that a script does not export an incomplete run


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


class LoopSettings(RunSettings):
    """Settings of a run of the training loop, besides the options of its recipe."""

    resume: bool = False
    """Continue from the newest whole checkpoint in --out, with the options of the run. Options that
    you give anew must agree with it, except those that set its length and what it reports."""
    log_interval: int = Field(default=6_400, ge=1)
    """Images between two rows of the log."""
    snapshot_interval: int | None = Field(default=None, ge=1)
    """Images between two checkpoints, each with a grid of samples. Default: that of the recipe, an
    epoch of 60,000 for vanilla-mnist and 64,000 for the other generators."""
    divergence_factor: float = Field(default=100.0, gt=1, allow_inf_nan=True)
    """A run diverges when its losses exceed their usual size by this factor. inf: never."""
    rollbacks: int = Field(default=0, ge=0)
    """How often a run that diverged or collapsed may continue from its last good checkpoint, with
    half the learning rate and another order of the data, before it fails."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of convolutions and dense layers. auto: that of the checkpoint with --resume, else
    bf16 on a GPU that supports it, else fp32. Weights are always float32."""

    def run_task(
        self,
        task: "Task",
        schedule: Schedule,
        device: "torch.device",
        *,
        passes: "Passes",
        processes: "Distributed",
        recorded: Mapping[str, object],
    ) -> int:
        """Trains the task, or prints what the run would do; returns the status of the command.

        Args:
            task: the task of the run.
            schedule: how often to log and save.
            device: device of the networks.
            passes: runs the networks.
            processes: the collectives of the run.
            recorded: further content of ``options.json``.

        Raises:
            TrainingError: the run cannot start, or failed.
        """
        from imagemint.training.loop import provenance, training_loop  # noqa: PLC0415 - torch
        from imagemint.training.loop.checkpoints import (  # noqa: PLC0415 - torch
            find_fitting_checkpoint,
            find_latest_checkpoint,
            list_checkpoints,
        )
        from imagemint.training.loop.machine import find_machine_warnings  # noqa: PLC0415 - torch
        from imagemint.training.loop.resume import (  # noqa: PLC0415 - torch
            describe_changes,
            list_settings_to_record,
        )

        metadata = task.describe(passes.precision)
        options = metadata | {
            "schedule": asdict(schedule),
            "device": str(device),
            **recorded,
            "settings": list_settings_to_record(self, metadata["options"]),
        }
        if self.resume:
            try:
                found = find_fitting_checkpoint(
                    self.out, metadata, free=training_loop.FREE_ON_RESUME
                )
            except CheckpointError as error:
                changes = describe_changes(self.out, options["settings"])
                raise CheckpointError(f"{error}{changes}") from error
            _log.info("resuming from %s", found)
        elif list_checkpoints(self.out):
            raise CheckpointError(f"{self.out} holds a run already; --resume continues it")
        if self.dry_run:
            machine = find_machine_warnings(device, passes.precision)  # before it is used
            options |= self.rehearse(task, schedule, device, passes)
            options["warnings"] += machine
            print(json.dumps(options, indent=2))  # noqa: T201 - what the command is for
            return 0
        is_first = processes.rank == 0
        if is_first:
            for warning in self.find_warnings(task):
                _log.warning("%s: %s", metadata["dataset"], warning)
            for warning in find_machine_warnings(device, passes.precision):
                _log.warning("%s", warning)
        state = training_loop.train(
            *(task, self.out),
            schedule=schedule,
            device=device,
            passes=passes,
            processes=processes,
            resume=self.resume,
            measure=self.measure(task, device) if is_first else None,
            on_begin=partial(provenance.write_options, self.out, options),
            quiet=self.quiet,
        )
        if not is_first:
            return 0
        stopped = state.images_seen < task.options.images
        hint = f" of {task.options.images:,}; --resume continues" if stopped else ""
        print(f"{find_latest_checkpoint(self.out)}: {state.images_seen:,} images{hint}")  # noqa: T201 - the command's answer
        return _INTERRUPTED if stopped else 0

    @abstractmethod
    def find_warnings(self, task: Any) -> list[str]:  # noqa: ANN401 - of the kind of the command
        """Returns possible problems of the training data."""

    @abstractmethod
    def rehearse(
        self,
        task: Any,  # noqa: ANN401 - of the kind of the command
        schedule: Schedule,
        device: "torch.device",
        passes: "Passes",
    ) -> dict[str, Any]:
        """Returns the output of a dry run: data, warnings, the expected time."""

    @abstractmethod
    def measure(self, task: Any, device: "torch.device") -> "Measure | None":  # noqa: ANN401 - likewise
        """Returns the function that measures the network at each checkpoint, or None."""

    def choose_precision(self, device: "torch.device") -> "Precision":
        """Returns the precision of the run.

        Raises:
            CheckpointError: there is no checkpoint to resume from.
        """
        from imagemint.training.loop.checkpoints import (  # noqa: PLC0415 - torch
            find_whole_checkpoint,
            read_description,
        )
        from imagemint.training.networks.precision import choose_precision  # noqa: PLC0415 - torch

        if self.precision != "auto":
            return self.precision
        if self.resume:
            found: Precision = read_description(find_whole_checkpoint(self.out)).get(
                "precision", "fp32"
            )
            return found
        return choose_precision(device)


def choose_device(name: str) -> "torch.device":
    """Returns the device of this name; ``auto`` is a GPU if there is one.

    Raises:
        TrainingError: a GPU is requested, and PyTorch cannot use one.
    """
    import torch  # noqa: PLC0415 - import-light

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    elif name == "cuda" and not torch.cuda.is_available():
        raise TrainingError("PyTorch finds no GPU; use --device cpu or --device auto")
    return torch.device(name)
