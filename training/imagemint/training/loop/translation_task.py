"""Trains a translator: one discriminator step, then one step of the generator, on one batch."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from torch import nn

from imagemint.training.datasets.translations import Pairs
from imagemint.training.distributed import SINGLE_PROCESS, Distributed
from imagemint.training.errors import ProcessesError, TrainingError
from imagemint.training.loop.ema import measure_statistics
from imagemint.training.loop.examples import (
    Examples,
    arrange_examples,
    describe_form,
    to_tensor,
)
from imagemint.training.loop.health import refuse_not_finite
from imagemint.training.loop.monitor import Monitor
from imagemint.training.loop.provenance import describe_run
from imagemint.training.loop.schedules import Schedule
from imagemint.training.loop.start import assemble_state, fork_rng, place
from imagemint.training.loop.state import TrainingState
from imagemint.training.loop.stats import Stats
from imagemint.training.loop.task import Step, Task
from imagemint.training.loop.update import update
from imagemint.training.losses.translation import Translated, TranslationLoss
from imagemint.training.networks.precision import Passes
from imagemint.training.networks.resnet import TwoWay
from imagemint.training.recipes.translation import TranslationRecipe

_CALIBRATION_BATCH = 64


@dataclass(frozen=True)
class Judge:
    """A trained classifier whose features a loss compares.

    Attributes:
        layers: its layers in order, in evaluation mode.
        sha256: digest of its weights, which checkpoints record.
    """

    layers: nn.Sequential
    sha256: str


@dataclass(frozen=True)
class TranslationTask(Task):
    """A recipe of a translator with its data.

    Attributes:
        recipe: the options.
        pairs: sources and targets of the training.
        examples: fixed pairs of the test split, which the grids show.
        judge: judge of the perceptual loss; None if the recipe needs none.
    """

    recipe: TranslationRecipe
    pairs: Pairs
    examples: Examples
    judge: Judge | None = None

    @property
    def options(self) -> TranslationRecipe:
        """The options of the run."""
        return self.recipe

    def with_images(self, images: int) -> Self:
        """Returns the same task as a run of another length."""
        return replace(self, recipe=self.recipe.model_copy(update={"images": images}))

    def make_initial_state(
        self, device: torch.device, processes: Distributed = SINGLE_PROCESS
    ) -> TrainingState:
        """Returns fresh networks and optimisers; the weights are a function of the seed.

        Raises:
            DatasetError: the recipe cannot translate sources of this form.
            ProcessesError: there are several processes, and image pools belong to one.
            TrainingError: the recipe needs a judge.
        """
        if processes.world_size > 1:
            raise ProcessesError("a translator is trained by one process")
        recipe, form, target = self.recipe, self.pairs.form, self.pairs.target_shape
        if recipe.needs_judge and self.judge is None:
            raise TrainingError(
                f"recipe {recipe.name} compares images in the features of a classifier: name its"
                " directory by --judge (`imagemint train avatars-classifier` makes one), or set"
                " --perceptual-weight 0"
            )
        layers = self.judge.layers.to(device) if self.judge else None
        with fork_rng(device):
            torch.manual_seed(recipe.seed)
            G, G_ema = (place(recipe.make_generator(form, target), device) for _ in range(2))
            D = place(recipe.make_discriminators(form, target), device)
            losses = recipe.make_translation_loss(form, target, layers).to(device)
        return assemble_state(recipe, G, D, G_ema, losses)

    def describe(self, precision: str) -> dict[str, Any]:
        """Returns recipe, data, the form of sources and targets, code and versions."""
        height, _, channels = self.pairs.target_shape
        of_images = {
            "class_labels": [],
            "image_size": height,
            "image_channels": channels,
            "task": self.pairs.task,
            "source": describe_form(self.pairs.form),
            "target": list(self.pairs.target_shape),
            "judge_sha256": self.judge.sha256 if self.judge else None,
        }
        return describe_run(self.recipe, self.pairs, precision, of_images)

    def begin(self, run: Path) -> None:
        """Writes the examples, which grids and export show."""
        self.examples.write(run)

    def prepare_step(
        self,
        state: TrainingState,
        *,
        seed: int,
        device: torch.device,
        passes: Passes,
        processes: Distributed,
    ) -> Step:
        """Returns a step: the translation of a batch, D on its results, then G against D."""
        G, D = state.G, cast("nn.ModuleDict", state.D)
        losses, batch_size = cast("TranslationLoss", state.losses), self.recipe.batch_size

        def run_step(stats: Stats) -> None:
            seen = state.images_seen
            pair = self.pairs.draw(seed, seen, batch_size)
            source, target = (to_tensor(images, device) for images in pair)
            batch = Translated.of(G, source, target, passes)

            # --- discriminator, on results that keep their graph for the generator ---------------
            if losses.is_adversarial(seen):
                D.requires_grad_(requires_grad=True)
                loss_D = losses.discriminator_loss(D, batch)
                update(state.opt_D, loss_D.total, D, processes)
                stats.add(loss_D=loss_D.adversarial)
            else:
                stats.add(loss_D=0.0)

            # --- generator, against the updated discriminator ------------------------------------
            D.requires_grad_(requires_grad=False)
            loss_G = losses.generator_loss(D, batch, seen)
            update(state.opt_G, loss_G.total, G, processes)
            stats.extend(loss_G.terms)
            stats.add(loss_G=loss_G.adversarial)
            state.images_seen += batch_size

        return run_step

    def inspect(
        self,
        run: Path,
        state: TrainingState,
        *,
        monitor: Monitor | None,
        schedule: Schedule,
        interim: bool,
        scheduled: bool,
    ) -> nn.Module:
        """Returns the averaged translator, ready for use, after checking the examples.

        Raises:
            LossNotFinite: a tensor of the state is NaN or infinite.
        """
        del schedule, scheduled
        translator = measure_statistics(state.G_ema, self._show_calibration)
        refuse_not_finite(state, translator, run)
        if monitor and not interim:
            monitor.draw(*arrange_examples(translator, self.examples, self.pairs.form))
        return translator

    def _show_calibration(self, translator: nn.Module) -> None:
        """Passes the sources for measuring its statistics through a translator."""
        device = next(translator.parameters()).device
        for batch in range(self.recipe.calibration_batches):
            rows = np.arange(_CALIBRATION_BATCH) + batch * _CALIBRATION_BATCH
            source, target = self.pairs.make_examples(rows % len(self.pairs))
            translator(to_tensor(source, device))
            if isinstance(translator, TwoWay):
                translator.back(to_tensor(target, device))
