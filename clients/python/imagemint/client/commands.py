"""The commands that the client brings: `imagemint models` and `imagemint generate`."""

# ruff: noqa: T201 - a command prints

import dataclasses
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator
from tqdm import tqdm

from imagemint.client import outputs
from imagemint.client.api import Selection
from imagemint.client.blocking import Client
from imagemint.client.channel import Tls, targets_of
from imagemint.client.errors import NotFound, invalid
from imagemint.client.images import EncodedPicture, ImageBatch
from imagemint.client.models import Model, ModelVersion
from imagemint.client.requests import UINT64_MAX, Condition, Cycle, Priority
from imagemint.client.serials import Serial

ChunkT = TypeVar("ChunkT", ImageBatch, list[EncodedPicture])


def _server(value: str) -> str:
    targets_of(value)
    return value


class Connection(BaseModel):
    """How to reach the server; what the commands have in common."""

    model_config = ConfigDict(use_attribute_docstrings=True, coerce_numbers_to_str=True)

    server: Annotated[str, AfterValidator(_server)] = "127.0.0.1:8001"
    """HOST:PORT of the server, or several, comma-separated."""
    timeout_s: float = Field(30.0, gt=0)
    """Seconds that a call, or the next chunk of a stream, may take."""
    tls: bool = False
    """Encrypt; implied by the other TLS settings."""
    tls_root_certificates: Path | None = None
    """PEM file of the certificate authorities to trust."""
    tls_private_key: Path | None = None
    """PEM file of the client's key."""
    tls_certificate_chain: Path | None = None
    """PEM file of the client's certificate."""
    tls_server_name: str | None = None
    """Name that the server's certificate must bear."""
    api_key: SecretStr | None = None
    """API key, where the server wants one; better as IMAGEMINT_API_KEY, for others see flags."""

    def client(self) -> Client:
        """A client of that server."""
        return Client(
            self.server,
            tls=self.encryption(),
            timeout_s=self.timeout_s,
            metadata=self.metadata(),
        )

    def encryption(self) -> Tls | None:
        """How to encrypt; None for plain text."""
        tls = Tls(
            root_certificates_path=self.tls_root_certificates,
            private_key_path=self.tls_private_key,
            certificate_chain_path=self.tls_certificate_chain,
            server_name=self.tls_server_name,
        )
        return tls if self.tls or tls != Tls() else None

    def metadata(self) -> list[tuple[str, str]]:
        """What goes with every call: the API key, if there is one."""
        if self.api_key is None:
            return []
        return [("authorization", f"Bearer {self.api_key.get_secret_value()}")]


class Models(Connection):
    """List the models of a server, with their versions and what they make."""

    json_: bool = Field(default=False, alias="json")
    """Print JSON with everything the server says, instead of a table."""

    def run(self) -> int:
        """Prints the list."""
        with self.client() as client:
            found = client.models()
        if self.json_:
            print(json.dumps([dataclasses.asdict(each) for each in found], indent=2))
        else:
            print(_table(found))
        return 0


class Generate(Connection):
    """Mint images into a directory of PNGs, one PNG sheet, or an npz file."""

    model: str | None = None
    """Model to ask; needed unless --serial names it."""
    class_: str | None = Field(None, alias="class")
    """Class by index or label; several, comma-separated, are taken in turn; `balanced` takes all
    in turn. Without it a conditional model draws classes at random."""
    count: int = Field(1, ge=1, le=UINT64_MAX)
    """Number of images."""
    seed: int | None = Field(None, ge=0, le=UINT64_MAX)
    """Seed; without it the server picks one."""
    first_index: int = Field(0, ge=0, le=UINT64_MAX)
    """Index of the first image on the seed's reel."""
    truncation: float | None = None
    """Truncation within the range of the model."""
    version: str = ""
    """Version of the model; the server's default without it."""
    serial: str | None = None
    """Mint this one serial number again; excludes the settings that it holds."""
    out: Path
    """PATH.npz: one npz; PATH.png: one sheet; any other: a directory of PNG files."""
    columns: int | None = Field(None, ge=1)
    """Images in a row of the sheet; the square root of the count without it."""
    chunk_size: int | None = Field(None, ge=1)
    """Images in a chunk of the stream; the server's choice without it."""
    priority: Priority = "normal"
    """Who goes first where requests wait: normal or high."""
    progress: bool | None = None
    """Show a progress bar; without either, only on a terminal."""
    quiet: bool = False
    """Print nothing but errors."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        held = {"model", "class_", "count", "seed", "first_index", "truncation", "version"}
        if self.serial is None:
            if not self.model:
                raise ValueError("--model is required (or IMAGEMINT_MODEL), or else --serial")
        elif given := sorted(held & self.model_fields_set):
            flags = ", ".join("--" + each.strip("_").replace("_", "-") for each in given)
            raise ValueError(f"--serial says it all and excludes {flags}")
        return self

    def run(self) -> int:
        """Mints the images, writes them and says what they are."""
        report = _Report(self.count, show=False if self.quiet else self.progress)
        with self.client() as client:
            model, selection = self._selection(client)
            self._write(client, model, selection, report)
        if not self.quiet:
            print(f"{report} to {self.out}")
        return 0

    def _write(self, client: Client, model: str, selection: Selection, report: "_Report") -> None:
        match self.out.suffix:
            case ".npz":
                batches = client.stream(
                    model,
                    self.count,
                    chunk_size=self.chunk_size,
                    priority=self.priority,
                    **selection,
                )
                outputs.write_npz(self.out, self.count, report.watched(batches))
            case ".png" if self.count <= client.model(model).limits.max_images_per_request:
                sheet = client.sheet(
                    model, self.count, columns=self.columns, priority=self.priority, **selection
                )
                for (picture,) in report.watched([[sheet]]):
                    with outputs.replacing(self.out) as file:
                        file.write(picture.data)
            case ".png":
                batches = client.stream(
                    model,
                    self.count,
                    chunk_size=self.chunk_size,
                    priority=self.priority,
                    **selection,
                )
                outputs.write_sheet(self.out, self.count, self.columns, report.watched(batches))
            case _:
                pictures = client.stream_encoded(
                    model,
                    self.count,
                    chunk_size=self.chunk_size,
                    priority=self.priority,
                    **selection,
                )
                outputs.write_directory(self.out, report.watched(pictures))

    def _selection(self, client: Client) -> tuple[str, Selection]:
        """The model, and which of its images."""
        if self.serial is not None:
            wanted = Serial.parse(self.serial)
            return wanted.model, Selection(
                seed=wanted.seed,
                first_index=wanted.index,
                condition=wanted.class_id,
                truncation=wanted.truncation,
                version=wanted.version,
            )
        model = self.model or ""

        def labels() -> Sequence[str]:
            manifest = client.model(model).manifest(self.version)
            if manifest is None:
                raise NotFound(f"{model} has no version {self.version or 'that is ready'}")
            return manifest.class_labels

        return model, Selection(
            seed=self.seed,
            first_index=self.first_index,
            condition=condition_of(self.class_, labels),
            truncation=self.truncation,
            version=self.version,
        )


def condition_of(text: str | None, labels: Callable[[], Sequence[str]]) -> Condition:
    """The condition that the value of --class means.

    Args:
        text: an index, a label, several of them with commas between, `balanced`, or None.
        labels: asks for the label texts of the model; called only for labels in a list.

    Raises:
        InvalidRequest: a list holds a label that the model does not know.
    """
    if text is None:
        return None
    if text == "balanced":
        return Cycle()
    parts = [each.strip() for each in text.split(",")]
    numbers = [int(each) if re.fullmatch(r"-?[0-9]+", each) else each for each in parts]
    if len(numbers) == 1:
        return numbers[0]
    known = list(labels()) if any(isinstance(each, str) for each in numbers) else []
    for each in numbers:
        if isinstance(each, str) and each not in known:
            raise invalid("class", f"there is no class {each!r}; there are {', '.join(known)}")
    return Cycle([each if isinstance(each, int) else known.index(each) for each in numbers])


class _Report:
    """Counts chunks as they pass, shows the progress, and says at the end what they were."""

    def __init__(self, count: int, *, show: bool | None) -> None:
        self.count = count
        self.show = show
        self._started = time.perf_counter()
        self._elapsed_s = 0.0
        self._first: ImageBatch | EncodedPicture | None = None

    def watched(self, chunks: Iterable[ChunkT]) -> Iterator[ChunkT]:
        """`chunks`, unchanged."""
        # None lets tqdm decide: it stays silent where stderr is no terminal.
        hidden = None if self.show is None else not self.show
        with tqdm(total=self.count, unit=" images", file=sys.stderr, disable=hidden) as bar:
            for chunk in chunks:
                self._first = self._first or (chunk[0] if isinstance(chunk, list) else chunk)
                yield chunk
                arrived = chunk if isinstance(chunk, list) else [chunk]
                bar.update(sum(len(each.index) for each in arrived))
        self._elapsed_s = time.perf_counter() - self._started

    def __str__(self) -> str:
        first = self._first
        if first is None:
            return "nothing"
        images = "1 image" if self.count == 1 else f"{self.count} images"
        rate = self.count / max(self._elapsed_s, 1e-9)
        return (
            f"{first.model}@{first.version} seed {first.seed}: {images} in "
            f"{self._elapsed_s:.2f} s ({rate:.0f} images/s), first serial {first.serials[0]},"
        )


def _table(models: Sequence[Model]) -> str:
    """The models as text, a line for each version; `*` marks the one that answers by default."""
    head = (
        *("MODEL", "VERSION", "STATE", "CLASSES", "IMAGE", "TRUNCATION"),
        *("VARIANT", "PROVIDER", "REASON"),
    )
    rows = [head, *(_row(model, each) for model in models for each in model.versions)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _row(model: Model, version: ModelVersion) -> tuple[str, ...]:
    classes = image = truncation = "-"
    if manifest := version.manifest:
        classes = str(len(manifest.class_labels) or "-")
        image = f"{manifest.height}x{manifest.width}x{manifest.channels}"
        if span := manifest.truncation:
            truncation = f"{span.kind} {span.minimum:g}..{span.maximum:g}"
    mark = "*" if version.version == model.default_version else ""
    return (
        model.name,
        version.version + mark,
        version.state.value,
        classes,
        image,
        truncation,
        version.variant or "-",
        version.execution_provider or "-",
        version.reason,
    )
