"""Captures the output of native code on stderr: gRPC's core and ONNX Runtime use no Python logger.

Native code writes to file descriptor 2, which is replaced by a pipe. The lines of the pipe become
log records with a level and a logger name; they are escaped, cleaned of secrets and limited like
all others. Text that a caller sends, such as a GOAWAY message, therefore cannot forge a log line.
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
# Pause after a read that filled the buffer, because then a writer floods the pipe.
_FLOOD_PAUSE_S = 0.05

# The format of absl: I1128 08:39:52.206038   12376 chttp2_transport.cc:1403] text
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
    """Reads what this process writes to file descriptor 2, until `close`.

    The write end does not block: output that does not fit into the pipe is lost. `faulthandler`
    reports a crash on the original stderr. The last output of native code before an abort may stay
    unread in the pipe.

    Args:
        limit: limits the number of logged lines.
    """

    def __init__(self, limit: LineLimit) -> None:
        self._limit = limit
        self.original = _duplicate(STDERR)
        """The original stderr, as a file descriptor that child processes do not inherit."""
        self._reading, writing = os.pipe()
        with contextlib.suppress(OSError):  # above the limit of the system for this user
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        os.set_blocking(writing, False)
        os.dup2(writing, STDERR)
        os.close(writing)
        self._crashes = _open_nonblocking(self.original)
        faulthandler.enable(self._crashes)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._read, name="stderr", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Restores the original stderr, and logs what was written before."""
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
                self._closing.wait(_FLOOD_PAUSE_S)  # leaves the GIL to the calls
        self._log([rest])
        os.close(self._reading)

    def _log(self, lines: list[bytes]) -> None:
        for name, level, text in _parse_records(lines):
            logger = logging.getLogger(name)
            if logger.isEnabledFor(level) and self._limit.admits(text):
                with contextlib.suppress(Exception):  # the pipe must be read whatever fails
                    logger.log(level, "%s", text)


def _parse_records(lines: list[bytes]) -> list[tuple[str, int, str]]:
    """Returns logger, level and text of each message; a line without prefix continues a message."""
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
    except OSError:  # the process was started without stderr
        null = os.open(os.devnull, os.O_WRONLY)
        if null != descriptor:
            return null
        return os.dup(null)


def _open_nonblocking(descriptor: int) -> int:
    """Returns a non-blocking file descriptor of the same file, or `descriptor` if that fails.

    A crash must end the process even if its report is not read.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(f"/proc/self/fd/{descriptor}", flags)
    except OSError:  # a socket, or no /proc
        return descriptor
