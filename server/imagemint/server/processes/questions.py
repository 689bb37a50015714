"""Questions to every worker, from one of them or from the supervisor."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

from imagemint.server.processes.messages import Answers, Ask, Question, Reply
from imagemint.server.processes.worker_keeper import Keeper


class Questions:
    """Forwards questions and collects the replies, on the event loop of the supervisor."""

    def __init__(self) -> None:
        self._remembered: dict[str, Question] = {}
        self._open: dict[int, _Open] = {}
        self._ids = itertools.count()
        self._passing: set[asyncio.Task[None]] = set()

    @property
    def remembered(self) -> tuple[Question, ...]:
        """The questions that a new worker must answer first, in the order of asking."""
        return tuple(self._remembered.values())

    async def ask(
        self,
        keepers: Sequence[Keeper],
        topic: str,
        payload: Any,  # noqa: ANN401 - each topic has its own type
        *,
        timeout_s: float,
        remember_as: str = "",
    ) -> list[Reply]:
        """Asks the ready workers, and returns their replies in order of their numbers.

        A question with `remember_as` also goes to workers that are still starting, without waiting
        for them. `imagemint.server.peers.Peers.ask` is the worker's side of this.
        """
        question = Question(next(self._ids), topic, payload)
        previous: Question | None = None
        if remember_as:
            previous = self._remembered.pop(
                remember_as, None
            )  # keeps the order of the last questions
            self._remembered[remember_as] = question
        self._open[question.id] = pending = _Open({k.number for k in keepers if k.ready})
        for keeper in keepers:
            if keeper.ready or remember_as:
                keeper.send(question)
        try:
            replies = await pending.wait_for_replies(timeout_s)
        finally:
            del self._open[question.id]
        in_vain = bool(replies) and all(reply.error for reply in replies)
        if in_vain and self._remembered.get(remember_as) is question:
            del self._remembered[remember_as]
            if previous is not None:
                self._remembered[remember_as] = previous
        return replies

    def pass_on(self, keepers: Sequence[Keeper], sender: Keeper, request: Ask) -> None:
        """Asks on behalf of a worker, and sends it the answers."""

        async def forward() -> None:
            replies = await self.ask(
                *(keepers, request.topic, request.payload),
                timeout_s=request.timeout_s,
                remember_as=request.remember_as,
            )
            sender.send(Answers(request.id, replies))

        task = asyncio.create_task(forward())
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)

    def record_reply(self, reply: Reply) -> None:
        """Records a reply; ignores one that comes too late."""
        if reply.id in self._open:
            self._open[reply.id].add(reply)

    def record_death(self, number: int) -> None:
        """Records that a worker died, so that no question waits for it."""
        for identity, pending in self._open.items():
            pending.add(Reply(identity, number, error=f"worker {number} died"))


class _Open:
    """A question that waits for replies.

    Args:
        missing: the numbers of the workers that must reply.
    """

    def __init__(self, missing: set[int]) -> None:
        self._missing = missing
        self._replies: list[Reply] = []
        self._complete = asyncio.Event()
        self._look()

    def add(self, reply: Reply) -> None:
        """Records the first reply of each worker that was asked."""
        if reply.worker in self._missing:
            self._missing.discard(reply.worker)
            self._replies.append(reply)
            self._look()

    def _look(self) -> None:
        if not self._missing:
            self._complete.set()

    async def wait_for_replies(self, timeout_s: float) -> list[Reply]:
        """Returns all replies; an error for each worker that does not reply in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._complete.wait()
        except TimeoutError:
            for number in sorted(self._missing):
                self.add(Reply(0, number, error=f"worker {number} did not answer in time"))
        return sorted(self._replies, key=lambda reply: reply.worker)
