"""Keeps one worker: starts it, listens to it, and starts it again when it dies."""

import asyncio
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from imagemint.server.processes.channel import Channel
from imagemint.server.processes.messages import (
    Ask,
    Begin,
    Drain,
    Failed,
    Message,
    Question,
    Ready,
    Reply,
)
from imagemint.server.processes.restarts import START_ATTEMPTS, Restarts
from imagemint.server.settings import ServeSettings

_log = structlog.stdlib.get_logger(__name__)


class StartFailed(RuntimeError):  # noqa: N818 - it names what happened, as in the engine
    """A worker cannot serve, or died again and again before it did."""


@dataclass(frozen=True)
class Circumstances:
    """What a keeper shares with the others, and whom it tells."""

    command: Sequence[str]
    """Of a worker; a file descriptor is appended."""
    environment: Mapping[str, str]
    settings: ServeSettings
    stderr: int | None
    """Descriptor that becomes the stderr of a worker; None for that of this process."""
    leaving: asyncio.Event
    """Set once no worker is to be started any more."""
    remembered: Callable[[], tuple[Question, ...]]
    """What a new worker must answer before it takes calls."""
    changed: Callable[[], None]
    """Called when a worker became ready."""
    heard: Callable[["Keeper", Ask | Reply], None]
    """Called with what a worker says of questions."""
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
        self.ready = False
        """Whether the worker takes calls."""
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
            cause = self._refusal or _described(self.status)
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

    def kill(self) -> None:
        """Ends the worker at once, if there is one."""
        if self._process and self._process.returncode is None:
            self._process.kill()

    async def _live(self) -> None:
        """Starts a worker and stays with it until it is gone."""
        self._refusal = ""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self._circumstances.command,
                    str(theirs.fileno()),
                    pass_fds=(theirs.fileno(),),
                    env=self._circumstances.environment,
                    stdin=asyncio.subprocess.DEVNULL,
                    stderr=self._circumstances.stderr,
                )
            except OSError as error:  # no memory, too many processes
                self._refusal = str(error)
                return
            theirs.close()
            try:
                await self._converse(self._process, ours)
            finally:
                self.kill()
                self.status = await self._process.wait()
                self._process = None
                self.ready = False

    async def _converse(self, process: asyncio.subprocess.Process, end: socket.socket) -> None:
        circumstances = self._circumstances
        self._channel = channel = await Channel.over(end)
        try:
            channel.send(Begin(self.number, circumstances.settings, circumstances.remembered()))
            if circumstances.leaving.is_set():
                channel.send(Drain())
            while (message := await channel.receive()) is not None:
                match message:
                    case Ready(models):
                        self.models, self.ready = models, True
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
