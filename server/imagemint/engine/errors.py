"""Errors of the engine and the server, without gRPC.

The RPC layer translates them to status codes with one table; the exception classes say *what*
happened, `reason` says it to machines, the message says it to people::

    ImagemintError
    ├── InvalidRequest        a field of the request is wrong; lists every violation
    ├── ModelNotFound         no such model
    ├── VersionNotFound       the model exists, that version does not
    ├── ClassUnsupported      a class asked of an unconditional model
    ├── VariantMismatch       a variant of the model that this server does not run
    ├── QueueFull             too much is waiting; says when to come back
    ├── Draining              the server is shutting down
    ├── ModelNotReady         the model is still loading, or was refused
    ├── LoadFailed            an explicit load was refused; what served before still does
    ├── ModelControlRefused   this server does not load and unload models on demand
    ├── DeadlinePassed        the caller's deadline passed before the work began
    ├── BackendFailed         the runtime failed; the caller is not to blame
    └── BundleRefused         a bundle on disk is not fit to be served
"""
# ruff: noqa: N818 - they name what happened, and read as such in `except QueueFull:`

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

MOST_QUOTED = 200
"""Characters that a message, a log or a detail holds of one text that a caller sent."""


def shortened(text: str, most: int = MOST_QUOTED) -> str:
    """Returns a text that a caller sent, cut to `most` characters; a cut one ends in an ellipsis.

    Whatever repeats such a text in a message, a log line or a trace cuts it: names of models,
    versions, labels, tensors and datatypes, keys and values of parameters, ids.
    """
    return text if len(text) <= most else text[: most - 1] + "…"


def quoted(text: str, most: int = 50) -> str:
    """Returns a text that a caller sent in quotes, escaped and cut as by `shortened`."""
    return repr(shortened(text, most))


class ImagemintError(Exception):
    """Root of everything that Imagemint raises on purpose.

    Args:
        message: one sentence for people; it may reach the caller, so it holds no secrets.
        metadata: details for machines, by name; values are short strings.
    """

    reason: ClassVar[str] = "INTERNAL"
    """Stable identity for machines, upper snake case."""

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
    """What is wrong with it and what would be right."""


class InvalidRequest(ImagemintError):
    """A request breaks the documented range of one or more fields.

    Args:
        violations: every fault found, not only the first; at least one.
    """

    reason = "INVALID_REQUEST"

    def __init__(self, violations: Sequence[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in self.violations))


class ModelNotFound(ImagemintError):
    """No model of that name.

    Args:
        model: the name asked for.
        known: the names that exist.
    """

    reason = "MODEL_NOT_FOUND"

    def __init__(self, model: str, known: Sequence[str]) -> None:
        self.known = tuple(known)
        model = shortened(model)
        metadata = {"model": model, "known": ",".join(known)}
        super().__init__(
            f"no model {model!r}; there is {_listed(self.known)}",
            metadata=metadata,
        )


class VersionNotFound(ImagemintError):
    """The model exists, that version of it does not.

    Args:
        model: the model's name.
        version: the version asked for.
        known: the versions that exist, oldest first.
    """

    reason = "VERSION_NOT_FOUND"

    def __init__(self, model: str, version: str | int, known: Sequence[str | int]) -> None:
        self.known = tuple(str(v) for v in known)
        model, version = shortened(model), shortened(str(version))
        metadata = {"model": model, "version": version, "known": ",".join(self.known)}
        super().__init__(
            f"model {model!r} has no version {version}; there is {_listed(self.known)}",
            metadata=metadata,
        )


class ClassUnsupported(ImagemintError):
    """A class was asked of a model that has none.

    Args:
        model: the model's name.
    """

    reason = "CLASS_UNSUPPORTED"

    def __init__(self, model: str) -> None:
        super().__init__(
            f"model {model!r} is unconditional: ask it for no class", metadata={"model": model}
        )


class VariantMismatch(ImagemintError):
    """The request names another variant than the one that this server runs.

    Args:
        model: the model's name.
        version: its version.
        running: name of the variant that the server runs.
        asked: the variant asked for, a name or `reference`.
    """

    reason = "VARIANT_MISMATCH"

    def __init__(self, model: str, version: int, running: str, asked: str) -> None:
        asked = shortened(asked)
        super().__init__(
            f"this server runs variant {running!r} of {model}@{version}, not {asked!r}: its pixels "
            "would be different",
            metadata={
                "model": model,
                "version": str(version),
                "running": running,
                "asked": asked,
            },
        )


class QueueFull(ImagemintError):
    """As much is waiting for the model as it will hold.

    Args:
        model: the model's name.
        retry_delay_s: seconds after which there should be room again.
    """

    reason = "QUEUE_FULL"

    def __init__(self, model: str, retry_delay_s: float) -> None:
        self.retry_delay_s = retry_delay_s
        super().__init__(
            f"the queue of model {model!r} is full; try again in {retry_delay_s:.2f} s",
            metadata={"model": model},
        )


class Draining(ImagemintError):
    """The server finishes what it has accepted and takes nothing more.

    Args:
        retry_delay_s: seconds after which another server should have taken over.
    """

    reason = "DRAINING"

    def __init__(self, retry_delay_s: float) -> None:
        self.retry_delay_s = retry_delay_s
        super().__init__("the server is shutting down")


class ModelNotReady(ImagemintError):
    """The model exists but does not answer.

    Args:
        model: the model's name.
        state_reason: why, such as `still loading`, or the reason of a refusal.
        retry_delay_s: seconds after which to ask again.
    """

    reason = "MODEL_NOT_READY"

    def __init__(self, model: str, state_reason: str, retry_delay_s: float) -> None:
        self.retry_delay_s = retry_delay_s
        super().__init__(f"model {model!r} is not ready: {state_reason}", metadata={"model": model})


class LoadFailed(ImagemintError):
    """A model was asked to be loaded, and some of it was refused; what served before still does.

    Args:
        model: the model's name.
        why: each version that was refused, and its reason.
    """

    reason = "LOAD_FAILED"

    def __init__(self, model: str, why: str) -> None:
        self.why = why
        super().__init__(f"model {model!r} was not loaded: {why}", metadata={"model": model})


class ModelControlRefused(ImagemintError):
    """This server does not load and unload models on demand.

    Args:
        message: why, and what would change it.
    """

    reason = "MODEL_CONTROL_REFUSED"


class DeadlinePassed(ImagemintError):
    """The caller's deadline passed before the work began; it was dropped, never run."""

    reason = "DEADLINE_PASSED"

    def __init__(self, message: str = "the deadline passed while the request was waiting") -> None:
        super().__init__(message)


class BackendFailed(ImagemintError):
    """The runtime failed at something that should have worked.

    Args:
        message: short text without internals; the detail is the `__cause__`, for the log.
    """

    reason = "BACKEND_FAILED"


class BundleRefused(ImagemintError):
    """A bundle on disk is not fit to be served.

    Args:
        path: the bundle's directory, or the file at fault.
        why: what is wrong with it, one line.
        passing: whether the same bytes may load at another time: the cause is the machine's state,
            such as a want of memory, and not what the bundle is.
    """

    reason = "BUNDLE_REFUSED"

    def __init__(self, path: Path, why: str, *, passing: bool = False) -> None:
        self.path = path
        self.why = why
        self.passing = passing
        super().__init__(f"bundle {path} refused: {why}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"
