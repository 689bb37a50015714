"""Sources of the pixels of a data set.

A specification (`ServerSpec`, `LocalSpec`) is plain data that can be sent to other processes. Each
process opens its own source from it.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

from imagemint.client.blocking import Client
from imagemint.client.channel import Tls
from imagemint.client.errors import (
    Cancelled,
    ClientClosed,
    DeadlineExceeded,
    ImagemintError,
    NotFound,
    QueueFull,
    Unavailable,
)
from imagemint.client.images import ImageBatch
from imagemint.client.models import Manifest, Model, ModelState, ModelVersion
from imagemint.client.requests import Filter
from imagemint.client.resuming import BACKOFF
from imagemint.dataset.errors import (
    CONTINUE,
    DatasetError,
    SourceChanged,
    TemporaryFailure,
    refuse_translator,
)
from imagemint.dataset.plan import Plan

_PASSING = (Unavailable, QueueFull, DeadlineExceeded, Cancelled)


@dataclass(frozen=True, slots=True)
class Offer:
    """The properties of a source's images that a plan pins."""

    model: str
    version: str
    variant: str
    bundle_sha256: str
    execution_provider: str
    class_labels: tuple[str, ...]
    has_captions: bool
    height: int
    width: int
    channels: int
    title: str
    license: str
    truncation: tuple[float, float] | None
    """Smallest and largest truncation that it takes; None if it takes none."""
    scores: tuple[str, ...] = ()
    software: tuple[tuple[str, str], ...] = ()
    """Libraries that compute the images and their releases; empty if a server does not tell."""

    def check_truncation(self, truncation: float | None) -> None:
        """Raises DatasetError if the model does not accept a truncation."""
        if truncation is None:
            return
        if self.truncation is None:
            raise DatasetError("this model takes no truncation")
        smallest, largest = self.truncation
        if not smallest <= truncation <= largest:
            raise DatasetError(
                f"truncation is {truncation}; this model takes {smallest} to {largest}"
            )

    def check_filter(self, image_filter: Filter | None) -> None:
        """Raises DatasetError if a filter needs scores that the model does not have."""
        if image_filter is None:
            return
        missing = [name for name in image_filter.needs if name not in self.scores]
        if missing or not self.scores:
            raise DatasetError(
                f"{self.model}@{self.version} has no {' and no '.join(missing) or 'scores'}; its "
                f"scores: {', '.join(self.scores) or 'none'}. Export the model with a critic"
            )

    def check(self, plan: Plan, place: str) -> None:
        """Raises SourceChanged unless the source makes the images that the plan names.

        Args:
            plan: the plan.
            place: the source for messages, such as its address.
        """
        for name in ("model", "version", "bundle_sha256", "variant", "execution_provider"):
            planned, found = getattr(plan, name), getattr(self, name)
            if planned != found:
                raise SourceChanged(
                    f"{place} has {name} {found} of {self.model}@{self.version}, but the plan of "
                    f"the data set has {planned}: its pixels would be different"
                )


class Source(Protocol):
    """Makes images of a plan. One thread uses it at a time."""

    def read(self, first_index: int, count: int) -> Iterator[ImageBatch]:
        """Yields the images in order of index, each once, in batches of any size."""

    def close(self) -> None:
        """Releases its resources."""


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """One or more servers that run the same model."""

    addresses: tuple[str, ...]
    """HOST:PORT of each."""
    timeout_s: float
    """Longest time for the next chunk from one server, and without one from any, in seconds."""
    tls: Tls | None = None
    """Encryption; None for plain text."""
    metadata: tuple[tuple[str, str], ...] = ()
    """Metadata of each call, such as the API key."""

    def read_offer(
        self, model: str, version: str, variant: str, on_wait: Callable[[ImagemintError], None]
    ) -> tuple[Offer, list[ImagemintError]]:
        """Returns the offer of the servers, and the errors of those that do not answer.

        All servers must make the same images. If none answers, or all still load the model, they
        are asked again until the timeout. Once one answers, the others are left out: a server is
        checked when a source uses it.

        Args:
            model: name of the model.
            version: version; empty for the default version of the first server that answers.
            variant: variant; empty for the one that this server runs.
            on_wait: called once with the error of a server, before the first wait.

        Raises:
            NotFound: a server has no such model or version.
            SourceChanged: the servers would make different images.
            TemporaryFailure: no server answers.
        """
        deadline = time.monotonic() + self.timeout_s
        rounds = 0
        while True:
            first, absent = self._ask_for_offers(model, version, variant)
            if first is not None:
                return first, absent
            rounds += 1
            wait_s = BACKOFF.compute_delay_s(rounds, absent[0].retry_delay_s)
            if time.monotonic() + wait_s >= deadline:
                raise _translate(absent[0]) from absent[0]
            if rounds == 1:
                on_wait(absent[0])
            time.sleep(wait_s)

    def _ask_for_offers(
        self, model: str, version: str, variant: str
    ) -> tuple[Offer | None, list[ImagemintError]]:
        """Returns the offer of the servers that answer, and the errors of the others."""
        first: Offer | None = None
        one = ""
        absent: list[ImagemintError] = []
        for address in self.addresses:
            try:
                with self.open_client(address) as client:
                    found = describe_model(client.model(model), version)
            except _PASSING as error:
                absent.append(error)
                continue
            if variant not in ("", "reference", found.variant):
                raise SourceChanged(
                    f"{address} runs variant {found.variant} of {model}@{found.version}, "
                    f"not {variant}"
                )
            if first is None:
                first, one, version = found, address, found.version
            if found != first:
                raise SourceChanged(
                    f"{one} and {address} would make different images of "
                    f"{model}@{version}: {_describe_differences(first, found)}"
                )
        return first, absent

    def open_client(self, address: str) -> Client:
        """Returns a client of one server."""
        return Client(address, tls=self.tls, timeout_s=self.timeout_s, metadata=list(self.metadata))

    def open_source(self, plan: Plan, worker: int) -> "ServerSource":
        """Returns a source for one worker; different workers begin with different servers."""
        at = worker % len(self.addresses)
        return ServerSource(self, plan, (*self.addresses[at:], *self.addresses[:at]))


@dataclass(frozen=True, slots=True)
class LocalSpec:
    """The engine in this process."""

    directory: Path
    """Directory of the bundle, `<repository>/<model>/<version>`."""
    device: str = "auto"
    """`cpu`, `cuda` or `auto`."""
    findings: Any = field(default=None, compare=False)
    """Findings of the engine about the bundle on this machine, which workers reuse."""

    def open_source(self, plan: Plan, worker: int) -> Source:
        """Returns a source for one worker."""
        from imagemint.dataset.local import LocalSource  # noqa: PLC0415 - needs the server extra

        return LocalSource(self, plan, worker)


Spec: TypeAlias = ServerSpec | LocalSpec


class ServerSource:
    """Streams images from one server, and continues with the next one if it fails.

    Args:
        spec: the servers.
        plan: the plan.
        addresses: the servers in the order in which to try them.

    Raises:
        SourceChanged: a server would make other pixels than the plan names.
    """

    def __init__(self, spec: ServerSpec, plan: Plan, addresses: tuple[str, ...]) -> None:
        self._spec = spec
        self._plan = plan
        self._addresses = addresses
        self._at = 0
        self._client: Client | None = None
        self._stopped = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def stop(self) -> None:
        """Ends a read on another thread, also one that waits for a server, with ClientClosed."""
        self._stopped.set()
        if (client := self._client) is not None:
            client.close()

    def read(self, first_index: int, count: int) -> Iterator[ImageBatch]:
        """Yields the images in order of index.

        If a server is unavailable or too busy beyond the timeout, the next server continues from
        the next index. TemporaryFailure is raised if all servers fail in a row and the timeout has
        passed: a stream waits for its server only after the first batch, so a server that restarts
        between two shards is waited for here.
        """
        done = failures = 0
        since = time.monotonic()
        while done < count:
            try:
                with contextlib.closing(self._stream(first_index + done, count - done)) as batches:
                    for batch in batches:
                        failures = 0
                        yield batch
                        done += len(batch)
                        since = time.monotonic()
            except _PASSING as error:
                if self._stopped.is_set():
                    raise ClientClosed from error
                failures += 1
                self.close()
                self._at = (self._at + 1) % len(self._addresses)
                rounds, others = divmod(failures, len(self._addresses))
                if rounds and not others:
                    wait_s = BACKOFF.compute_delay_s(rounds, error.retry_delay_s)
                    if time.monotonic() + wait_s >= since + self._spec.timeout_s:
                        raise _translate(error) from error
                    self._stopped.wait(wait_s)

    def _stream(self, first_index: int, count: int) -> Generator[ImageBatch, None, None]:
        plan, address = self._plan, self._addresses[self._at]
        if self._client is None:
            self._client = self._spec.open_client(address)
            if self._stopped.is_set():  # a client that stop() has not seen
                raise ClientClosed
            describe_model(self._client.model(plan.model), plan.version).check(plan, address)
        for batch in self._client.stream(
            plan.model,
            count,
            seed=plan.seed,
            first_index=first_index,
            condition=plan.condition,
            truncation=plan.truncation,
            version=plan.version,
            variant=plan.variant,
            image_filter=plan.image_filter,
        ):
            _check_batch(batch, plan, address)
            yield batch


def _translate(error: ImagemintError) -> TemporaryFailure:
    return TemporaryFailure(f"{error}. {CONTINUE}")


def describe_model(model: Model, version: str) -> Offer:
    """Returns the offer of a server for a version.

    Args:
        model: the model, as the server describes it.
        version: the version; empty for the default one.

    Raises:
        NotFound: there is no such version, or it is not ready.
        Unavailable: the version is being loaded, or any version is if none is ready.
        DatasetError: the model translates pictures.
    """
    wanted = version or model.default_version
    for candidate in model.versions:
        if candidate.version == wanted and candidate.manifest is not None:
            return _describe_version(model.name, candidate, candidate.manifest)
        # A server that starts has no default version yet.
        if wanted in ("", candidate.version) and candidate.state == ModelState.LOADING:
            raise Unavailable(
                f"{model.name}@{candidate.version} is loading", reason="MODEL_NOT_READY"
            )
    exist = ", ".join(each.version for each in model.versions if each.manifest is not None)
    raise NotFound(
        f"model {model.name}: version {wanted or '(default)'} is not ready; ready are: "
        f"{exist or 'none'}"
    )


def _describe_version(model: str, version: ModelVersion, manifest: Manifest) -> Offer:
    if manifest.source is not None:
        raise refuse_translator(model)
    accepted = manifest.truncation
    return Offer(
        model=model,
        version=version.version,
        variant=version.variant,
        bundle_sha256=version.bundle_sha256,
        execution_provider=version.execution_provider.partition(" ")[0],
        class_labels=manifest.class_labels,
        has_captions=manifest.captions is not None,
        height=manifest.height,
        width=manifest.width,
        channels=manifest.channels,
        title=manifest.title,
        license=manifest.license,
        truncation=(accepted.minimum, accepted.maximum) if accepted else None,
        scores=manifest.scores,
    )


def _check_batch(batch: ImageBatch, plan: Plan, address: str) -> None:
    """Raises SourceChanged if a server changed between its description and its images."""
    found = (batch.version, batch.bundle_sha256, batch.variant)
    planned = (plan.version, plan.bundle_sha256, plan.variant)
    if found != planned:
        raise SourceChanged(
            f"{address} changed: it sent images of version {found[0]}, variant {found[2]}, bundle "
            f"{found[1][:12]}; the plan has version {planned[0]}, variant {planned[2]}, bundle "
            f"{planned[1][:12]}"
        )


def _describe_differences(one: Offer, other: Offer) -> str:
    names = [name for name in Offer.__slots__ if getattr(one, name) != getattr(other, name)]
    return "; ".join(f"{name} {getattr(one, name)} and {getattr(other, name)}" for name in names)
