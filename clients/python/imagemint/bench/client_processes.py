"""Runs client processes. One Python process uses one core, and a server may need more load."""

import asyncio
import multiprocessing
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Self

from imagemint.bench.clock import Clock, Monotonic, choose_loop_factory
from imagemint.bench.generator import ClientResult, Generator
from imagemint.bench.load import Plan
from imagemint.bench.target import CallFailed, Target

# From the start message until the load begins: time for the message to reach every process.
_LEAD_NS = 50_000_000
_STOP_S = 10.0


class ClientLost(Exception):  # noqa: N818 - the name says it
    """A client process ended in the middle of a measurement."""


async def measure_plan(
    target: Target, plan: Plan, gate: Callable[[], Awaitable[int]], clock: Clock
) -> ClientResult:
    """Connects, waits at the gate, makes the calls of `plan`, and verifies some if asked to.

    Args:
        target: the server.
        plan: the load.
        gate: called when all connections are open; returns the start time, by `clock`.
        clock: clock for all times.

    Raises:
        CallFailed: the server cannot be reached, or refuses the request.
    """
    async with AsyncExitStack() as stack:
        connections = [
            await stack.enter_async_context(target.connect()) for _ in range(plan.connections)
        ]
        generator = Generator(plan, connections, clock)
        await generator.open_connections()
        share = await generator.run(await gate())
        return replace(share, verified=await generator.verify()) if plan.verify else share


class ClientProcesses:
    """Measures points, in this process or in several others.

    Args:
        target: the server.
        count: client processes.
    """

    def __init__(self, target: Target, count: int = 1) -> None:
        self._target = target
        self._count = count
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        if self._count > 1:
            # Spawned, because gRPC does not survive a fork.
            context = multiprocessing.get_context("spawn")
            for _ in range(self._count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, self._target), daemon=True)
                process.start()
                theirs.close()
                self._workers.append(_Worker(process, ours))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            worker.pipe.close()  # ends an idle worker
            if error is not None:
                worker.process.terminate()
        for worker in self._workers:
            worker.process.join(_STOP_S)
        self._workers.clear()

    def measure(self, plan: Plan) -> list[ClientResult]:
        """Returns the result of each client process for its part of `plan`.

        After an error the other processes still wait for the start: leave the context then.

        Raises:
            CallFailed: the server cannot be reached, or refuses the request.
            ClientLost: a client process died.
        """
        if not self._workers:
            return [_run(self._target, plan, _start_at_once)]
        workers = list(zip(self._workers, plan.split(len(self._workers)), strict=False))
        for worker, part in workers:
            worker.send(part)
        for worker, _ in workers:
            worker.receive()  # ready; raises if the process could not connect
        begin_ns = time.monotonic_ns() + _LEAD_NS
        for worker, _ in workers:
            worker.send(begin_ns)
        return [share for worker, _ in workers if (share := worker.receive())]


@dataclass(frozen=True, slots=True)
class _Worker:
    """A client process, as the main process sees it."""

    process: BaseProcess
    pipe: "Pipe[Plan | int, ClientResult | Exception | None]"

    def send(self, message: Plan | int) -> None:
        try:
            self.pipe.send(message)
        except OSError as error:
            raise self._make_error() from error

    def receive(self) -> ClientResult | None:
        """Returns the result of the process; None when the process is ready to start."""
        try:
            found = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise self._make_error() from error
        if isinstance(found, Exception):
            raise found
        return found

    def _make_error(self) -> ClientLost:
        self.process.join(_STOP_S)
        return ClientLost(f"a client process ended with status {self.process.exitcode}")


def _serve(pipe: "Pipe[ClientResult | Exception | None, Plan | int]", target: Target) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process
    _answer(pipe, target)


def _answer(pipe: "Pipe[ClientResult | Exception | None, Plan | int]", target: Target) -> None:
    """Runs a client process: measures every plan it receives, until the pipe is closed."""

    async def wait_for_start() -> int:
        pipe.send(None)
        begin_ns = pipe.recv()
        if not isinstance(begin_ns, int):
            raise TypeError(f"{begin_ns!r} is not a time")
        return begin_ns

    while True:
        try:
            plan = pipe.recv()
            if not isinstance(plan, Plan):
                raise TypeError(f"{plan!r} is not a plan")
            pipe.send(_run(target, plan, wait_for_start))
        except EOFError:
            return
        except CallFailed as error:
            pipe.send(error)


def _run(target: Target, plan: Plan, gate: Callable[[], Awaitable[int]]) -> ClientResult:
    with asyncio.Runner(loop_factory=choose_loop_factory(plan.load)) as runner:
        return runner.run(measure_plan(target, plan, gate, Monotonic()))


async def _start_at_once() -> int:
    return time.monotonic_ns()
