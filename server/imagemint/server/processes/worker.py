"""A worker process, which answers calls: `python -m imagemint.server.processes.worker FD`.

The supervisor starts it, with one end of a socket pair as file descriptor FD.
"""

import asyncio
import contextlib
import itertools
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from prometheus_client.registry import Collector

from imagemint.server.event_loop import exit_now, run, settle
from imagemint.server.peers import Answer, Peers
from imagemint.server.processes.channel import Channel
from imagemint.server.processes.messages import (
    Answers,
    Ask,
    Begin,
    Drain,
    Failed,
    Heartbeat,
    Question,
    Ready,
    Reload,
    Reply,
    Served,
    ServedElsewhere,
)
from imagemint.server.processes.worker_metrics import Figures, collect_figures, dump_figures
from imagemint.server.telemetry.logs import close_logs, configure_logs

if TYPE_CHECKING:  # see _serve
    from imagemint.server.app import App

_log = structlog.stdlib.get_logger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_BEAT_S = 1.0
# A killed worker loses the metrics that it counted since the last report.
_FIGURES_S = 5.0


class WorkerPeers(Peers):
    """All workers of the supervisor, reached over a channel.

    Args:
        begin: the first message to this worker.
        channel: the channel to the supervisor.
    """

    several = True

    def __init__(self, begin: Begin, channel: Channel) -> None:
        super().__init__(begin.number)
        self.replaces = begin.replaces
        self.served_elsewhere = begin.served_elsewhere
        self.shared_log = Path(f"/proc/self/fd/{begin.shared_log}")
        self.drain = asyncio.Event()
        """Set when this worker must drain and exit."""
        self.orphaned = False
        """Whether the supervisor is gone."""
        self.reload: Callable[[], None] = lambda: None
        """Called when the supervisor asks this worker to scan for changes."""
        self._channel = channel
        self._remembered = begin.remembered
        self._caught_up = asyncio.Event()
        self._ids = itertools.count()
        self._pending: dict[int, asyncio.Future[list[Reply]]] = {}
        self._replying: set[asyncio.Task[None]] = set()

    async def ask(
        self,
        topic: str,
        payload: Any = None,  # noqa: ANN401 - see Peers
        *,
        remember_as: str = "",
        timeout_s: float = 60.0,
    ) -> list[Answer]:
        """Asks every worker through the supervisor; without a supervisor, this worker alone."""
        if self.orphaned:
            return await super().ask(topic, payload)
        request = Ask(next(self._ids), topic, payload, remember_as, timeout_s)
        future = self._pending[request.id] = asyncio.get_running_loop().create_future()
        self._channel.send(request)
        try:
            return [Answer(reply.worker, reply.value, reply.error) for reply in await future]
        finally:
            del self._pending[request.id]

    async def catch_up(self) -> None:
        """Answers the questions that were asked before this worker started, then new ones."""
        for question in self._remembered:
            await self.answer(question.topic, question.payload)
        self._caught_up.set()

    async def listen(self) -> None:
        """Handles the messages of the supervisor; returns when the supervisor is gone."""
        while (message := await self._channel.receive()) is not None:
            match message:
                case Drain():
                    self.drain.set()
                case Reload():
                    self.reload()
                case ServedElsewhere(models):
                    self.served_elsewhere = models
                case Question():
                    replying = asyncio.create_task(self._reply(message))
                    self._replying.add(replying)
                    replying.add_done_callback(self._replying.discard)
                case Answers(number, replies):
                    self._hand_over(number, replies)
                case _:
                    pass
        self.orphaned = True
        self.drain.set()
        for number in self._pending:
            self._hand_over(number, [Reply(0, self.number, error="the supervisor is gone")])

    def _hand_over(self, number: int, replies: list[Reply]) -> None:
        """Passes the replies to the waiting `ask`, unless it was cancelled."""
        future = self._pending.get(number)
        if future is not None and not future.done():
            future.set_result(replies)

    async def _reply(self, question: Question) -> None:
        await self._caught_up.wait()
        answer = await self.answer(question.topic, question.payload)
        self._channel.send(Reply(question.id, self.number, answer.value, answer.error))


async def work(end: socket.socket) -> int:
    """Serves until it must drain or the supervisor is gone; returns the exit status.

    SIGTERM and SIGINT mean the same as the message `Drain`, and can come several times: a signal
    to the whole process group arrives together with the message. Only SIGKILL ends a worker at
    once.

    Args:
        end: one end of a socket pair; the supervisor has the other end.
    """
    channel = await Channel.from_socket(end)
    begin = await channel.receive()
    if not isinstance(begin, Begin):
        return 1
    configure_logs(begin.settings.log_format, begin.settings.log_level, worker=begin.number)
    peers = WorkerPeers(begin, channel)
    for number in _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, peers.drain.set)
    listening = asyncio.create_task(peers.listen())
    try:
        return await _serve(begin, peers, channel)
    finally:
        listening.cancel()  # before the channel closes, or it would report a lost supervisor
        await channel.close()


async def _serve(begin: Begin, peers: WorkerPeers, channel: Channel) -> int:
    # The import takes a second or more. It runs on a thread, so that the worker handles messages of
    # the supervisor meanwhile.
    importing = asyncio.create_task(asyncio.to_thread(import_module, "imagemint.server.app"))
    leaving = asyncio.create_task(peers.drain.wait())
    await asyncio.wait({importing, leaving}, return_when=asyncio.FIRST_COMPLETED)
    if leaving.done():
        await channel.close()
        exit_now(0)
    leaving.cancel()
    try:
        await importing
        from imagemint.server.app import App  # noqa: PLC0415 - imported on a thread above

        app = App(begin.settings, peers)
        measure = _make_measurer(app.metrics.registry)

        async def tell(_: object) -> str:
            return dump_figures(await measure())

        peers.on("measure", tell)
        peers.reload = app.reload
        telling = [_send_heartbeats(channel), _report(channel, measure)]
        tasks = [asyncio.create_task(each) for each in telling]

        def report_ready() -> None:
            settle()
            served = app.served
            channel.send(Ready(served))
            tasks.append(asyncio.create_task(_report_changes(channel, app, served)))

        await app.serve_until(peers.drain, report_ready)
    except Exception as error:  # noqa: BLE001 - the supervisor logs it and may restart the worker
        reason = str(error) or type(error).__name__
        if not _is_expected(error):  # the supervisor logs expected errors once for all workers
            _log.exception("worker cannot serve")
        channel.send(Failed(reason))
        return 1
    if peers.orphaned:
        _log.warning("supervisor has ended")
    for task in tasks:
        task.cancel()
    channel.send(Heartbeat(collect_figures(app.metrics.registry)))
    if app.leaves_work:
        await channel.close()
        exit_now(0)
    return 0


def _make_measurer(registry: Collector) -> Callable[[], Awaitable[Figures]]:
    """Returns a function that reads the metrics on a dedicated thread, off the event loop."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="figures")

    async def measure() -> Figures:
        return await asyncio.get_running_loop().run_in_executor(thread, collect_figures, registry)

    return measure


async def _send_heartbeats(channel: Channel) -> None:
    """Sends the supervisor a heartbeat every second; it must not wait for anything else."""
    while True:
        channel.send(Heartbeat())
        await asyncio.sleep(_BEAT_S)


async def _report(channel: Channel, measure: Callable[[], Awaitable[Figures]]) -> None:
    """Sends the supervisor the metrics every few seconds, if it reads them."""
    while True:
        await asyncio.sleep(_FIGURES_S)
        if not channel.is_behind:
            channel.send(Heartbeat(await measure()))


async def _report_changes(channel: Channel, app: "App", reported: dict[str, list[int]]) -> None:
    """Sends the supervisor the served versions whenever they differ from those reported."""
    loop, changed = asyncio.get_running_loop(), asyncio.Event()

    def note() -> None:  # on any thread
        with contextlib.suppress(RuntimeError):  # a closed loop needs no report
            loop.call_soon_threadsafe(changed.set)

    app.repository.watch(note)
    while True:
        served = app.served
        if served != reported:
            channel.send(Served(served))
            reported = served
        await changed.wait()
        changed.clear()


def _is_expected(error: Exception) -> bool:
    """Returns whether an error comes from imagemint or the operating system, so is not a bug."""
    ours = any(each.__module__.partition(".")[0] == "imagemint" for each in type(error).__mro__)
    return ours or isinstance(error, OSError)


def main() -> int:
    """Runs the worker on the file descriptor of the command line; returns the exit status."""
    # Until the event loop handles signals, the worker ignores them. The supervisor, which receives
    # them too, sends `Drain`.
    for number in (*_SIGNALS, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.closing(socket.socket(fileno=int(sys.argv[1]))) as end:
        try:
            return run(work(end))
        finally:
            close_logs()


if __name__ == "__main__":
    sys.exit(main())
