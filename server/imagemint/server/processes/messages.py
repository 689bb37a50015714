"""Messages between the supervisor and its workers, as JSON.

Payloads and values of questions are plain JSON values: the supervisor forwards them without knowing
their types.
"""

from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import TypeAdapter

from imagemint.server.processes.worker_metrics import Figures
from imagemint.server.settings import ServeSettings


@dataclass(frozen=True)
class Begin:
    """To a worker: the first message, with its identity and settings."""

    number: int
    settings: ServeSettings
    """The settings of the worker, with the actual port and its share of the limits."""
    shared_log: int
    """File descriptor of the log in which the workers share what they found out about bundles."""
    remembered: tuple["Question", ...] = ()
    served_elsewhere: dict[str, list[int]] = field(default_factory=dict)
    """The versions that the other workers serve, by model."""
    replaces: bool = False
    """Whether all workers listened once, so that this one replaces a worker that died."""


@dataclass(frozen=True)
class Ready:
    """From a worker: it accepts calls."""

    models: dict[str, list[int]]
    """The versions that it serves, by model."""


@dataclass(frozen=True)
class Served:
    """From a worker: the versions that it serves have changed."""

    models: dict[str, list[int]]
    """The versions that it serves, by model."""


@dataclass(frozen=True)
class ServedElsewhere:
    """To a worker: the versions that the other workers serve have changed."""

    models: dict[str, list[int]]
    """The versions, by model."""


@dataclass(frozen=True)
class Failed:
    """From a worker: the last message; it cannot serve."""

    reason: str


@dataclass(frozen=True)
class Heartbeat:
    """From a worker, every second: its event loop runs."""

    figures: Figures | None = None
    """Its metrics, from time to time and when it leaves."""


@dataclass(frozen=True)
class Reload:
    """To a worker: scan for changed models now."""


@dataclass(frozen=True)
class Drain:
    """To a worker: finish the accepted calls and exit."""


@dataclass(frozen=True)
class Ask:
    """From a worker: a question to all workers."""

    id: int
    """Chosen by the worker; the answers carry it."""
    topic: str
    payload: Any
    remember_as: str
    timeout_s: float


@dataclass(frozen=True)
class Question:
    """To a worker: a question to answer."""

    id: int
    """Chosen by the supervisor; the reply carries it."""
    topic: str
    payload: Any


@dataclass(frozen=True)
class Reply:
    """From a worker: the reply to a question; `value` is None if there is none."""

    id: int
    worker: int
    value: Any = None
    error: str = ""


@dataclass(frozen=True)
class Answers:
    """To the worker that asked: the replies of all workers."""

    id: int
    replies: list[Reply] = field(default_factory=list)


Message = (
    Begin
    | Ready
    | Served
    | ServedElsewhere
    | Failed
    | Heartbeat
    | Reload
    | Drain
    | Ask
    | Question
    | Reply
    | Answers
)

_ADAPTERS: dict[str, TypeAdapter[Any]] = {
    kind.__name__: TypeAdapter(kind) for kind in get_args(Message)
}


def dump_message(message: Message) -> bytes:
    """Returns a message as bytes: the name of its class, a space, and its fields as JSON."""
    name = type(message).__name__
    return name.encode() + b" " + _ADAPTERS[name].dump_json(message)


def parse_message(content: bytes) -> Message:
    """Returns the message of `dump_message`.

    Raises:
        KeyError, ValueError: the bytes are not a message.
    """
    name, _, fields = content.partition(b" ")
    message: Message = _ADAPTERS[name.decode()].validate_json(fields)
    return message
