"""Keeps one worker running: starts it, handles its messages, and restarts it when it dies."""

import asyncio
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from imagemint.server.processes.channel import Channel
from imagemint.server.processes.messages import (
    Ask,
    Begin,
    Drain,
    Failed,
    Heartbeat,
    Message,
    Question,
    Ready,
    Reply,
    Served,
)
from imagemint.server.processes.restarts import START_ATTEMPTS, Restarts
from imagemint.server.processes.worker_metrics import Figures
from imagemint.server.settings import ServeSettings

_log = structlog.stdlib.get_logger(__name__)

SUSPECT_S = 3
"""Seconds without a heartbeat after which a worker does not count as ready."""
HANGS_S = 10
"""Seconds without a heartbeat after which a worker is killed and replaced."""
_PATIENCE_AT_START = 12


class StartFailed(RuntimeError):  # noqa: N818 - the name states the condition, as in the engine
    """A worker cannot serve, or died several times before it was ready."""


@dataclass(frozen=True)
class KeeperContext:
    """The data and callbacks that all keepers share."""

    command: Sequence[str]
    """The command of a worker; a file descriptor is appended to it."""
    settings: ServeSettings
    shared_log: int
    """File descriptor of the log in which the workers share what they found out about bundles."""
    stderr: int | None
    """File descriptor for the stderr of workers; None for the stderr of this process."""
    leaving: asyncio.Event
    """Set when no more workers must be started."""
    remembered: Callable[[], tuple[Question, ...]]
    """Returns the questions that a new worker must answer before it accepts calls."""
    list_elsewhere: Callable[["Keeper"], dict[str, list[int]]]
    """Returns the versions that all workers but this one serve, by model."""
    on_change: Callable[[], None]
    """Called when a worker becomes ready, stops responding or responds again, and when it serves
    other versions."""
    on_message: Callable[["Keeper", Ask | Reply], None]
    """Called with each question and reply of a worker."""
    on_figures: Callable[["Keeper", Figures], None]
    """Called with the latest metrics of a worker."""
    on_death: Callable[["Keeper"], None]
    """Called after a worker died."""


class Keeper:
    """Keeps one worker running, with a new process after each death.

    Args:
        number: the number of the worker, from 0.
        context: the data and callbacks that all keepers share.
        restarts: computes the delays between restarts.
    """

    def __init__(
        self, number: int, context: KeeperContext, restarts: Restarts | None = None
    ) -> None:
        self.number = number
        self.models: dict[str, list[int]] = {}
        """The versions that the worker serves, since it became ready."""
        self._started = False
        self._beats = False
        self._silent_s = 0
        self._verdict = ""
        self.patient = False
        """Whether to restart without limit; if not, a worker that cannot start is an error."""
        self.status = 0
        """Exit status of the last process; negative for a signal."""
        self._context = context
        self._restarts = restarts or Restarts()
        self._process: asyncio.subprocess.Process | None = None
        self._channel: Channel | None = None
        self._refusal = ""

    @property
    def ready(self) -> bool:
        """Whether the worker accepts calls, judged by its heartbeats."""
        return self._started and self._silent_s < SUSPECT_S

    @property
    def pid(self) -> int | None:
        """Process id of the worker; None if no process runs."""
        return self._process.pid if self._process else None

    async def keep(self) -> None:
        """Keeps the worker running until the server stops.

        Raises:
            StartFailed: the worker cannot serve, and the server has not started yet.
        """
        now, leaving = asyncio.get_running_loop().time, self._context.leaving
        while not leaving.is_set():
            began = now()
            await self._run_worker()
            self._context.on_death(self)
            if leaving.is_set():
                return
            lived_s = now() - began
            pause_s = self._restarts.pause_s(lived_s)
            cause = self._refusal or self._verdict or _describe(self.status)
            if not self.patient and (self._refusal or self._restarts.deaths >= START_ATTEMPTS):
                raise StartFailed(f"worker {self.number} cannot serve: {cause}")
            _log.error(
                "worker died",
                worker=self.number,
                cause=cause,
                lived_s=round(lived_s, 1),
                restart_in_s=round(pause_s, 2),
            )
            self.status = 0
            await _wait_for(leaving, pause_s)

    def send(self, message: Message) -> None:
        """Sends the worker a message, if a process runs."""
        if self._channel:
            self._channel.send(message)

    def tick(self) -> None:
        """Detects a worker that hangs, and kills it after `HANGS_S`; called every second.

        The method counts its calls instead of reading a clock. If this process was stopped for a
        while, the workers then still have their full time.
        """
        if self._process is None:
            return
        self._silent_s += 1
        limit_s = HANGS_S
        # During the start, imports and native code that loads a model hold the GIL.
        if not (self._started and self._beats):
            limit_s *= _PATIENCE_AT_START
        if self._silent_s == SUSPECT_S and self._started:
            self._context.on_change()  # before the line, whose reader may look at the metrics
            _log.warning("worker does not answer", worker=self.number, pid=self.pid)
        if self._silent_s >= limit_s:
            self._verdict = f"no heartbeat for {self._silent_s} s"
            self.kill()

    def _note_heartbeat(self) -> None:
        """Records that the worker responds."""
        was_ready, self._silent_s = self.ready, 0
        if self.ready and not was_ready:
            self._context.on_change()
            _log.info("worker answers again", worker=self.number, pid=self.pid)

    def kill(self) -> None:
        """Kills the worker, if a process runs."""
        if self._process and self._process.returncode is None:
            self._process.kill()

    async def _run_worker(self) -> None:
        """Starts a worker process and returns when it has ended."""
        self._refusal = self._verdict = ""
        self._silent_s, self._beats = 0, False
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:  # no file descriptors left
            self._refusal = f"cannot be started: {error}"
            return
        with ours, theirs:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self._context.command,
                    str(theirs.fileno()),
                    pass_fds=(theirs.fileno(), self._context.shared_log),
                    stdin=asyncio.subprocess.DEVNULL,
                    stderr=self._context.stderr,
                )
            except OSError as error:  # not enough memory, or too many processes
                self._refusal = f"cannot be started: {error}"
                return
            theirs.close()
            try:
                await self._converse(self._process, ours)
            finally:
                self.kill()
                self.status = await self._process.wait()
                self._process = None
                self._started = False

    async def _converse(self, process: asyncio.subprocess.Process, end: socket.socket) -> None:
        context = self._context
        self._channel = channel = await Channel.from_socket(end)
        try:
            remembered = context.remembered()
            begin = Begin(
                self.number,
                context.settings,
                context.shared_log,
                remembered,
                served_elsewhere=context.list_elsewhere(self),
                replaces=self.patient,
            )
            channel.send(begin)
            if context.leaving.is_set():
                channel.send(Drain())
            while (message := await channel.receive()) is not None:
                self._note_heartbeat()
                match message:
                    case Heartbeat(figures):
                        self._beats = True
                        if figures is not None:
                            context.on_figures(self, figures)
                    case Ready(models):
                        self.models, self._started = models, True
                        context.on_change()
                        _log.info("worker ready", worker=self.number, pid=process.pid)
                    case Served(models):
                        self.models = models
                        context.on_change()
                    case Failed(reason):
                        self._refusal = reason
                    case Ask() | Reply():
                        context.on_message(self, message)
            await process.wait()
        finally:
            self._channel = None
            await channel.close()


async def _wait_for(event: asyncio.Event, timeout_s: float) -> None:
    """Returns when the event is set or the time is over."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass


def _describe(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
