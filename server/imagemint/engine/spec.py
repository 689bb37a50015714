"""Specification of a model, read from its manifest and checked as a whole."""

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import numpy as np

from imagemint.engine.captions import Captions
from imagemint.engine.manifest_checks import FORMAT_VERSION, find_faults
from imagemint.engine.sampling import Distribution
from imagemint.v1 import manifest_pb2 as pb

_DISTRIBUTIONS = {
    pb.LATENT_DISTRIBUTION_NORMAL: Distribution.NORMAL,
    pb.LATENT_DISTRIBUTION_UNIFORM: Distribution.UNIFORM,
}


ANY_SIDE = -1
"""Value for a free side in a shape."""
# Most pixels along a side of a source that is drawn as a sample, if its size is free.
_SAMPLE_SIDE = 64


class TruncationKind(enum.StrEnum):
    """The ways in which a model exchanges diversity for fidelity."""

    THRESHOLD = "threshold"
    """Every element of the latent is limited to ±t (BigGAN)."""
    PSI = "psi"
    """The graph moves w towards its mean (StyleGAN)."""


_TRUNCATION_KINDS = {
    pb.TRUNCATION_KIND_THRESHOLD: TruncationKind.THRESHOLD,
    pb.TRUNCATION_KIND_PSI: TruncationKind.PSI,
}


@dataclass(frozen=True, slots=True)
class Truncation:
    """Truncation that a model accepts."""

    kind: TruncationKind
    minimum: float
    """Smallest accepted value, inclusive."""
    maximum: float
    """Largest accepted value, inclusive."""


@dataclass(frozen=True, slots=True)
class Source:
    """The source of an image-to-image model: uint8 [height, width, depth]."""

    height: int
    """Height of a fixed size; for a free size the largest of one pass."""
    width: int
    """Width, as height."""
    channels: int
    """Channels of one frame: 1 gray, 3 RGB."""
    frames: int = 1
    """Frames of a sequence, the oldest first."""
    has_mask: bool = False
    """Whether the last channel is a mask: 255 where the picture is to be filled, otherwise 0."""
    step: int = 0
    """Free size: height and width are multiples of it. 0: the size is fixed."""
    scale: int = 1
    """Rows and columns of the output per row and column of the source."""
    overlap: int = 0
    """Radius of the receptive field in pixels of the source."""
    is_tiled: bool = False
    """Whether sources larger than one pass may be translated in overlapping tiles."""

    @property
    def is_free(self) -> bool:
        """Whether the size is free."""
        return self.step > 0

    @property
    def depth(self) -> int:
        """Number of channels of the graph's input: all frames, and the mask."""
        return self.frames * self.channels + self.has_mask

    @property
    def sample_size(self) -> tuple[int, int]:
        """Height and width for samples: the fixed size, or a small free size."""
        if not self.is_free:
            return self.height, self.width
        return _choose_sample_side(self.height, self.step), _choose_sample_side(
            self.width, self.step
        )


def _choose_sample_side(largest: int, step: int) -> int:
    return max(step, min(largest, _SAMPLE_SIDE) // step * step)


class GraphInput(NamedTuple):
    """One input or output of a graph, dtype [N, *row]."""

    dtype: np.dtype[Any]
    row: tuple[int, ...]
    """Shape for one image; -1 for a free side."""

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Returns whether a row may have a shape."""
        return len(shape) == len(self.row) and all(
            side == expected or (expected == ANY_SIDE and side > 0)
            for side, expected in zip(shape, self.row, strict=True)
        )


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Inputs and output of a generator; one image is uint8 [height, width, channels]."""

    name: str
    """Name of the model, and of its directory."""
    z_dim: int
    """Length of a latent; 0 for a model with a source and no latent."""
    distribution: Distribution
    """Distribution of every element of a latent."""
    truncation: Truncation | None
    """Truncation that the model accepts; None if it takes none."""
    class_labels: tuple[str, ...]
    """Label text by class index; empty for an unconditional model."""
    height: int
    """Height of an image; if the source has a free size, the largest of one pass."""
    width: int
    """Width of an image, as height."""
    channels: int
    """1 gray, 3 RGB."""
    captions: Captions | None = None
    """Captions that the model understands; None if it takes no caption."""
    source: Source | None = None
    """Source that the model takes; None if it generates images without a source."""
    # Derived from the fields above once, because every request needs them.
    inputs: Mapping[str, GraphInput] = field(init=False, repr=False, compare=False)
    """The inputs of the graph by name, in order."""
    takes_psi: bool = field(init=False, repr=False, compare=False)
    """Whether the graph takes the truncation as psi; 1 changes nothing."""
    takes_threshold: bool = field(init=False, repr=False, compare=False)
    """Whether the truncation is a threshold, which limits the latents."""
    num_classes: int = field(init=False, repr=False, compare=False)
    """Number of classes K; 0 for a model without classes."""
    conditional: bool = field(init=False, repr=False, compare=False)
    """Whether the model takes a class."""
    num_choices: int = field(init=False, repr=False, compare=False)
    """Number of classes or example captions from which a condition is drawn; 0 for neither."""
    image_bytes: int = field(init=False, repr=False, compare=False)
    """Bytes of one raw image; if the source has a free size, of the largest of one pass."""

    def __post_init__(self) -> None:
        kind = None if self.truncation is None else self.truncation.kind
        num_classes, captions = len(self.class_labels), self.captions
        derived = {
            "takes_psi": kind is TruncationKind.PSI,
            "takes_threshold": kind is TruncationKind.THRESHOLD,
            "num_classes": num_classes,
            "conditional": num_classes > 0,
            "num_choices": num_classes if captions is None else len(captions.examples),
            "image_bytes": self.height * self.width * self.channels,
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "inputs", MappingProxyType(dict(_list_inputs(self))))

    @property
    def image_row(self) -> tuple[int, int, int]:
        """Shape of one image of the graph's output; -1 for a free side."""
        if self.source is not None and self.source.is_free:
            return ANY_SIDE, ANY_SIDE, self.channels
        return self.height, self.width, self.channels

    @property
    def image(self) -> GraphInput:
        """The output of the graph."""
        return GraphInput(np.dtype(np.uint8), self.image_row)

    @property
    def largest_rows(self) -> dict[str, tuple[int, ...]]:
        """Shape of a row of each input, with the largest free sides."""
        rows = {name: input_.row for name, input_ in self.inputs.items()}
        if self.source is not None:
            rows["source"] = (self.source.height, self.source.width, self.source.depth)
        return rows

    def make_image_shape(self, source: tuple[int, ...]) -> tuple[int, int, int]:
        """Returns the shape of the image that the graph makes of a source [height, width, ...]."""
        if self.source is None or not self.source.is_free:
            return self.height, self.width, self.channels
        return source[0] * self.source.scale, source[1] * self.source.scale, self.channels

    @classmethod
    def of(cls, manifest: pb.BundleManifest) -> Self:
        """Returns the spec of a manifest.

        Raises:
            ValueError: the manifest violates the rules of manifest.proto; the message lists every
                fault.
        """
        if manifest.format_version > FORMAT_VERSION:
            # Nothing else can be checked, because fields of a newer format can have another
            # meaning.
            raise ValueError(
                f"manifest format {manifest.format_version} is newer than {FORMAT_VERSION}, "
                "the newest this version of imagemint reads"
            )
        faults = list(find_faults(manifest))
        if faults:
            raise ValueError("manifest: " + "; ".join(faults))
        latent, image = manifest.latent, manifest.image
        return cls(
            name=manifest.name,
            z_dim=latent.z_dim,
            distribution=_DISTRIBUTIONS.get(latent.distribution, Distribution.NORMAL),
            truncation=_read_truncation(latent),
            class_labels=tuple(manifest.class_labels),
            height=image.height,
            width=image.width,
            channels=image.channels,
            captions=_read_captions(manifest),
            source=_read_source(manifest),
        )


def _list_inputs(spec: ModelSpec) -> Iterator[tuple[str, GraphInput]]:
    if spec.z_dim:
        yield "z", GraphInput(np.dtype(np.float32), (spec.z_dim,))
    if spec.source is not None:
        source = spec.source
        sides = (ANY_SIDE, ANY_SIDE) if source.is_free else (source.height, source.width)
        yield "source", GraphInput(np.dtype(np.uint8), (*sides, source.depth))
    if spec.conditional:
        # The second axis, because Triton's batching strips the first.
        yield "class_id", GraphInput(np.dtype(np.int64), (1,))
    if spec.captions is not None:
        yield "tokens", GraphInput(np.dtype(np.int64), (spec.captions.max_words,))
    if spec.takes_psi:
        yield "truncation", GraphInput(np.dtype(np.float32), (1,))


def _read_captions(manifest: pb.BundleManifest) -> Captions | None:
    if not manifest.HasField("caption"):
        return None
    caption = manifest.caption
    return Captions(tuple(caption.vocabulary), caption.max_words, tuple(caption.examples))


def _read_source(manifest: pb.BundleManifest) -> Source | None:
    if not manifest.HasField("source"):
        return None
    source = manifest.source
    return Source(
        height=source.height or source.max_height,
        width=source.width or source.max_width,
        channels=source.channels,
        frames=source.frames,
        has_mask=source.mask,
        step=source.step,
        scale=source.scale,
        overlap=source.overlap,
        is_tiled=source.tiled,
    )


def _read_truncation(latent: pb.LatentSpec) -> Truncation | None:
    if not latent.HasField("truncation"):
        return None
    accepted = latent.truncation
    return Truncation(_TRUNCATION_KINDS[accepted.kind], accepted.minimum, accepted.maximum)
