"""A server with all its processes: started, weighed, frozen and ended as one.

Linux only: everything is read from /proc (man 5 proc).
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
    """A process, told from later ones with the same number.

    Attributes:
        pid: its number.
        started: clock ticks after boot.
        parent: number of its parent.
        session: number of its session's leader.
    """

    pid: int
    started: int
    parent: int = field(compare=False)  # changes where the parent ends first
    session: int = field(compare=False)


class Tree:
    """A server: the process that was started, and all that came of it.

    Args:
        command: program and arguments.
        environment: on top of this process's.
        directory: where it runs, and where its output is written.
    """

    def __init__(
        self, command: Sequence[str | Path], environment: Mapping[str, str], directory: Path
    ) -> None:
        self._log = directory / "output.log"
        self._known: dict[int, Process] = {}
        with self._log.open("wb") as log:
            # A session of its own: a terminal's Ctrl-C is for us, who then end it properly.
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
        """Exit status of the process that was started; None while it runs."""
        return self._leader.poll()

    def output(self) -> str:
        """The end of what it printed."""
        return self._log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")

    def processes(self) -> list[Process]:
        """All that run now, those that daemonised themselves included."""
        running = {each.pid: each for each in _running()}
        known = {each.pid for each in self._known.values() if running.get(each.pid) == each}
        members = known | {self._leader.pid}
        while True:
            more = {
                each.pid
                for each in running.values()
                if each.parent in members or each.session in members
            }
            if more <= members:
                break
            members |= more
        self._known |= {pid: running[pid] for pid in members if pid in running}
        return [running[pid] for pid in sorted(members) if pid in running]

    def memory_bytes(self) -> int:
        """Proportional set size of all processes together: shared pages count once."""
        return sum(_pss_bytes(each.pid) for each in self.processes())

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stands still meanwhile, so that what else is measured has the cores to itself."""
        frozen = self.processes()
        _signal(frozen, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(frozen, signal.SIGCONT)

    def stop(self) -> None:
        """Asks the first process to end, then kills what is left.

        Raises:
            RuntimeError: something runs on regardless.
        """
        self.processes()  # so that those are known who lose their parent now
        self._leader.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._leader.wait(_STOP_S)
        until = time.monotonic() + _GONE_S
        while left := self.processes():
            _signal(left, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self._leader.wait(0.05)
            if time.monotonic() > until:
                raise RuntimeError(f"processes {[each.pid for each in left]} cannot be ended")
            time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on at this moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _running() -> Iterator[Process]:
    for path in _PROC.glob("[0-9]*/stat"):
        try:
            stat = path.read_text()
        except OSError:  # it has ended
            continue
        # The name in brackets may hold anything; what follows is numbers.
        fields = stat.rpartition(")")[2].split()
        if fields[0] not in "ZX":
            yield Process(
                int(path.parent.name),
                started=int(fields[19]),
                parent=int(fields[1]),
                session=int(fields[3]),
            )


def _pss_bytes(pid: int) -> int:
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _signal(processes: Sequence[Process], number: int) -> None:
    for each in processes:
        with suppress(ProcessLookupError):
            os.kill(each.pid, number)
