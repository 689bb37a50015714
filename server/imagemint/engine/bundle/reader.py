"""Reads a bundle from disk, and refuses a bundle that cannot be served.

Bundles are untrusted data, so the reader checks before it uses: the size before reading, the
checksum before parsing, the graph before running.
"""

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import onnx
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from imagemint.engine.bundle.critic import (
    CRITIC_FILE,
    CriticGraph,
    list_critic_inputs,
    list_critic_outputs,
)
from imagemint.engine.bundle.findings import Findings
from imagemint.engine.bundle.graph_checks import find_faults
from imagemint.engine.bundle.memory_estimate import Estimate, TooLarge, check_size, estimate
from imagemint.engine.bundle.probe_hints import ProbeHints, find_hints
from imagemint.engine.bundle.sums import (
    MODEL_FILE,
    SIGNATURE_FILE,
    SUMS_FILE,
    SUMS_MAX_BYTES,
    parse_sums,
)
from imagemint.engine.bundle.variants import Variant, spell_precision, spell_target
from imagemint.engine.errors import BundleRefused
from imagemint.engine.failure_causes import is_passing
from imagemint.engine.filtering import ScoreSpec
from imagemint.engine.spec import GraphInput, ModelSpec
from imagemint.v1 import manifest_pb2 as pb

if TYPE_CHECKING:  # its library is in an extra
    from imagemint.engine.bundle.signatures import TrustedKeys

MANIFEST_KEY = "imagemint.manifest"
"""Key of the manifest's JSON in the metadata_props of the ONNX model."""

DEFAULT_MAX_BYTES = 2**30

DOCUMENTS = ("card.md", "samples.png")
"""Names of the files of a bundle that are for people."""

_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_GRAPH_ENDING = ".onnx"
_DOCUMENT_MAX_BYTES = 8 * 2**20


class Document(NamedTuple):
    """A file for people, as checked."""

    content: bytes
    """Its bytes."""
    sha256: str
    """Their SHA-256, lower-case hexadecimal."""


@dataclass(frozen=True)
class Bundle:
    """A bundle that passed every check."""

    directory: Path
    """`<repository>/<model>/<version>`."""
    model_path: Path
    """Path of its model.onnx."""
    manifest: pb.BundleManifest
    """The manifest as read."""
    spec: ModelSpec
    """The part of the manifest that validates requests."""
    sha256: str
    """SHA-256 of model.onnx, lower-case hexadecimal."""
    version: int
    """Version number, 1 or more; the name of its directory."""
    model_bytes: int
    """Size of model.onnx in bytes."""
    others: tuple[Variant, ...] = ()
    """Other graphs of the same generator; for each device, the preferred one first."""
    critic: CriticGraph | None = None
    """The graph that scores images; None for a bundle without scores."""
    estimate: Estimate = field(default=Estimate(0, is_complete=False), repr=False)
    """Estimated time and memory of model.onnx."""
    hints: ProbeHints = field(default=ProbeHints(), repr=False)
    """Hints for the probe of model.onnx."""
    contents: Mapping[str, bytes] = field(default_factory=dict, repr=False, compare=False)
    """The bytes of its graphs by file name, as checked; see `without_contents`."""
    sums: bytes = field(default=b"", repr=False, compare=False)
    """The content of SHA256SUMS, with which every file was checked."""
    documents: Mapping[str, Document] = field(default_factory=dict, repr=False, compare=False)
    """Those of `DOCUMENTS` that SHA256SUMS lists, by file name; none of more than 8 MiB."""
    findings: Findings | None = field(default=None, repr=False)
    """The findings of a trial; None without a trial."""

    @property
    def reference(self) -> Variant:
        """The graph in model.onnx."""
        precision = spell_precision(self.manifest.precision)
        return Variant(
            precision,
            self.model_path,
            self.sha256,
            self.model_bytes,
            precision,
            None,
            self.estimate,
            self.hints,
        )

    @property
    def variants(self) -> tuple[Variant, ...]:
        """All graphs; the one in model.onnx is first."""
        return (self.reference, *self.others)

    def without_contents(self) -> "Bundle":
        """Returns the bundle without the bytes of its graphs, once they are loaded."""
        return replace(self, contents={})

    def read_model(self, variant: Variant | CriticGraph | None = None) -> bytes:
        """Returns the bytes of a graph, from its file if they are not kept.

        Args:
            variant: the graph, which can be the critic. Default: model.onnx.

        Raises:
            BundleRefused: the file changed since it was checked.
        """
        graph = variant or self.reference
        if (kept := self.contents.get(graph.path.name)) is not None:
            return kept
        content = _read(graph.path, graph.size)
        if hashlib.sha256(content).hexdigest() != graph.sha256:
            why = f"{graph.path.name} changed while it was being loaded"
            raise BundleRefused(self.directory, why)
        return content


def read_bundle(
    directory: Path, *, max_bytes: int = DEFAULT_MAX_BYTES, trusted: "TrustedKeys | None" = None
) -> Bundle:
    """Reads and checks the bundle in a directory `<repository>/<model>/<version>`.

    Args:
        directory: the directory; the last two parts of its path are the model and the version.
        max_bytes: maximum file size, checked before reading.
        trusted: keys of which one must have signed the bundle. Default: a signature is neither
            required nor checked.

    Raises:
        BundleRefused: a check failed; the message says which.
    """
    directory = directory.absolute()
    if not _VERSION.fullmatch(directory.name):
        raise BundleRefused(
            directory, f"the version must be a positive integer, not {directory.name!r}"
        )
    sums, digests = _read_sums(directory, trusted)
    contents, documents = _read_files(directory, digests, max_bytes)
    content = contents[MODEL_FILE]
    manifest, spec, memory_estimate, hints = _examine(directory, MODEL_FILE, content)
    others = tuple(
        _read_variant(directory, spec, variant, contents) for variant in manifest.variants
    )
    declared = manifest.critic if manifest.HasField("critic") else None
    return Bundle(
        directory=directory,
        model_path=directory / MODEL_FILE,
        manifest=manifest,
        spec=spec,
        sha256=hashlib.sha256(content).hexdigest(),
        version=int(directory.name),
        model_bytes=len(content),
        others=others,
        critic=None if declared is None else _read_critic(directory, spec, declared, contents),
        estimate=memory_estimate,
        hints=hints,
        contents=contents,
        sums=sums,
        documents=documents,
    )


def _read_variant(
    directory: Path, spec: ModelSpec, declared: pb.Variant, contents: dict[str, bytes]
) -> Variant:
    """Returns a variant after checking it against the manifest of model.onnx."""
    content = contents.get(declared.file)
    if content is None or declared.file == MODEL_FILE:
        raise BundleRefused(directory, f"{SUMS_FILE} does not list the variant {declared.file}")
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != declared.sha256:
        why = f"{declared.file} is not the file that {MODEL_FILE} declares"
        raise BundleRefused(directory, why)
    manifest, own_spec, memory_estimate, hints = _examine(directory, declared.file, content)
    if own_spec != spec or manifest.precision != declared.precision:
        why = f"{declared.file} and {MODEL_FILE} describe different models"
        raise BundleRefused(directory, why)
    return Variant(
        declared.name,
        directory / declared.file,
        sha256,
        len(content),
        spell_precision(declared.precision),
        spell_target(declared.target),
        memory_estimate,
        hints,
    )


def _read_critic(
    directory: Path, spec: ModelSpec, declared: pb.Critic, contents: dict[str, bytes]
) -> CriticGraph:
    """Returns the critic after checking it against the manifest of model.onnx."""
    content = contents.get(CRITIC_FILE)
    if content is None:
        raise BundleRefused(directory, f"{SUMS_FILE} does not list {CRITIC_FILE}")
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != declared.sha256:
        why = f"{CRITIC_FILE} is not the file that {MODEL_FILE} declares"
        raise BundleRefused(directory, why)
    scores = ScoreSpec.of(declared)
    with _refuse_bad_graph(directory, CRITIC_FILE):
        model = _parse(directory, CRITIC_FILE, content)
        check_size(model)
        _check_graph(
            directory, CRITIC_FILE, model, list_critic_inputs(spec), list_critic_outputs(scores)
        )
        memory_estimate = estimate(model)
    return CriticGraph(directory / CRITIC_FILE, sha256, len(content), scores, memory_estimate)


class _Examined(NamedTuple):
    manifest: pb.BundleManifest
    spec: ModelSpec
    estimate: Estimate
    hints: ProbeHints


def _examine(directory: Path, name: str, content: bytes) -> _Examined:
    """Checks the graph of a generator, and returns its manifest, estimate and hints."""
    with _refuse_bad_graph(directory, name):
        model = _parse(directory, name, content)
        # First, because all other checks take time for each node.
        check_size(model)
        manifest, spec = _check_model(directory, name, model)
        memory_estimate = estimate(model, spec.largest_rows)
        return _Examined(manifest, spec, memory_estimate, find_hints(model.graph))


@contextmanager
def _refuse_bad_graph(directory: Path, name: str) -> Iterator[None]:
    """Refuses a graph that is too large, or not readable."""
    try:
        yield
    except TooLarge as error:
        raise BundleRefused(
            directory, _add_file_name(name, f"its graph is too large: {error}")
        ) from error
    except UnicodeDecodeError as error:
        # Parsing does not decode strings; reading a damaged one raises this error.
        raise BundleRefused(directory, f"{name} contains a name that is not UTF-8") from error


def _check_model(
    directory: Path, name: str, model: onnx.ModelProto
) -> tuple[pb.BundleManifest, ModelSpec]:
    manifest, spec = _read_manifest(directory, model)
    if spec.name != directory.parent.name:
        raise BundleRefused(
            directory,
            f"its manifest names the model {spec.name!r}, but its folder is"
            f" {directory.parent.name!r}",
        )
    _check_graph(directory, name, model, spec.inputs, {"image": spec.image})
    return manifest, spec


def _check_graph(
    directory: Path,
    name: str,
    model: onnx.ModelProto,
    inputs: Mapping[str, GraphInput],
    outputs: Mapping[str, GraphInput],
) -> None:
    if found := list(find_faults(model, inputs, outputs)):
        raise BundleRefused(directory, _add_file_name(name, "; ".join(found)))
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        why = str(error).strip().splitlines()[0]
        raise BundleRefused(directory, _add_file_name(name, f"not valid ONNX: {why}")) from error


def _add_file_name(name: str, why: str) -> str:
    return why if name == MODEL_FILE else f"{name}: {why}"


def _read_files(
    directory: Path, digests: Mapping[str, str], max_bytes: int
) -> tuple[dict[str, bytes], dict[str, Document]]:
    """Checks every file in SHA256SUMS against its digest, and returns the graphs and documents."""
    graphs, documents = {}, {}
    for name, digest in digests.items():
        content = _read(directory / name, max_bytes)
        if hashlib.sha256(content).hexdigest() != digest:
            raise BundleRefused(directory, f"checksum mismatch: {name} is truncated or altered")
        if name.endswith(_GRAPH_ENDING):
            graphs[name] = content
        elif name in DOCUMENTS and len(content) <= _DOCUMENT_MAX_BYTES:
            documents[name] = Document(content, digest)
    return graphs, documents


def _read_sums(directory: Path, trusted: "TrustedKeys | None") -> tuple[bytes, dict[str, str]]:
    """Returns SHA256SUMS, and its digests by file name, after checking its signature."""
    content = _read(directory / SUMS_FILE, SUMS_MAX_BYTES)
    try:
        if trusted is not None:
            trusted.check(content, _read_signature(directory))
        return content, parse_sums(content)
    except ValueError as error:
        raise BundleRefused(directory, str(error)) from error


def _read_signature(directory: Path) -> bytes:
    if not (directory / SIGNATURE_FILE).exists():
        raise BundleRefused(directory, f"it is not signed: {SIGNATURE_FILE} is missing")
    return _read(directory / SIGNATURE_FILE, SUMS_MAX_BYTES)


def _read(path: Path, max_bytes: int) -> bytes:
    """Returns the content of a regular file; refuses one larger than `max_bytes` unread."""
    try:
        # Non-blocking, so that a named pipe in place of the file cannot block the server.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise BundleRefused(path.parent, f"{path.name} is not a regular file")
            # Reading one byte more than the size detects a file that grew meanwhile. It must not
            # read up to `max_bytes`, because a read allocates memory for its full size.
            content = file.read(found.st_size + 1) if found.st_size <= max_bytes else b""
    except FileNotFoundError:
        raise BundleRefused(path.parent, f"{path.name} is missing") from None
    except OSError as error:
        why = f"cannot read {path.name}: {error.strerror}"
        raise BundleRefused(path.parent, why, passing=is_passing(error)) from error
    if max(found.st_size, len(content)) > max_bytes:
        why = f"{path.name} is larger than the limit of {max_bytes:,} bytes"
        raise BundleRefused(path.parent, why)
    return content


def _parse(directory: Path, name: str, content: bytes) -> onnx.ModelProto:
    try:
        # Loading from a string opens no other file, so external data is not read.
        model = onnx.load_model_from_string(content)
    except (DecodeError, ValueError) as error:
        raise BundleRefused(directory, f"{name} is truncated, or not ONNX") from error
    if not model.graph.node:
        raise BundleRefused(directory, f"{name} is truncated, or not ONNX: it has no graph")
    return model


def _read_manifest(directory: Path, model: onnx.ModelProto) -> tuple[pb.BundleManifest, ModelSpec]:
    texts = [entry.value for entry in model.metadata_props if entry.key == MANIFEST_KEY]
    if len(texts) != 1:
        raise BundleRefused(
            directory,
            f"metadata_props has {len(texts)} entries {MANIFEST_KEY!r}; exactly one is required."
            " Make a bundle of a plain ONNX file with `imagemint export --from-onnx`",
        )
    try:
        # Ignores unknown fields; a manifest that needs them has a newer format version.
        manifest = json_format.Parse(texts[0], pb.BundleManifest(), ignore_unknown_fields=True)
        return manifest, ModelSpec.of(manifest)
    except json_format.Error as error:
        raise BundleRefused(directory, f"manifest is not readable: {error}") from error
    except (ValueError, RecursionError) as error:
        raise BundleRefused(directory, str(error)) from error
