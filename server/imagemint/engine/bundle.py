"""Reading a bundle from disk, and refusing one that is not fit to be served.

A bundle is data from somewhere else. Nothing of it is believed before it was checked: the size
before reading, the checksum before parsing, the graph before anything is run.
"""

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from imagemint.engine._graph import faults
from imagemint.engine.errors import BundleRefused
from imagemint.engine.spec import ModelSpec
from imagemint.v1 import manifest_pb2 as pb

MODEL_FILE = "model.onnx"
SUMS_FILE = "SHA256SUMS"
MANIFEST_KEY = "imagemint.manifest"
"""Key of the manifest's JSON in the metadata_props of the ONNX model."""

DEFAULT_MAX_BYTES = 2**30

_VERSION = re.compile(r"[1-9][0-9]{0,17}")
# As `sha256sum` writes them; plain names only, so that no line points out of the directory.
_SUMS_LINE = re.compile(r"([0-9a-f]{64}) [ *]([A-Za-z0-9][A-Za-z0-9._-]*)")
_SUMS_MAX_BYTES = 64 * 1024


@dataclass(frozen=True)
class Bundle:
    """A bundle that passed every check."""

    directory: Path
    """`<repository>/<model>/<version>`."""
    model_path: Path
    """Its model.onnx."""
    manifest: pb.BundleManifest
    """Self-description, as read."""
    spec: ModelSpec
    """The part of the manifest that requests are checked against."""
    sha256: str
    """SHA-256 of model.onnx, lower-case hexadecimal."""
    version: int
    """1 or more, the name of its directory."""
    model_bytes: int
    """Size of model.onnx."""

    def read_model(self) -> bytes:
        """The bytes of model.onnx, read again.

        Raises:
            BundleRefused: they are no longer the bytes that were checked.
        """
        content = _read(self.model_path, self.model_bytes)
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise BundleRefused(self.directory, f"{MODEL_FILE} changed while it was being loaded")
        return content


def read_bundle(directory: Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Bundle:
    """The bundle in a directory `<repository>/<model>/<version>`.

    Args:
        directory: where it lies; the last two names of the path are its model and version.
        max_bytes: largest file accepted, looked at before a byte is read.

    Raises:
        BundleRefused: anything about it is wrong; says what.
    """
    directory = directory.absolute()
    if not _VERSION.fullmatch(directory.name):
        raise BundleRefused(directory, f"{directory.name!r} is not a version, a positive integer")
    content = _checked_content(directory, max_bytes)
    model = _parsed(directory, content)
    try:
        manifest, spec = _examined(directory, model)
    except UnicodeDecodeError as error:
        # Parsing leaves texts as they are; whoever reads a damaged one first gets this.
        raise BundleRefused(directory, f"{MODEL_FILE} has a name that is not text") from error
    return Bundle(
        directory=directory,
        model_path=directory / MODEL_FILE,
        manifest=manifest,
        spec=spec,
        sha256=hashlib.sha256(content).hexdigest(),
        version=int(directory.name),
        model_bytes=len(content),
    )


def _examined(directory: Path, model: onnx.ModelProto) -> tuple[pb.BundleManifest, ModelSpec]:
    """What the model says of itself, once everything in it was looked at."""
    manifest, spec = _described(directory, model)
    if spec.name != directory.parent.name:
        raise BundleRefused(
            directory,
            f"its manifest names the model {spec.name!r}, its folder {directory.parent.name!r}",
        )
    if found := list(faults(model, spec)):
        raise BundleRefused(directory, "; ".join(found))
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        why = str(error).strip().splitlines()[0]
        raise BundleRefused(directory, f"not valid ONNX: {why}") from error
    return manifest, spec


def _checked_content(directory: Path, max_bytes: int) -> bytes:
    """The bytes of model.onnx, after every file listed in SHA256SUMS was found as listed."""
    model = b""
    for name, digest in _sums(directory).items():
        content = _read(directory / name, max_bytes)
        if hashlib.sha256(content).hexdigest() != digest:
            raise BundleRefused(directory, f"checksum mismatch: {name} is truncated or altered")
        model = content if name == MODEL_FILE else model
    return model


def _sums(directory: Path) -> dict[str, str]:
    """Digest by file name, as SHA256SUMS says."""
    try:
        lines = _read(directory / SUMS_FILE, _SUMS_MAX_BYTES).decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise BundleRefused(directory, f"{SUMS_FILE} is not text") from error
    found = [_SUMS_LINE.fullmatch(line) for line in lines]
    listed = {match[2]: match[1] for match in found if match}
    if len(listed) != len(lines):
        raise BundleRefused(directory, f"{SUMS_FILE} has a line that is not `digest  name`")
    if MODEL_FILE not in listed:
        raise BundleRefused(directory, f"{SUMS_FILE} does not list {MODEL_FILE}")
    return listed


def _read(path: Path, max_bytes: int) -> bytes:
    """The whole of a plain file; refused before reading if larger than `max_bytes`."""
    try:
        # Non-blocking, so that a named pipe in place of a file cannot hang the server.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise BundleRefused(path.parent, f"{path.name} is not a regular file")
            # One byte more than allowed tells a file that grew after it was measured.
            content = file.read(max_bytes + 1) if found.st_size <= max_bytes else b""
    except FileNotFoundError:
        raise BundleRefused(path.parent, f"{path.name} is missing") from None
    except OSError as error:
        why = f"cannot read {path.name}: {error.strerror}"
        raise BundleRefused(path.parent, why) from error
    if max(found.st_size, len(content)) > max_bytes:
        why = f"{path.name} is larger than the limit of {max_bytes:,} bytes"
        raise BundleRefused(path.parent, why)
    return content


def _parsed(directory: Path, content: bytes) -> onnx.ModelProto:
    try:
        # From a string: nothing outside it is opened, so external data stays where it is.
        model = onnx.load_model_from_string(content)
    except (DecodeError, ValueError) as error:
        raise BundleRefused(directory, f"{MODEL_FILE} is truncated, or not ONNX") from error
    if not model.graph.node:
        raise BundleRefused(directory, f"{MODEL_FILE} is truncated, or not ONNX: no graph in it")
    return model


def _described(directory: Path, model: onnx.ModelProto) -> tuple[pb.BundleManifest, ModelSpec]:
    texts = [entry.value for entry in model.metadata_props if entry.key == MANIFEST_KEY]
    if len(texts) != 1:
        raise BundleRefused(
            directory, f"metadata_props holds {len(texts)} entries {MANIFEST_KEY!r}, not one"
        )
    try:
        # Fields this version does not know are left to the format version to forbid.
        manifest = json_format.Parse(texts[0], pb.BundleManifest(), ignore_unknown_fields=True)
        return manifest, ModelSpec.of(manifest)
    except json_format.Error as error:
        raise BundleRefused(directory, f"manifest is not readable: {error}") from error
    except (ValueError, RecursionError) as error:
        raise BundleRefused(directory, str(error)) from error
