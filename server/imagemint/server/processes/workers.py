"""The workers of a server, as one of them sees them all; in a single process, it alone.

Whoever must know or do something in every worker asks here and need not know how many there are:

    peers.on("statistics", answer)          # at the start, in every worker
    answers = await peers.ask("statistics")  # in the worker that was called
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

_log = structlog.stdlib.get_logger(__name__)

Handler = Callable[[Any], Awaitable[Any]]


@dataclass(frozen=True)
class Answer:
    """What one worker says to a question."""

    worker: int
    value: Any = None
    """What its handler returned, or refused with; None if it failed."""
    error: str = ""
    """What went wrong: the handler refused or failed, or the worker died or took too long."""


class Refused(Exception):  # noqa: N818 - it names what happened, as in the engine
    """Raised by a handler that changed nothing, and has a value to say why.

    Args:
        value: of the answer.
    """

    def __init__(self, value: Any) -> None:  # noqa: ANN401 - whatever the asker makes of it
        super().__init__()
        self.value = value


class Peers:
    """All workers of a server that has one.

    Args:
        number: of this worker, from 0.
    """

    several = False
    """Whether there are others, in other processes."""
    served_bytes: Path | None = None
    """The file in which they share what was served (see `ServedBytes`); None without others."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self._handlers: dict[str, Handler] = {}
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def on(self, topic: str, handler: Handler) -> None:
        """Lets `handler` answer the questions of a topic, on the event loop.

        Questions of one topic are answered one after another, in the same order in every worker;
        those of different topics side by side. A handler that fails becomes an `Answer.error`.

        Args:
            topic: what is asked.
            handler: gets the payload and returns the value. Both cross processes by pickle.
        """
        self._handlers[topic] = handler

    async def ask(
        self,
        topic: str,
        payload: Any = None,  # noqa: ANN401 - whatever the handlers of the topic take
        *,
        remember_as: str = "",
        timeout_s: float = 60.0,
    ) -> list[Answer]:
        """Asks every worker, this one included, and returns the answers by number.

        Args:
            topic: what is asked.
            payload: passed to the handlers.
            remember_as: if given, workers that start later are asked too, before they take their
                first call; of several questions under one name only the last. Forgotten again, for
                what was remembered before, if every worker refused or failed.
            timeout_s: how long to wait for the answers of others.
        """
        del remember_as, timeout_s  # there is nobody to come, and nobody to wait for
        return [await self.answer(topic, payload)]

    async def answer(self, topic: str, payload: Any) -> Answer:  # noqa: ANN401 - see ask
        """Returns what this worker says."""
        handler = self._handlers.get(topic)
        if handler is None:
            return Answer(self.number, error=f"nothing answers {topic!r}")
        async with self._turns[topic]:
            try:
                return Answer(self.number, await handler(payload))
            except Refused as refusal:
                return Answer(self.number, refusal.value, error="refused")
            except Exception as error:  # noqa: BLE001 - whatever it is, the asker must hear
                _log.exception("question failed", topic=topic)
                return Answer(self.number, error=str(error) or type(error).__name__)

    async def catch_up(self) -> None:
        """Answers what was remembered for this worker; called before it listens."""
