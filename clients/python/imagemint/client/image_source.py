"""Sources of images for training: one seed of one version of a model, read by index."""

import secrets
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from imagemint.client import forks
from imagemint.client.blocking import Client
from imagemint.client.channel import MetadataLike, Tls, parse_metadata
from imagemint.client.errors import (
    Cancelled,
    ClientClosed,
    NotFound,
    QueueFull,
    ServerError,
    Unavailable,
    make_invalid_request,
)
from imagemint.client.images import ImageBatch
from imagemint.client.models import Model, ModelVersion
from imagemint.client.requests import (
    Caption,
    Condition,
    Cycle,
    Filter,
    PerImage,
    Weights,
    make_image_spec,
)
from imagemint.client.resuming import BACKOFF

_TRANSIENT = (Unavailable, QueueFull, Cancelled)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceIdentity:
    """Properties that all images of a source share."""

    model: str
    """Name of the model."""
    version: str
    """Version of the model."""
    variant: str
    """Variant that makes the images, such as `fp32` or `int8`."""
    bundle_sha256: str
    """SHA-256 of the bundle's model.onnx."""
    seed: int
    """Seed, 0 to 2^64 - 1."""
    class_labels: tuple[str, ...]
    """Label text by class index; empty for a model without classes."""
    image_shape: tuple[int, int, int]
    """Height, width and channels of an image."""
    image_filter: Filter | None = None
    """Filter of the images; None if all images are kept."""
    truncation: float | None = None
    """Truncation; None for none."""
    condition: str = ""
    """Requested condition as text: classes in turn by index, such as `3,7,0`; `weights` or
    `caption` and their values; empty if nothing was requested."""


class SourceImages(Protocol):
    """Images of a source, in order of index."""

    @property
    def image(self) -> NDArray[np.uint8]:
        """Pixels, uint8 [N, H, W, C]; may be read-only."""

    @property
    def class_id(self) -> NDArray[np.int64] | None:
        """Class of each image, int64 [N]; None for a model without classes."""

    @property
    def serials(self) -> tuple[str, ...]:
        """Serial number of each image."""


class ImageSource(Protocol):
    """Computes images by index: a server, or an engine in this process.

    A source can be pickled, and used after a fork and from several threads: it opens its connection
    or its engine in each process when it is first read there.
    """

    @property
    def identity(self) -> SourceIdentity:
        """Properties that all images share. Reading them needs no connection."""

    @property
    def max_images(self) -> int:
        """Largest `count` of one read."""

    def read(
        self, first_index: int, count: int, class_ids: Sequence[int] | None = None
    ) -> SourceImages:
        """Returns `count` images from `first_index` on.

        Args:
            first_index: index of the first image.
            count: 1 to `max_images`.
            class_ids: class of each image; None for the condition of the source.
        """

    def close(self) -> None:
        """Releases what this process has opened."""


@dataclass(frozen=True, slots=True)
class _Connection:
    """The client of one process."""

    client: Client
    closed: threading.Event = field(default_factory=threading.Event)
    """Set when the source is closed. Reads that wait for the server then end."""

    def close(self) -> None:
        self.closed.set()
        self.client.close()


class ServerSource:
    """Images of a server.

    The constructor asks the server once for the model, and closes that connection. It pins version,
    variant and bundle, so that every process reads the same images; it is an error if the server
    runs others later. `read` waits for a server that is away, busy or restarting.

    Args:
        target: as for `Client`.
        model: name of the model.
        seed: 0 to 2^64 - 1; None chooses one at random, see `identity.seed`.
        condition: the class or classes, as for `Client.generate`, except PerImage.
        truncation: within the range of the model; None for none.
        image_filter: which images to keep; None for all.
        version: number or text; empty or None for the server's default version at this moment.
        tls: encryption settings; None for plain text.
        timeout_s: time limit of one read in seconds, including retries; None for no limit.
        metadata: pairs or a mapping to send with every call, such as credentials.

    Raises:
        NotFound: there is no such model, or the version is not ready.
        InvalidRequest: an argument has the wrong type or cannot be sent, or the condition lists a
            class for each image.
        ValueError, TypeError: as `Client`.
        ImagemintError: any other failure.
    """

    def __init__(
        self,
        target: str | Sequence[str],
        model: str,
        *,
        seed: int | None = None,
        condition: Condition = None,
        truncation: float | None = None,
        image_filter: Filter | None = None,
        version: str | int | None = "",
        tls: Tls | None = None,
        timeout_s: float | None = 30.0,
        metadata: MetadataLike = (),
    ) -> None:
        if isinstance(condition, PerImage):
            raise make_invalid_request(
                "condition", "ServerSource does not take PerImage; use Cycle"
            )
        # Checked here, and not by the first read, which may happen in another process.
        spec = make_image_spec(
            model,
            1,
            seed=secrets.randbits(64) if seed is None else seed,
            condition=condition,
            truncation=truncation,
            image_filter=image_filter,
            version=version,
        )
        self._target = target
        self._settings: dict[str, Any] = {
            "tls": tls,
            "timeout_s": timeout_s,
            "metadata": parse_metadata(metadata),
        }
        self._condition = condition
        self._truncation = truncation
        self._timeout_s = timeout_s
        # By fork generation; one is this process's.
        self._connections: dict[int, _Connection] = {}
        # The client must be closed before workers are forked, or they could not use gRPC.
        with Client(target, **self._settings) as client:
            found = client.model(model)
        identity = _identify(found, spec.version, spec.seed)
        self._identity = replace(
            identity,
            image_filter=image_filter,
            truncation=truncation,
            condition=_spell_condition(condition, identity.class_labels),
        )
        self._max_images = found.limits.max_images_per_request

    @property
    def identity(self) -> SourceIdentity:
        """Properties that all images share."""
        return self._identity

    @property
    def max_images(self) -> int:
        """Largest `count` of one read: the server's limit."""
        return self._max_images

    def read(
        self, first_index: int, count: int, class_ids: Sequence[int] | None = None
    ) -> ImageBatch:
        """Returns `count` images from `first_index` on, in one answer.

        Raises:
            Unavailable, QueueFull: the server did not recover within `timeout_s`.
            ClientClosed: another thread closed the source.
            ServerError: the server has other bytes under this version.
            ImagemintError: any other failure.
        """
        deadline = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        failures = 0
        connection = self._open()
        while True:
            left_s = None if deadline is None else max(deadline - time.monotonic(), 0.001)
            try:
                return self._generate(connection.client, first_index, count, class_ids, left_s)
            except ClientClosed:
                raise
            except _TRANSIENT as error:
                failures += 1
                wait_s = BACKOFF.compute_delay_s(failures, error.retry_delay_s)
                if deadline is not None and time.monotonic() + wait_s >= deadline:
                    raise
            if connection.closed.wait(wait_s):
                raise ClientClosed

    def close(self) -> None:
        """Closes the connection of this process, and ends its reads with ClientClosed.

        The next read opens a new one.
        """
        connection = self._connections.pop(forks.count_forks(), None)
        if connection is not None:
            connection.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_connections": {}}

    def _generate(
        self,
        client: Client,
        first_index: int,
        count: int,
        class_ids: Sequence[int] | None,
        timeout_s: float | None,
    ) -> ImageBatch:
        pinned = self._identity
        batch = client.generate(
            pinned.model,
            count,
            seed=pinned.seed,
            first_index=first_index,
            condition=self._condition if class_ids is None else PerImage(class_ids),
            truncation=self._truncation,
            image_filter=pinned.image_filter,
            version=pinned.version,
            variant=pinned.variant,
            timeout_s=timeout_s,
        )
        if batch.bundle_sha256 != pinned.bundle_sha256:
            raise ServerError(
                f"{pinned.model}@{pinned.version} changed: bundle {pinned.bundle_sha256[:12]} "
                f"became {batch.bundle_sha256[:12]}",
                reason="BUNDLE_CHANGED",
            )
        return batch

    def _open(self) -> _Connection:
        """Returns the connection of this process.

        It takes no lock, because a fork could copy a lock that another thread holds.
        """
        generation = forks.count_forks()
        connection = self._connections.get(generation)
        if connection is None:
            fresh = _Connection(Client(self._target, **self._settings))
            connection = self._connections.setdefault(generation, fresh)
            if connection is not fresh:  # another thread was first
                fresh.close()
        return connection


def _identify(model: Model, version: str, seed: int) -> SourceIdentity:
    wanted = version or model.default_version
    found = next((each for each in model.versions if each.version == wanted), None)
    if found is None or found.manifest is None:
        raise NotFound(_explain_missing(model, wanted, found), reason="VERSION_NOT_READY")
    manifest = found.manifest
    return SourceIdentity(
        model=model.name,
        version=found.version,
        variant=found.variant,
        bundle_sha256=found.bundle_sha256,
        seed=seed,
        class_labels=manifest.class_labels,
        image_shape=(manifest.height, manifest.width, manifest.channels),
    )


def _spell_condition(condition: Condition, labels: Sequence[str]) -> str:
    """Returns a condition as text, the same for all ways to ask for the same classes."""
    match condition:
        case None:
            return ""
        case Cycle(class_ids):
            return spell_cycle(list(class_ids) or range(len(labels)))
        case str():
            return str(labels.index(condition)) if condition in labels else condition
        case Caption(text):
            return f"caption {text}"
        case Weights(weights):
            return f"weights {','.join(str(float(weight)) for weight in weights)}"
        case _:
            return str(condition)


def spell_cycle(class_ids: Iterable[int]) -> str:
    """Returns classes in turn as the text of `SourceIdentity.condition`."""
    return ",".join(str(int(class_id)) for class_id in class_ids)


def _explain_missing(model: Model, wanted: str, found: ModelVersion | None) -> str:
    if found is not None:
        return f"{model.name}@{wanted} is {found.state}{': ' * bool(found.reason)}{found.reason}"
    known = ", ".join(version.version for version in model.versions) or "none"
    missing = f"version {wanted}" if wanted else "default version that is ready"
    return f"{model.name} has no {missing}; versions: {known}"
