"""What the supervisor and its workers tell each other.

Payloads and values of questions are bytes here: the supervisor passes them on and need not know
them, nor import what they are made of.
"""

from dataclasses import dataclass, field

from imagemint.server.processes.worker_metrics import Figures
from imagemint.server.settings import ServeSettings


@dataclass(frozen=True)
class Begin:
    """To a worker, first of all: what it is."""

    number: int
    settings: ServeSettings
    """Of this worker: with the port that was found, and its share of what is shared out."""
    served_bytes: int
    """File descriptor of the file in which the workers share what was served."""
    remembered: tuple["Question", ...] = ()


@dataclass(frozen=True)
class Ready:
    """From a worker: it takes calls."""

    models: dict[str, list[int]]
    """The versions that it serves."""


@dataclass(frozen=True)
class Failed:
    """From a worker, last of all: it cannot serve."""

    reason: str


@dataclass(frozen=True)
class Beat:
    """From a worker, every second: its event loop runs."""

    figures: Figures | None = None
    """What it has counted, now and then and when it leaves."""


@dataclass(frozen=True)
class Reload:
    """To a worker: look for what has changed, now."""


@dataclass(frozen=True)
class Drain:
    """To a worker: finish what was accepted, and leave."""


@dataclass(frozen=True)
class Ask:
    """From a worker: ask all workers."""

    id: int
    """Chosen by the worker, for the answers."""
    topic: str
    payload: bytes
    remember_as: str
    timeout_s: float


@dataclass(frozen=True)
class Question:
    """To a worker."""

    id: int
    """Chosen by the supervisor, for the reply."""
    topic: str
    payload: bytes


@dataclass(frozen=True)
class Reply:
    """From a worker, to a question; `value` is empty if none came."""

    id: int
    worker: int
    value: bytes = b""
    error: str = ""


@dataclass(frozen=True)
class Answers:
    """To the worker who asked."""

    id: int
    replies: list[Reply] = field(default_factory=list)


Message = Begin | Ready | Failed | Beat | Reload | Drain | Ask | Question | Reply | Answers
