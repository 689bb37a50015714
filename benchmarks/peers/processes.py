"""Starts, measures, freezes and stops a server with all its processes.

This module needs Linux, because it reads /proc (man 5 proc).
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_STOP_S = 20.0
_GONE_S = 5.0
_TAIL_BYTES = 2000
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """A process. The start time distinguishes it from later ones with the same id.

    Attributes:
        pid: process id.
        started: start time in clock ticks after boot.
        parent: id of the parent.
        session: id of the session leader.
    """

    pid: int
    started: int
    parent: int = field(compare=False)  # changes if the parent ends first
    session: int = field(compare=False)


class Tree:
    """A server: the started process and all its descendants.

    Args:
        command: program and arguments.
        environment: variables in addition to those of this process.
        directory: working directory, which also receives the output.
    """

    def __init__(
        self, command: Sequence[str | Path], environment: Mapping[str, str], directory: Path
    ) -> None:
        self._log = directory / "output.log"
        self._known: dict[int, Process] = {}
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C reaches only this program, which then stops the server.
            self._leader = subprocess.Popen(  # noqa: S603 - commands are ours
                command,
                cwd=directory,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def ended(self) -> int | None:
        """Exit status of the started process; None while it runs."""
        return self._leader.poll()

    def read_output(self) -> str:
        """Returns the end of its output."""
        return self._log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")

    def list_processes(self) -> list[Process]:
        """Returns all running processes, including daemonised ones."""
        running = {each.pid: each for each in _list_running()}
        known = {each.pid for each in self._known.values() if running.get(each.pid) == each}
        members = known | {self._leader.pid}
        while True:
            children = {
                each.pid
                for each in running.values()
                if each.parent in members or each.session in members
            }
            if children <= members:
                break
            members |= children
        self._known |= {pid: running[pid] for pid in members if pid in running}
        return [running[pid] for pid in sorted(members) if pid in running]

    def measure_memory(self) -> int:
        """Returns the proportional set size of all processes: shared pages count once."""
        return sum(_read_pss(process.pid) for process in self.list_processes())

    @contextmanager
    def freeze(self) -> Iterator[None]:
        """Stops all processes inside the block, so that another measurement has the cores alone.

        Raises:
            RuntimeError: a process is still running.
        """
        frozen = self.list_processes()
        _send_signal(frozen, signal.SIGSTOP)
        try:
            _await_stopped(frozen)
            yield
        finally:
            _send_signal(frozen, signal.SIGCONT)

    def stop(self) -> None:
        """Terminates the first process, then kills the remaining ones.

        Raises:
            RuntimeError: a process is still running.
        """
        self.list_processes()  # remembers processes that lose their parent now
        self._leader.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._leader.wait(_STOP_S)
        deadline_s = time.monotonic() + _GONE_S
        while remaining := self.list_processes():
            _send_signal(remaining, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self._leader.wait(0.05)
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"processes {[each.pid for each in remaining]} cannot be ended")
            time.sleep(0.05)


def find_free_ports(count: int) -> list[int]:
    """Returns free ports of the loopback interface."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _list_running() -> Iterator[Process]:
    for path in _PROC.glob("[0-9]*/stat"):
        try:
            stat = path.read_text()
        except OSError:  # the process has ended
            continue
        # The name in brackets may contain anything; numbers follow it.
        fields = stat.rpartition(")")[2].split()
        if fields[0] not in "ZX":
            yield Process(
                int(path.parent.name),
                started=int(fields[19]),
                parent=int(fields[1]),
                session=int(fields[3]),
            )


def _read_pss(pid: int) -> int:
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _await_stopped(processes: Sequence[Process]) -> None:
    """Waits until processes are stopped or ended: the signal takes effect when they next run."""
    deadline_s = time.monotonic() + _GONE_S
    while running := [
        process.pid for process in processes if _read_state(process.pid) not in "TXZ"
    ]:
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"processes {running} cannot be stopped")
        time.sleep(0.001)


def _read_state(pid: int) -> str:
    """Returns the letter of the state in proc_pid_stat(5); X for a process that has ended."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def _send_signal(processes: Sequence[Process], number: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)
