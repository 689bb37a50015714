"""The attributes of people that the shipped `avatars` draws: what its latents choose."""

import argparse

import numpy as np
from numpy.typing import NDArray

from imagemint.client import Client
from imagemint.dataset.local import find_bundle
from imagemint.engine.bundle import read_bundle
from imagemint.engine.sampling import draw_latents
from imagemint.training.datasets import avatars
from imagemint.training.datasets.images import Attribute
from imagemint.training.networks.attributes import compute_limits


def choose_attributes(z: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[Attribute, ...]:
    """Returns the attributes of images of a generator of recipe `avatars`.

    The first elements of a latent choose the attributes, with the frequencies of the data set.

    Args:
        z: latents float32 [N, z_dim].
        labels: heads int64 [N].
    """
    codes = {}
    for column, name in enumerate(avatars.VALUES):
        limits = compute_limits(avatars.compute_frequencies(name))[labels]
        codes[name] = (z[:, column, np.newaxis] > limits).sum(axis=1)
    return avatars.make_attributes(labels, codes)


def read_z_dim(options: argparse.Namespace) -> int:
    """Returns the length of a latent of the model, from the server or the shipped bundle."""
    if options.server:
        with Client(options.server) as client:
            model = client.model(options.model)
        found = {version.version: version.manifest for version in model.versions}[
            model.default_version
        ]
        if found is None:
            raise SystemExit(f"{options.model} is not ready at {options.server}")
        return found.z_dim
    return read_bundle(find_bundle("", options.model, "", "cpu").directory).spec.z_dim


def derive_attributes(
    options: argparse.Namespace, seed: int, labels: NDArray[np.int64]
) -> tuple[Attribute, ...]:
    """Returns the attributes of the first images of a seed."""
    return choose_attributes(draw_latents(seed, 0, len(labels), read_z_dim(options)), labels)
