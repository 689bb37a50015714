"""The connection settings that the commands share, and the command `imagemint models`."""

# ruff: noqa: T201 - a command prints

import dataclasses
import json
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from imagemint.client.blocking import Client
from imagemint.client.channel import Tls, parse_api_key, parse_targets
from imagemint.client.images import EncodedPicture, ImageBatch
from imagemint.client.models import Model, ModelVersion, SourceShape
from imagemint.client.requests import Filter

ChunkT = TypeVar("ChunkT", ImageBatch, list[EncodedPicture])


_MOST_EXAMPLES = 5
LONGEST_S = 10**6
"""Longest time of a setting, in seconds; gRPC counts milliseconds in an int32."""


def _check_server(value: str) -> str:
    parse_targets(value)
    return value


def _check_key(value: SecretStr | None) -> SecretStr | None:
    """Returns the key without the line end of the file that it came from; None if it is empty."""
    if value is None or not (key := value.get_secret_value().strip()):
        return None
    if not (key.isascii() and key.isprintable()):
        raise ValueError("must be printable ASCII")
    return SecretStr(key)


class Connection(BaseModel):
    """Settings of the connection to the server, which the commands share."""

    model_config = ConfigDict(
        use_attribute_docstrings=True, coerce_numbers_to_str=True, allow_inf_nan=False
    )

    server: Annotated[str, AfterValidator(_check_server)] = "127.0.0.1:8001"
    """HOST:PORT of the server, or several, comma-separated."""
    timeout_s: float = Field(30.0, gt=0, le=LONGEST_S)
    """Seconds that a call, or the next chunk of a stream, may take."""
    tls: bool = False
    """Use TLS. The other TLS settings imply it."""
    tls_root_certificates: Path | None = None
    """PEM file of the certificate authorities to trust."""
    tls_private_key: Path | None = None
    """PEM file of the client's key."""
    tls_certificate_chain: Path | None = None
    """PEM file of the client's certificate."""
    tls_server_name: str | None = None
    """Name that the server's certificate must have. Default: that of the address."""
    api_key: Annotated[SecretStr | None, AfterValidator(_check_key)] = None
    """API key, if the server requires one. Prefer IMAGEMINT_API_KEY: other users can see flags."""

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if (self.tls_private_key is None) != (self.tls_certificate_chain is None):
            raise ValueError("set tls_private_key and tls_certificate_chain together")
        return self

    def open_client(self) -> Client:
        """Returns a client of the server."""
        return Client(
            self.server,
            tls=self.make_tls(),
            timeout_s=self.timeout_s,
            api_key=self._read_api_key(),
        )

    def make_tls(self) -> Tls | None:
        """Returns the encryption settings; None for plain text."""
        tls = Tls(
            root_certificates_path=self.tls_root_certificates,
            private_key_path=self.tls_private_key,
            certificate_chain_path=self.tls_certificate_chain,
            server_name=self.tls_server_name,
        )
        return tls if self.tls or tls != Tls() else None

    def make_metadata(self) -> list[tuple[str, str]]:
        """Returns the metadata of every call: the API key, if there is one."""
        return list(parse_api_key(self._read_api_key()))

    def _read_api_key(self) -> str | None:
        return None if self.api_key is None else self.api_key.get_secret_value()


class FilteredConnection(Connection):
    """Settings of the commands that make images, and may keep only good ones."""

    min_class_confidence: float | None = Field(None, ge=0, le=1)
    """Keep only images to whose class the model's classifier gives at least this probability."""
    rejection_sampling: bool = False
    """Keep images by discriminator rejection sampling."""
    min_training_distance: float | None = Field(None, ge=0, le=1e6)
    """Keep only images at least this far from every training image, in units of the median
    distance of test images."""
    max_tries: int | None = Field(None, ge=1, le=1_000)
    """Most candidates for one index. If none passes, the command fails. Default: 64."""
    scores: bool = False
    """Return the scores of the images in an npz, even if no condition is set."""

    @property
    def image_filter(self) -> Filter | None:
        """Filter of the images; None to keep all images and return no scores."""
        image_filter = Filter(
            self.min_class_confidence,
            self.rejection_sampling,
            self.min_training_distance,
            self.max_tries,
        )
        return (
            image_filter
            if self.scores or image_filter != Filter(max_tries=self.max_tries)
            else None
        )


class Models(Connection):
    """Lists the models of a server, with versions, states, classes, captions and image sizes."""

    json_: bool = Field(default=False, alias="json")
    """Print everything that the server reports as JSON, instead of a table."""

    def run(self) -> int:
        """Prints the list."""
        with self.open_client() as client:
            found = client.models()
        if self.json_:
            print(json.dumps([dataclasses.asdict(each) for each in found], indent=2))
        else:
            print("\n".join([_format_table(found), *_describe_captions(found)]))
        return 0


def _format_table(models: Sequence[Model]) -> str:
    """Returns a table with a line for each version; `*` marks the default version."""
    head = (
        *("MODEL", "VERSION", "STATE", "CLASSES", "SOURCE", "IMAGE", "TRUNCATION"),
        *("VARIANT", "PROVIDER", "REASON"),
    )
    rows = [head, *(_format_row(model, version) for model in models for version in model.versions)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _describe_captions(models: Sequence[Model]) -> Iterator[str]:
    """Yields the captions that each text-to-image model understands, of its default version."""
    for model in models:
        manifest = model.manifest()
        if manifest is None or manifest.captions is None:
            continue
        captions = manifest.captions
        yield f"\n{model.name} takes captions of up to {captions.max_words} words, such as"
        yield from (f"  {example}" for example in captions.examples[:_MOST_EXAMPLES])
        words = ", ".join(sorted(captions.vocabulary))
        yield textwrap.fill(f"Words: {words}", 100, subsequent_indent="  ")


def _format_source(source: SourceShape) -> str:
    """Returns a source such as `64x64x3`, `any/8x3` for multiples of 8, or `4*64x64x3+mask`."""
    size = f"any/{source.step}" if source.step else f"{source.height}x{source.width}"
    frames = f"{source.frames}*" if source.frames > 1 else ""
    return f"{frames}{size}x{source.channels}{'+mask' if source.mask else ''}"


def _format_row(model: Model, version: ModelVersion) -> tuple[str, ...]:
    classes = source = image = truncation = "-"
    if manifest := version.manifest:
        classes = str(len(manifest.class_labels) or "-")
        image = f"{manifest.height}x{manifest.width}x{manifest.channels}"
        if manifest.source is not None:
            source = _format_source(manifest.source)
            if manifest.source.step:
                image = f"source*{manifest.source.scale}x{manifest.channels}"
        if span := manifest.truncation:
            truncation = f"{span.kind} {span.minimum:g}..{span.maximum:g}"
    mark = "*" if version.version == model.default_version else ""
    return (
        model.name,
        version.version + mark,
        version.state.value,
        classes,
        source,
        image,
        truncation,
        version.variant or "-",
        version.execution_provider or "-",
        version.reason,
    )
