"""Asks all workers of a server, from one of them; in a single process, only this one.

Code that must read or do something in every worker uses `Peers`, whatever their number:

    peers.on("statistics", answer)          # at startup, in every worker
    answers = await peers.ask("statistics")  # in the worker that received the call
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import structlog

_log = structlog.stdlib.get_logger(__name__)

Handler = Callable[[Any], Awaitable[Any]]


@dataclass(frozen=True)
class Answer:
    """The answer of one worker to a question."""

    worker: int
    value: Any = None
    """The value that its handler returned or refused with; None if the handler failed."""
    error: str = ""
    """Why there is no result: the handler refused or failed, or the worker died or timed out."""


class Refused(Exception):  # noqa: N818 - the name states the condition, as in the engine
    """Raised by a handler that refuses a question and changed nothing.

    Args:
        value: the value of the answer, which gives the reason.
    """

    def __init__(self, value: Any) -> None:  # noqa: ANN401 - each topic has its own type
        super().__init__()
        self.value = value


class Peers:
    """The workers of a server with a single process.

    Args:
        number: the number of this worker, from 0.
    """

    several = False
    """Whether there are other workers, in other processes."""
    replaces = False
    """Whether this worker replaces one that died, while others serve."""
    served_elsewhere: Mapping[str, Collection[int]] = MappingProxyType({})
    """The versions that other workers serve, by model; replaced on change."""
    shared_log: Path | None = None
    """The file of the log that workers share (see `SharedLog`); None for a single worker."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self._handlers: dict[str, Handler] = {}
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def on(self, topic: str, handler: Handler) -> None:
        """Registers the handler of a topic; it runs on the event loop.

        Every worker answers the questions of one topic one after another, in the same order.
        Questions of different topics run concurrently. The error of a handler becomes
        `Answer.error`.

        Args:
            topic: the name of the topic.
            handler: receives the payload and returns the value. Both must be JSON values; a
                tuple may arrive as a list.
        """
        self._handlers[topic] = handler

    async def ask(
        self,
        topic: str,
        payload: Any = None,  # noqa: ANN401 - each topic has its own type
        *,
        remember_as: str = "",
        timeout_s: float = 60.0,
    ) -> list[Answer]:
        """Asks every worker, this one included, and returns the answers by number.

        Args:
            topic: the name of the topic.
            payload: the argument of the handlers.
            remember_as: if given, workers that start later are asked too, before they accept their
                first call. Of several questions with the same value, only the last is repeated. If
                every worker refuses or fails, the previous question is restored.
            timeout_s: time to wait for the answers of other workers.
        """
        del remember_as, timeout_s  # there are no other workers
        return [await self.answer(topic, payload)]

    async def answer(self, topic: str, payload: Any) -> Answer:  # noqa: ANN401 - see ask
        """Returns the answer of this worker."""
        handler = self._handlers.get(topic)
        if handler is None:
            return Answer(self.number, error=f"nothing answers {topic!r}")
        async with self._turns[topic]:
            try:
                return Answer(self.number, await handler(payload))
            except Refused as refusal:
                return Answer(self.number, refusal.value, error="refused")
            except Exception as error:  # noqa: BLE001 - the worker that asks must receive the error
                _log.exception("request between processes failed", topic=topic)
                return Answer(self.number, error=str(error) or type(error).__name__)

    async def catch_up(self) -> None:
        """Answers the questions asked before this worker started; called before it listens."""
