"""Keeps one worker: starts it, listens to it, and starts it again when it dies."""

import asyncio
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from imagemint.server.processes.channel import Channel
from imagemint.server.processes.messages import (
    Ask,
    Beat,
    Begin,
    Drain,
    Failed,
    Message,
    Question,
    Ready,
    Reply,
)
from imagemint.server.processes.restarts import START_ATTEMPTS, Restarts
from imagemint.server.processes.worker_metrics import Figures
from imagemint.server.settings import ServeSettings

_log = structlog.stdlib.get_logger(__name__)

SUSPECT_S = 3
"""A worker that is silent for so long does not count as ready."""
_PATIENCE_AT_START = 12


class StartFailed(RuntimeError):  # noqa: N818 - it names what happened, as in the engine
    """A worker cannot serve, or died again and again before it did."""


@dataclass(frozen=True)
class Circumstances:
    """What a keeper shares with the others, and whom it tells."""

    command: Sequence[str]
    """Of a worker; a file descriptor is appended."""
    settings: ServeSettings
    served_bytes: int
    """File descriptor of the file in which the workers share what was served."""
    stderr: int | None
    """Descriptor that becomes the stderr of a worker; None for that of this process."""
    leaving: asyncio.Event
    """Set once no worker is to be started any more."""
    remembered: Callable[[], tuple[Question, ...]]
    """What a new worker must answer before it takes calls."""
    changed: Callable[[], None]
    """Called when a worker became ready, or stopped answering, or answers again."""
    heard: Callable[["Keeper", Ask | Reply], None]
    """Called with what a worker says of questions."""
    counted: Callable[["Keeper", Figures], None]
    """Called with the latest figures of a worker."""
    died: Callable[["Keeper"], None]
    """Called after a worker's death."""


class Keeper:
    """The place of one worker, whichever process fills it.

    Args:
        number: of the worker, from 0.
        circumstances: what is the same for all.
        restarts: when to start again.
    """

    def __init__(
        self, number: int, circumstances: Circumstances, restarts: Restarts | None = None
    ) -> None:
        self.number = number
        self.models: dict[str, list[int]] = {}
        """The versions that the worker served when it became ready."""
        self._started = False
        self._beats = False
        self._silent_s = 0
        self._verdict = ""
        self.patient = False
        """Whether to go on for ever; otherwise a worker that does not come up ends the start."""
        self.status = 0
        """Exit status of the worker that left; negative for a signal."""
        self._circumstances = circumstances
        self._restarts = restarts or Restarts()
        self._process: asyncio.subprocess.Process | None = None
        self._channel: Channel | None = None
        self._refusal = ""

    @property
    def ready(self) -> bool:
        """Whether the worker takes calls, as far as its signs of life tell."""
        return self._started and self._silent_s < SUSPECT_S

    @property
    def pid(self) -> int | None:
        """Process id of the worker, while there is one."""
        return self._process.pid if self._process else None

    async def keep(self) -> None:
        """Keeps the worker until all leave.

        Raises:
            StartFailed: it cannot serve, and the server is not up yet.
        """
        now, leaving = asyncio.get_running_loop().time, self._circumstances.leaving
        while not leaving.is_set():
            began = now()
            await self._live()
            self._circumstances.died(self)
            if leaving.is_set():
                return
            lived_s = now() - began
            pause_s = self._restarts.pause_s(lived_s)
            cause = self._refusal or self._verdict or _described(self.status)
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
            await _either(leaving, pause_s)

    def send(self, message: Message) -> None:
        """Tells the worker something, if there is one."""
        if self._channel:
            self._channel.send(message)

    def tick(self) -> None:
        """Notices a worker that hangs, and kills it in the end; called every second.

        The seconds are counted here and not read from a clock: after this process itself was
        stopped, the workers get their time again.
        """
        if self._process is None:
            return
        self._silent_s += 1
        limit_s = self._circumstances.settings.worker_timeout_s
        # While it starts it imports, and native code that loads a model holds the interpreter.
        if not (self._started and self._beats):
            limit_s *= _PATIENCE_AT_START
        if self._silent_s == SUSPECT_S and self._started:
            _log.warning("worker does not answer", worker=self.number, pid=self.pid)
            self._circumstances.changed()
        if self._silent_s >= max(limit_s, SUSPECT_S):
            self._verdict = f"no sign of life for {self._silent_s} s"
            self.kill()

    def _hear(self) -> None:
        """Takes a sign of life."""
        was_ready, self._silent_s = self.ready, 0
        if self.ready and not was_ready:
            _log.info("worker answers again", worker=self.number, pid=self.pid)
            self._circumstances.changed()

    def kill(self) -> None:
        """Ends the worker at once, if there is one."""
        if self._process and self._process.returncode is None:
            self._process.kill()

    async def _live(self) -> None:
        """Starts a worker and stays with it until it is gone."""
        self._refusal = self._verdict = ""
        self._silent_s, self._beats = 0, False
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:  # no descriptors
            self._refusal = f"cannot be started: {error}"
            return
        with ours, theirs:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self._circumstances.command,
                    str(theirs.fileno()),
                    pass_fds=(theirs.fileno(), self._circumstances.served_bytes),
                    stdin=asyncio.subprocess.DEVNULL,
                    stderr=self._circumstances.stderr,
                )
            except OSError as error:  # no memory, too many processes
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
        circumstances = self._circumstances
        self._channel = channel = await Channel.over(end)
        try:
            remembered = circumstances.remembered()
            channel.send(
                Begin(self.number, circumstances.settings, circumstances.served_bytes, remembered)
            )
            if circumstances.leaving.is_set():
                channel.send(Drain())
            while (message := await channel.receive()) is not None:
                self._hear()
                match message:
                    case Beat(figures):
                        self._beats = True
                        if figures is not None:
                            circumstances.counted(self, figures)
                    case Ready(models):
                        self.models, self._started = models, True
                        _log.info("worker ready", worker=self.number, pid=process.pid)
                        circumstances.changed()
                    case Failed(reason):
                        self._refusal = reason
                    case Ask() | Reply():
                        circumstances.heard(self, message)
            await process.wait()
        finally:
            self._channel = None
            await channel.close()


async def _either(event: asyncio.Event, timeout_s: float) -> None:
    """Returns when the event is set or the time is up."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass


def _described(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
