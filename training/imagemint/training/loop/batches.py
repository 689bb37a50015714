"""Draws the inputs of each step: real images, latents and conditions, by their position."""

from typing import cast

import numpy as np
import torch

from imagemint.engine.sampling import Distribution
from imagemint.training.datasets import LabelledImages
from imagemint.training.datasets.loader import ImageLoader
from imagemint.training.distributed import Distributed
from imagemint.training.loop.state import TrainingState
from imagemint.training.losses.gan_loss import Batch
from imagemint.training.networks import Discriminator
from imagemint.training.networks.precision import Passes
from imagemint.training.recipes.recipe import Recipe
from imagemint.training.rng import draw_codes, draw_latents


class BatchSource:
    """Draws batches for the discriminator and the generator.

    Args:
        recipe: recipe of the run.
        data: training images.
        state: its networks, and the images seen, which determine the next real images.
        seed: seed of order, latents and codes.
        device: device of the networks.
        processes: the collectives of the run.
        passes: runs the networks.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: LabelledImages,
        state: TrainingState,
        *,
        seed: int,
        device: torch.device,
        processes: Distributed,
        passes: Passes,
    ) -> None:
        self._recipe, self._state, self._seed = recipe, state, seed
        self._device, self._processes, self._passes = device, processes, passes
        self._num_codes = len(recipe.list_class_labels(data.class_labels)) or 1
        labels = recipe.select_network_labels(data)
        self._loader = ImageLoader(data, labels, seed, device, processes)
        self._labelled: ImageLoader | None = None
        if recipe.count_labelled_images():
            labelled = np.flatnonzero(labels >= 0)
            few = LabelledImages(
                *(data.name, data.images[labelled], data.labels[labelled]),
                *(data.class_labels, data.sha256),
            )
            self._labelled = ImageLoader(few, labels[labelled], seed, device, processes)

    def draw(self, position: int, *, with_gradient: bool) -> Batch:
        """Returns this process's part of a batch, with images of the current G.

        Args:
            position: discriminator steps before this one.
            with_gradient: whether the generated images keep their graph, for the step of G.
        """
        recipe, state = self._recipe, self._state
        real, y = self._loader.load_batch(state.images_seen, recipe.batch_size)
        distribution = Distribution(recipe.latent)
        z = draw_latents(self._seed, position, recipe.batch_size, recipe.z_dim, distribution)
        codes = draw_codes(self._seed, position, recipe.batch_size, self._num_codes)
        z = self._processes.select_local_part(z).to(self._device)
        codes = self._processes.select_local_part(codes).to(self._device)
        c = {"none": None, "class": y, "caption": y, "code": codes}[recipe.condition]
        with torch.set_grad_enabled(with_gradient):
            fake = self._passes.draw(state.G, z, c)
        batch = Batch(
            *(self._seed, position, state.G, cast("Discriminator", state.D), z, y, c, real, fake),
            passes=self._passes,
        )
        if self._labelled is not None:
            count = recipe.count_labelled_images()
            batch.labelled, batch.y_labelled = self._labelled.load_batch(position * count, count)
        return batch
