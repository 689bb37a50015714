"""What native code writes to stderr: gRPC's core and ONNX Runtime know no logger of Python's.

They write to file descriptor 2. Here that is a pipe, whose lines become records of the log like any
other: with a level and the name of a logger, escaped, without secrets and limited. What a caller
sends, such as the text of a GOAWAY, cannot look like a line of ours any more.
"""

import contextlib
import faulthandler
import fcntl
import logging
import os
import re
import threading

from imagemint.server.telemetry.logs.rate_limits import CORE, STDERR_LOGGER, LineLimit

STDERR = 2
_PIPE_BYTES = 2**20
_READ_BYTES = 2**16
_LONGEST_LINE = 8_192
_JOIN_S = 1.0
# After a read that came back full: somebody floods the pipe.
_FLOOD_PAUSE_S = 0.05

# As absl has it: I1128 08:39:52.206038   12376 chttp2_transport.cc:1403] text
_GRPC = re.compile(r"([IWEF])\d{4} [\d:.]+ +\d+ (\S+:\d+)\] ?(.*)", re.DOTALL)
# 2026-11-28 08:39:52.206038 [W:onnxruntime:Default, file.cc:12 Name] text
_ONNXRUNTIME = re.compile(
    r"(?:\x1b\[[\d;]*m)?[\d-]+ [\d:.]+ \[([VIWEF]):onnxruntime:(.*)", re.DOTALL
)
_LEVELS = {
    "V": logging.DEBUG,
    "I": logging.INFO,
    "W": logging.WARNING,
    "E": logging.ERROR,
    "F": logging.CRITICAL,
}


class CapturedStderr:
    """Reads what this process writes to file descriptor 2, from now until `close`.

    The write end does not block: who writes faster than the reader reads loses what does not fit. A
    crash is told on the real stderr by `faulthandler`; what native code says in its last moment
    before it aborts may be lost in the pipe.

    Args:
        limit: decides which lines are logged.
    """

    def __init__(self, limit: LineLimit) -> None:
        self._limit = limit
        self.original = _duplicate(STDERR)
        """The real stderr, as a descriptor that child processes do not inherit."""
        self._reading, writing = os.pipe()
        with contextlib.suppress(OSError):  # more than the system allows this user
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        os.set_blocking(writing, False)
        os.dup2(writing, STDERR)
        os.close(writing)
        self._crashes = _without_waiting(self.original)
        faulthandler.enable(self._crashes)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._read, name="stderr", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Gives the real stderr back to everybody; what was written before is logged."""
        faulthandler.disable()
        self._closing.set()
        os.dup2(self.original, STDERR)  # closes the write end, which ends the thread
        if threading.current_thread() is not self._thread:
            self._thread.join(_JOIN_S)
        if self._crashes != self.original:
            os.close(self._crashes)

    def _read(self) -> None:
        rest = b""
        while chunk := os.read(self._reading, _READ_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _LONGEST_LINE:
                lines.append(rest)
                rest = b""
            self._log(lines)
            if len(chunk) == _READ_BYTES:
                self._closing.wait(_FLOOD_PAUSE_S)  # leaves the interpreter to the calls
        self._log([rest])
        os.close(self._reading)

    def _log(self, lines: list[bytes]) -> None:
        for name, level, text in _records(lines):
            logger = logging.getLogger(name)
            if logger.isEnabledFor(level) and self._limit.admits(text):
                with contextlib.suppress(Exception):  # whatever it is, the pipe must be read
                    logger.log(level, "%s", text)


def _records(lines: list[bytes]) -> list[tuple[str, int, str]]:
    """Returns logger, level and text of each message; lines without a prefix continue one."""
    found: list[tuple[str, int, str]] = []
    in_message = False
    for line in lines:
        text = line[:_LONGEST_LINE].decode(errors="backslashreplace").rstrip("\r")
        if match := _GRPC.match(text):
            level, where, what = match.groups()
            found.append((CORE, _LEVELS[level], f"{what} [{where}]"))
            in_message = True
        elif match := _ONNXRUNTIME.match(text):
            found.append(("onnxruntime", _LEVELS[match[1]], match[2].removesuffix("\x1b[m")))
            in_message = True
        elif in_message:
            name, number, before = found[-1]
            found[-1] = (name, number, f"{before}\n{text}"[:_LONGEST_LINE])
        elif text.strip():
            found.append((STDERR_LOGGER, logging.WARNING, text))
    return found


def _duplicate(descriptor: int) -> int:
    try:
        return os.dup(descriptor)
    except OSError:  # closed: the process was started without one
        null = os.open(os.devnull, os.O_WRONLY)
        if null != descriptor:
            return null
        return os.dup(null)


def _without_waiting(descriptor: int) -> int:
    """Returns another descriptor of the same file that does not block, or the same if none can be.

    A crash must end the process even if nobody reads what is written about it.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(f"/proc/self/fd/{descriptor}", flags)
    except OSError:  # a socket, or no /proc
        return descriptor
