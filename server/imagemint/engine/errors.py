"""Errors of the engine and the server, without gRPC.

The RPC layer maps them to status codes in one table. The class says what happened, `reason` is the
same for programs, and the message is for people::

    ImagemintError
    ├── InvalidRequest        a field of the request is wrong; lists every violation
    ├── ModelNotFound         no such model
    ├── VersionNotFound       the model exists, that version does not
    ├── ClassUnsupported      the request names a class, the model has none
    ├── CaptionUnsupported    the request has a caption, the model takes none
    ├── SourceUnsupported     a translation is asked of a model that takes no source
    ├── SourceRequired        a model that translates a source is asked to generate without one
    ├── VariantMismatch       a variant of the model that this server does not run
    ├── ScoreUnsupported      a score that the bundle does not have
    ├── FilterExhausted       no candidate of an index passes the filter
    ├── QueueFull             the queue of the model is full; has a retry delay
    ├── Draining              the server is shutting down
    ├── ModelNotReady         the model is still loading, or was refused
    ├── LoadFailed            a requested load failed; versions that served before still serve
    ├── ModelControlRefused   this server does not load and unload models on demand
    ├── DeadlinePassed        the caller's deadline passed before the work began
    ├── BackendFailed         the runtime failed; the request is not the cause
    └── BundleRefused         a bundle on disk cannot be served
"""
# ruff: noqa: N818 - the names state the condition, as in `except QueueFull:`

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from imagemint.engine.spelling import suggest

MOST_QUOTED = 200
"""Maximum characters of a caller's text in a message, a log line or an error detail."""


def shorten(text: str, most: int = MOST_QUOTED) -> str:
    """Returns a caller's text, cut to `most` characters; a cut text ends with an ellipsis.

    Messages, log lines and traces must use it for every text of a caller: names of models,
    versions, labels, tensors and datatypes, keys and values of parameters, ids.
    """
    return text if len(text) <= most else text[: most - 1] + "…"


def quote(text: str, most: int = 50) -> str:
    """Returns a caller's text in quotes, escaped, and cut as by `shorten`."""
    return repr(shorten(text, most))


class ImagemintError(Exception):
    """Base class of all errors that Imagemint raises on purpose.

    Args:
        message: one sentence for people; it can reach the caller, so it contains no secrets.
        metadata: details for programs, by name; values are short strings.
    """

    reason: ClassVar[str] = "INTERNAL"
    """Stable identifier for programs, in upper snake case."""

    def __init__(self, message: str, *, metadata: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: dict[str, str] = metadata or {}


@dataclass(frozen=True)
class Violation:
    """One field of a request that is wrong."""

    field: str
    """Path of the field as in the proto, such as `images.class_id`."""
    description: str
    """What is wrong, and what is valid."""


class InvalidRequest(ImagemintError):
    """One or more fields of a request are outside their documented range.

    Args:
        violations: all faults, not only the first; at least one.
    """

    reason = "INVALID_REQUEST"

    def __init__(self, violations: Sequence[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in self.violations))


class ModelNotFound(ImagemintError):
    """There is no model of that name.

    Args:
        model: the requested name.
        known: the names that exist.
    """

    reason = "MODEL_NOT_FOUND"

    def __init__(self, model: str, known: Sequence[str]) -> None:
        self.known = tuple(known)
        model = shorten(model)
        metadata = {"model": model, "known": ",".join(known)}
        super().__init__(
            f"no model {model!r}; {_list_existing(self.known)}{suggest(model, self.known)}",
            metadata=metadata,
        )


class VersionNotFound(ImagemintError):
    """The model exists, but not that version.

    Args:
        model: the model's name.
        version: the requested version.
        known: the versions that exist, oldest first.
    """

    reason = "VERSION_NOT_FOUND"

    def __init__(self, model: str, version: str | int, known: Sequence[str | int]) -> None:
        self.known = tuple(str(v) for v in known)
        model, version = shorten(model), shorten(str(version))
        metadata = {"model": model, "version": version, "known": ",".join(self.known)}
        quoted = version if version.isdecimal() else repr(version)
        super().__init__(
            f"model {model!r} has no version {quoted}; {_list_existing(self.known)}",
            metadata=metadata,
        )


class ClassUnsupported(ImagemintError):
    """The request names a class, but the model has none.

    Args:
        model: the model's name.
        takes_caption: whether the model takes a caption.
    """

    reason = "CLASS_UNSUPPORTED"

    def __init__(self, model: str, *, takes_caption: bool = False) -> None:
        advice = "it takes a caption instead" if takes_caption else "ask it for no class"
        super().__init__(f"model {model!r} has no classes: {advice}", metadata={"model": model})


class CaptionUnsupported(ImagemintError):
    """The request has a caption, but the model takes none.

    Args:
        model: the model's name.
    """

    reason = "CAPTION_UNSUPPORTED"

    def __init__(self, model: str) -> None:
        super().__init__(
            f"model {model!r} takes no caption: ask it for none", metadata={"model": model}
        )


class SourceUnsupported(ImagemintError):
    """The request has a source, but the model takes none.

    Args:
        model: the model's name.
    """

    reason = "SOURCE_UNSUPPORTED"

    def __init__(self, model: str) -> None:
        super().__init__(
            f"model {model!r} takes no source: call Generate, as `imagemint generate` does",
            metadata={"model": model},
        )


class SourceRequired(ImagemintError):
    """The model translates a source, and the request has none.

    Args:
        model: the model's name.
    """

    reason = "SOURCE_REQUIRED"

    def __init__(self, model: str) -> None:
        super().__init__(
            f"model {model!r} translates a source: call Translate, as `imagemint translate` does",
            metadata={"model": model},
        )


class VariantMismatch(ImagemintError):
    """The request names another variant than the one that this server runs.

    Args:
        model: the model's name.
        version: its version.
        running: name of the variant that the server runs.
        requested: the requested variant, a name or `reference`.
    """

    reason = "VARIANT_MISMATCH"

    def __init__(self, model: str, version: int, running: str, requested: str) -> None:
        requested = shorten(requested)
        super().__init__(
            f"this server runs variant {running!r} of {model}@{version}, not {requested!r}: its"
            " pixels would be different",
            metadata={
                "model": model,
                "version": str(version),
                "running": running,
                "asked": requested,
            },
        )


class ScoreUnsupported(ImagemintError):
    """The request needs scores that the bundle does not have.

    Args:
        model: the model's name.
        version: its version.
        needed: the missing scores.
        known: the scores of the bundle.
    """

    reason = "SCORE_UNSUPPORTED"

    def __init__(
        self, model: str, version: int, needed: Sequence[str], known: Sequence[str]
    ) -> None:
        super().__init__(
            f"{model}@{version} has no {' and no '.join(needed)}; its scores: {_join_names(known)}."
            " Export the model with a critic",
            metadata={"model": model, "version": str(version), "known": ",".join(known)},
        )


class FilterExhausted(ImagemintError):
    """No candidate of an index passes the filter.

    Args:
        index: the index.
        tries: number of its candidates, the bound of the request.
        computed: number of candidates of all indices that were computed together.
        found: number of these indices with a candidate that passed.
        seen: the best scores of the rejected candidates, as text.
    """

    reason = "FILTER_EXHAUSTED"

    def __init__(self, index: int, tries: int, computed: int, found: int, seen: str) -> None:
        super().__init__(
            f"no image of index {index} passes the filter with max_tries {tries}; of {computed} "
            f"images computed, {found} passed; the others had {seen}. Relax the filter or raise "
            "max_tries",
            metadata={"index": str(index), "tries": str(tries), "computed": str(computed)},
        )


class QueueFull(ImagemintError):
    """The queue of the model is full.

    Args:
        model: the model's name.
        retry_delay_s: estimated seconds until the queue has room again.
    """

    reason = "QUEUE_FULL"

    def __init__(self, model: str, retry_delay_s: float) -> None:
        self.retry_delay_s = retry_delay_s
        super().__init__(
            f"the queue of model {model!r} is full; try again in {retry_delay_s:.2f} s",
            metadata={"model": model},
        )


class Draining(ImagemintError):
    """The server finishes the accepted calls and accepts no others.

    Args:
        retry_delay_s: seconds after which another server should accept calls.
    """

    reason = "DRAINING"

    def __init__(self, retry_delay_s: float) -> None:
        self.retry_delay_s = retry_delay_s
        super().__init__("the server is shutting down")


class ModelNotReady(ImagemintError):
    """The model exists but does not serve.

    Args:
        model: the model's name.
        state_reason: why, such as `still loading`, or the reason of a refusal.
        retry_delay_s: seconds after which to retry.
        version: the version that does not serve. Default: no version of the model is meant.
    """

    reason = "MODEL_NOT_READY"

    def __init__(
        self, model: str, state_reason: str, retry_delay_s: float, version: int | None = None
    ) -> None:
        self.retry_delay_s = retry_delay_s
        subject, metadata = f"model {model!r}", {"model": model}
        if version is not None:
            subject, metadata = (
                f"version {version} of {subject}",
                metadata | {"version": str(version)},
            )
        super().__init__(f"{subject} is not ready: {state_reason}", metadata=metadata)


class LoadFailed(ImagemintError):
    """A requested load failed for one or more versions; versions that served before still serve.

    Args:
        model: the model's name.
        why: the refused versions and their reasons.
    """

    reason = "LOAD_FAILED"

    def __init__(self, model: str, why: str) -> None:
        self.why = why
        super().__init__(f"model {model!r} was not loaded: {why}", metadata={"model": model})


class ModelControlRefused(ImagemintError):
    """This server does not load and unload models on demand.

    Args:
        message: why, and which setting changes it.
    """

    reason = "MODEL_CONTROL_REFUSED"


class DeadlinePassed(ImagemintError):
    """The caller's deadline passed before the work began; the work was dropped."""

    reason = "DEADLINE_PASSED"

    def __init__(self, message: str = "the deadline passed while the request was waiting") -> None:
        super().__init__(message)


class BackendFailed(ImagemintError):
    """The runtime failed unexpectedly.

    Args:
        message: short text without internals; the details for the log are in `__cause__`.
    """

    reason = "BACKEND_FAILED"


class BundleRefused(ImagemintError):
    """A bundle on disk cannot be served.

    Args:
        path: the bundle's directory, or the faulty file.
        why: what is wrong, in one line.
        passing: whether the cause is transient: the state of the machine, such as too little
            memory, and not the content of the bundle.
    """

    reason = "BUNDLE_REFUSED"

    def __init__(self, path: Path, why: str, *, passing: bool = False) -> None:
        self.path = path
        self.why = why
        self.passing = passing
        super().__init__(f"bundle {path} refused: {why}")


def _list_existing(names: Sequence[str]) -> str:
    return f"there {'are' if len(names) > 1 else 'is'} {_join_names(names)}"


def _join_names(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"
