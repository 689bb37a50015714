"""Opens the sources of the images to measure.

A source is a run, a bundle, an .npz, a folder of pictures, or an address such as
``grpc://HOST:PORT/MODEL``. Training imports neither the client nor gRPC, so sources of addresses
are found by the entry-point group `imagemint.sources`, whose names are the schemes.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Protocol, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from imagemint.engine.batch import Batch
from imagemint.engine.captions import Captions
from imagemint.engine.sampling import Distribution, draw_latents
from imagemint.training.datasets.tree import scan
from imagemint.training.errors import DatasetError
from imagemint.training.evaluation.files import (
    Classes,
    Images,
    NpzSource,
    PicturesSource,
    is_folder_of_pictures,
)
from imagemint.training.loop.resume import read_settings
from imagemint.training.networks import Discriminator
from imagemint.training.recipes import RECIPES
from imagemint.training.recipes.recipe import Recipe
from imagemint.training.trained import read_discriminator, read_generator

GROUP = "imagemint.sources"
_BATCH = 256


class Source(Protocol):
    """A source of images by seed and index, with the classes in turn.

    Attributes:
        name: description for people.
        sha256: digest of everything that determines its images.
        dataset: name of the data set that it was trained on, if known.
        num_classes: number of classes; 0 for an unconditional model.
        class_labels: labels of its classes; None if unknown.
        image_shape: height, width and channels, to which the real data are brought; None leaves
            them as they are stored.
    """

    name: str
    sha256: str
    dataset: str | None
    num_classes: int
    class_labels: tuple[str, ...] | None
    image_shape: tuple[int, int, int] | None

    def draw(self, seed: int, first: int, count: int) -> tuple[Images, Classes | None]:
        """Returns images uint8 [count, H, W, C] at these indices, and their classes int64."""

    def close(self) -> None:
        """Releases its resources."""


class CaptionedSource(Source, Protocol):
    """A source that can take captions.

    Attributes:
        takes_captions: whether it takes captions.
    """

    @property
    def takes_captions(self) -> bool:
        """Whether `draw_captions` works."""

    def draw_captions(self, seed: int, first: int, texts: Sequence[str]) -> Images:
        """Returns images uint8 [N, H, W, C] of N captions at indices from ``first`` on."""


def takes_captions(source: Source) -> TypeGuard[CaptionedSource]:
    """Returns whether a source takes captions."""
    return bool(getattr(source, "takes_captions", False))


class LatentSource:
    """Base class of runs and bundles, which make images of any latents.

    Attributes:
        z_dim: length of a latent.
        distribution: distribution of its elements.
        takes_psi: whether truncation is an input of the network.
        continuous_codes: number of elements at the start of the latent that are codes.
        captions: captions that the model understands; None if it takes none.
    """

    name: str
    sha256: str
    dataset: str | None
    num_classes: int
    class_labels: tuple[str, ...] | None
    image_shape: tuple[int, int, int] | None
    z_dim: int
    distribution: Distribution
    takes_psi: bool
    continuous_codes: int
    captions: Captions | None

    def generate(
        self,
        z: NDArray[np.float32],
        classes: Classes | None,
        psi: NDArray[np.float32] | None = None,
        tokens: NDArray[np.int64] | None = None,
    ) -> Images:
        """Returns the images uint8 [N, H, W, C] of latents [N, z_dim] and classes [N].

        psi [N] is used by models that take it; None is 1, no truncation. tokens [N, L] are used by
        models that take captions; None means their example captions in turn.
        """
        psi = _fill_psi(z, psi) if self.takes_psi else None
        if self.captions is not None and tokens is None:
            tokens = self.captions.example_tokens[np.arange(len(z)) % len(self.captions.examples)]
        batch = Batch(z, classes, tokens=tokens, truncation=psi)
        parts = [self._run(batch[i : i + _BATCH]) for i in range(0, len(batch), _BATCH)]
        return np.concatenate(parts)

    def _run(self, batch: Batch) -> Images:
        raise NotImplementedError

    @property
    def takes_captions(self) -> bool:
        """Whether the model takes captions."""
        return self.captions is not None

    def draw_captions(self, seed: int, first: int, texts: Sequence[str]) -> Images:
        """Returns the images of N captions at indices ``first`` to ``first + N - 1``.

        Raises:
            DatasetError: the model does not understand a caption.
        """
        if self.captions is None:
            raise DatasetError(f"{self.name} takes no captions")
        try:
            tokens = self.captions.encode([self.captions.parse(text) for text in texts])
        except ValueError as error:
            raise DatasetError(f"{self.name} does not understand a caption: {error}") from error
        z = draw_latents(seed, first, len(texts), self.z_dim, distribution=self.distribution)
        return self.generate(z, None, tokens=tokens)

    def draw(self, seed: int, first: int, count: int) -> tuple[Images, Classes | None]:
        """Returns images and classes at these indices."""
        z = draw_latents(seed, first, count, self.z_dim, distribution=self.distribution)
        indices = np.arange(first, first + count, dtype=np.int64)
        classes = indices % self.num_classes if self.num_classes else None
        return self.generate(z, classes), classes

    def close(self) -> None:
        """Does nothing, because there are no resources."""


class RunSource(LatentSource):
    """The averaged generator of a run's newest checkpoint, or of one checkpoint.

    Args:
        run: directory of the run, or of one checkpoint in it.
        device: device to compute on.

    Raises:
        CheckpointError: there is no run.
    """

    def __init__(self, run: Path, device: torch.device) -> None:
        trained = read_generator(run)
        self._place = run
        recipe = RECIPES[trained.recipe]
        self.recipe: Recipe = recipe.model_validate(recipe.complete_options(trained.options))
        self.run = None if (run / "checkpoint.json").is_file() else run
        self.name = f"run of recipe {trained.recipe}, {trained.images_seen:,} images"
        self.sha256 = trained.weights_sha256
        self.settings = read_settings(run if self.run else run.parent.parent)
        self.dataset = self._find_data_set(trained.dataset.rpartition("/")[0])
        self.class_labels = trained.class_labels
        self.num_classes = len(trained.class_labels)
        self.image_shape = (trained.image_size, trained.image_size, trained.image_channels)
        self.z_dim = trained.z_dim
        self.images_seen = trained.images_seen
        self.distribution = trained.distribution
        self.takes_psi = trained.truncation == "psi"
        self.captions = trained.captions
        self.continuous_codes: int = trained.options.get("continuous_codes", 0)
        self._module: nn.Module = trained.module.to(device)
        self._device = device

    def _find_data_set(self, name: str) -> str | None:
        """Returns the name of the data set, or its recorded path if that exists."""
        place = self.settings.get("dataset")
        return str(place) if place and Path(str(place)).exists() else name or None

    @torch.no_grad()
    def _run(self, batch: Batch) -> Images:
        inputs = {}
        if batch.class_id is not None:
            inputs["y"] = torch.from_numpy(batch.class_id).to(self._device)
        if batch.tokens is not None:
            inputs["tokens"] = torch.from_numpy(batch.tokens).to(self._device)
        if batch.truncation is not None:
            inputs["truncation"] = torch.from_numpy(batch.truncation)[:, None].to(self._device)
        x = self._module(torch.from_numpy(batch.z).to(self._device), **inputs)
        levels = x.add(1).mul(127.5).round().clamp(0, 255)
        images: Images = levels.byte().permute(0, 2, 3, 1).cpu().numpy()
        return images

    def load_discriminator(self, num_classes: int) -> Discriminator:
        """Returns the run's D for data with this number of classes, on the device of the images."""
        return read_discriminator(self._place, num_classes).to(self._device)


class BundleSource(LatentSource):
    """A bundle that runs on the engine of the server.

    Args:
        directory: ``<model>/<version>`` of the bundle.
        device: device to compute on.
        variant: its graph: `reference` for model.onnx, a name, or `auto` as for a server.

    Raises:
        ImagemintError: the engine refuses the bundle.
    """

    def __init__(self, directory: Path, device: torch.device, variant: str = "reference") -> None:
        # Imported here, so that measuring a run does not need onnxruntime.
        from imagemint.engine.bundle import read_bundle  # noqa: PLC0415 - see above
        from imagemint.engine.onnx.backend import OnnxBackend  # noqa: PLC0415 - see above

        bundle = read_bundle(directory)
        spec = bundle.spec
        self._backend = OnnxBackend(
            bundle,
            device=device.type,
            intra_op_threads=torch.get_num_threads(),
            variant=variant,
        )
        ran = self._backend.variant
        self.name = f"bundle {spec.name}@{bundle.version}, {ran.name}"
        self.sha256 = ran.sha256
        self.dataset = bundle.manifest.training.dataset.rpartition("/")[0] or None
        self.class_labels = tuple(bundle.manifest.class_labels)
        self.num_classes = spec.num_classes
        self.image_shape = (spec.height, spec.width, spec.channels)
        self.z_dim, self.distribution = spec.z_dim, spec.distribution
        self.takes_psi = spec.takes_psi
        self.captions = spec.captions
        options = json.loads(bundle.manifest.training.options_json or "{}")
        self.continuous_codes = options.get("continuous_codes", 0)

    def _run(self, batch: Batch) -> Images:
        return self._backend.run(batch)

    def close(self) -> None:
        """Releases the model."""
        self._backend.close()


def _fill_psi(z: NDArray[np.float32], psi: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Returns the requested psi [N], or 1."""
    return np.ones(len(z), np.float32) if psi is None else psi


def open_source(
    place: str,
    device: torch.device,
    plugs: Mapping[str, Callable[[str], Source]] | None = None,
    *,
    variant: str = "reference",
) -> Source:
    """Returns the source that an argument names.

    Args:
        place: a run, a bundle, an .npz, a folder of pictures, or an address such as
            ``grpc://localhost:8001/mnist``.
        device: device to compute on, for sources that compute in this process.
        plugs: sources by scheme; None for the installed ones.
        variant: name of the graph of a bundle.

    Raises:
        DatasetError: there is no source for this scheme.
        CheckpointError: it is neither a run nor any other source.
    """
    if "://" in place:
        return open_address(place, plugs)
    path = Path(place)
    if path.suffix == ".npz":
        return NpzSource(path)
    if (path / "model.onnx").is_file():  # its samples.png is no image to measure
        return BundleSource(path, device, variant)
    if is_folder_of_pictures(path):
        return PicturesSource(scan(path))
    return RunSource(path, device)


def open_address(place: str, plugs: Mapping[str, Callable[[str], Source]] | None = None) -> Source:
    """Returns the source of an address such as ``grpc://localhost:8001/mnist``.

    Args:
        place: the address.
        plugs: sources by scheme; None for the installed ones.

    Raises:
        DatasetError: there is no source for this scheme.
    """
    scheme, _, address = place.partition("://")
    known = _open_installed() if plugs is None else plugs
    if scheme not in known:
        installed = ", ".join(sorted(known)) or "none"
        raise DatasetError(
            f"{place}: no installed source reads addresses {scheme}://; installed: {installed}"
        )
    return known[scheme](address)


def _open_installed() -> dict[str, Callable[[str], Source]]:
    return {
        entry.name: lambda address, entry=entry: entry.load()(address)  # type: ignore[misc] # the default binds this turn's entry
        for entry in metadata.entry_points(group=GROUP)
    }
