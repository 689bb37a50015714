"""What a model is, read once from its manifest and checked whole."""

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


class TruncationKind(enum.StrEnum):
    """How a model trades diversity for fidelity."""

    THRESHOLD = "threshold"
    """Every element of the latent is confined to ±t (BigGAN)."""
    PSI = "psi"
    """w is drawn towards its mean inside the graph (StyleGAN)."""


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


class GraphInput(NamedTuple):
    """One input of a graph, dtype [N, *row]."""

    dtype: np.dtype[Any]
    row: tuple[int, ...]
    """Shape of the part that belongs to one image."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Input and output of a generator; one image is uint8 [height, width, channels]."""

    name: str
    """Model name, also the folder it lies in."""
    z_dim: int
    """Length of a latent."""
    distribution: Distribution
    """Of every element of a latent."""
    truncation: Truncation | None
    """None: the model takes none."""
    class_labels: tuple[str, ...]
    """Label text by class index; empty for an unconditional model."""
    height: int
    width: int
    channels: int
    """1 gray, 3 RGB."""
    captions: Captions | None = None
    """None: the model takes no caption."""
    # Derived from the fields above, once: every request asks for them.
    inputs: Mapping[str, GraphInput] = field(init=False, repr=False, compare=False)
    """The inputs of the graph by name, in order."""
    takes_psi: bool = field(init=False, repr=False, compare=False)
    """Whether the graph takes the truncation: psi, of which 1 changes nothing."""
    takes_threshold: bool = field(init=False, repr=False, compare=False)
    """Whether the truncation is a threshold, which confines the latents."""
    num_classes: int = field(init=False, repr=False, compare=False)
    """Number of classes K; 0 for a model without classes."""
    conditional: bool = field(init=False, repr=False, compare=False)
    """Whether the model takes a class."""
    num_choices: int = field(init=False, repr=False, compare=False)
    """Number of classes or example captions from which a condition is drawn; 0 for neither."""
    image_bytes: int = field(init=False, repr=False, compare=False)
    """Bytes of one raw image."""

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

    @classmethod
    def of(cls, manifest: pb.BundleManifest) -> Self:
        """The spec that a manifest describes.

        Raises:
            ValueError: the manifest breaks what manifest.proto says; lists every fault.
        """
        if manifest.format_version > FORMAT_VERSION:
            # Nothing else can be judged: a newer format may mean anything by its fields.
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
            distribution=_DISTRIBUTIONS[latent.distribution],
            truncation=_truncation(latent),
            class_labels=tuple(manifest.class_labels),
            height=image.height,
            width=image.width,
            channels=image.channels,
            captions=_captions(manifest),
        )


def _list_inputs(spec: ModelSpec) -> Iterator[tuple[str, GraphInput]]:
    yield "z", GraphInput(np.dtype(np.float32), (spec.z_dim,))
    if spec.conditional:
        # The second axis, because Triton's batching strips the first.
        yield "class_id", GraphInput(np.dtype(np.int64), (1,))
    if spec.captions is not None:
        yield "tokens", GraphInput(np.dtype(np.int64), (spec.captions.max_words,))
    if spec.takes_psi:
        yield "truncation", GraphInput(np.dtype(np.float32), (1,))


def _captions(manifest: pb.BundleManifest) -> Captions | None:
    if not manifest.HasField("caption"):
        return None
    caption = manifest.caption
    return Captions(tuple(caption.vocabulary), caption.max_words, tuple(caption.examples))


def _truncation(latent: pb.LatentSpec) -> Truncation | None:
    if not latent.HasField("truncation"):
        return None
    accepted = latent.truncation
    return Truncation(_TRUNCATION_KINDS[accepted.kind], accepted.minimum, accepted.maximum)
