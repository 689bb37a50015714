"""Trains a generator: k discriminator steps on new images, then one step of the generator."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import nn

from imagemint.training.datasets import LabelledImages
from imagemint.training.distributed import Distributed
from imagemint.training.loop.batches import BatchSource
from imagemint.training.loop.health import inspect_generator
from imagemint.training.loop.monitor import Monitor
from imagemint.training.loop.provenance import describe
from imagemint.training.loop.schedules import Schedule
from imagemint.training.loop.start import make_initial_state
from imagemint.training.loop.state import TrainingState
from imagemint.training.loop.stats import Stats
from imagemint.training.loop.task import Step, Task
from imagemint.training.loop.update import update
from imagemint.training.losses.gan_loss import GanLoss
from imagemint.training.networks.precision import Passes
from imagemint.training.recipes.recipe import Recipe


@dataclass(frozen=True)
class GeneratorTask(Task):
    """A recipe of a generator with its training images.

    Attributes:
        recipe: the options.
        data: images uint8 [N, H, W, C].
    """

    recipe: Recipe
    data: LabelledImages

    @property
    def options(self) -> Recipe:
        """The options of the run."""
        return self.recipe

    def list_batch_sizes(self) -> dict[str, int]:
        """Returns the size of the batches, and of those of images with labels."""
        return {
            **super().list_batch_sizes(),
            "labelled_batch": self.recipe.count_labelled_images(),
        }

    def count_images_before(self, step: int) -> int:
        """Returns the number of real images that D sees before the step with this index, from 0."""
        return self.recipe.batch_size * self.recipe.count_discriminator_steps_before(step)

    def with_images(self, images: int) -> Self:
        """Returns the same task as a run of another length."""
        return replace(self, recipe=self.recipe.model_copy(update={"images": images}))

    def make_initial_state(self, device: torch.device, processes: Distributed) -> TrainingState:
        """Returns fresh networks; see `start.make_initial_state`."""
        return make_initial_state(self.recipe, self.data, device, processes)

    def describe(self, precision: str) -> dict[str, Any]:
        """Returns recipe, data, code and versions."""
        return describe(self.recipe, self.data, precision)

    def prepare_step(
        self,
        state: TrainingState,
        *,
        seed: int,
        device: torch.device,
        passes: Passes,
        processes: Distributed,
    ) -> Step:
        """Returns a step: k discriminator steps, one generator step."""
        recipe, G, D = self.recipe, state.G, state.D
        gan_loss = cast("GanLoss", state.losses)
        batches = BatchSource(
            *(recipe, self.data, state),
            seed=seed,
            device=device,
            processes=processes,
            passes=passes,
        )

        def run_step(stats: Stats) -> None:
            before = state.images_seen
            gan_loss.before_step(before)

            # --- discriminator: k steps, each on new real and generated images -------------------
            D.requires_grad_(requires_grad=True)
            positions = list_discriminator_positions(recipe, state)
            for position in positions:
                batch = batches.draw(position, with_gradient=position == positions[-1])
                judged = replace(batch)  # G starts below from these images
                loss_D = gan_loss.discriminator_loss(judged, state.step, state.images_seen)
                stats.extend(loss_D.terms)
                if recipe.skip_lead == 1 or processes.average(judged.lead()) <= recipe.skip_lead:
                    update(state.opt_D, loss_D.total, D, processes)
                    gan_loss.after_D(D)
                stats.add(**gan_loss.augmentation.adapt(judged))
                state.images_seen += recipe.batch_size

            # --- generator: one step on the last images, against the updated discriminator -------
            D.requires_grad_(requires_grad=False)
            loss_G = gan_loss.generator_loss(batch, state.step, before)
            stats.extend(loss_G.terms)
            update(state.opt_G, loss_G.total, G, processes)
            stats.add(loss_D=loss_D.adversarial, loss_G=loss_G.adversarial)
            stats.add(real_logit=judged.real_logits.mean())

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
        """Returns the averaged generator, ready for use; see `health.inspect_generator`."""
        return inspect_generator(
            *(self.recipe, self.data, run, state),
            monitor=monitor,
            schedule=schedule,
            interim=interim,
            scheduled=scheduled,
        )


def list_discriminator_positions(recipe: Recipe, state: TrainingState) -> range:
    """Returns the positions of the discriminator steps that precede the next generator step."""
    first = recipe.count_discriminator_steps_before(state.step)
    return range(first, first + recipe.count_discriminator_steps(state.step))
