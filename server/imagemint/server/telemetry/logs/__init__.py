"""Structured logs on stderr, including those of the standard library and of native code."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from imagemint.server.settings import ServeSettings, find_open_addresses
from imagemint.server.telemetry.logs.cleaning import make_cleaner
from imagemint.server.telemetry.logs.rate_limits import CORE, GrpcFilter, LineLimit
from imagemint.server.telemetry.logs.stderr import STDERR, CapturedStderr
from imagemint.server.telemetry.logs.writer import LogWriter

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "close_logs",
    "configure_logs",
    "count_dropped_lines",
    "get_original_stderr",
    "log_settings",
]

_log = structlog.stdlib.get_logger(__name__)

_REPORT_S = 10.0


def configure_logs(log_format: str, level: str, worker: int | None = None) -> None:
    """Writes every log line to stderr, as JSON or as text for a console, until `close_logs`.

    Logging never waits for the reader of stderr; see `LogWriter`. File descriptor 2 is captured;
    see `CapturedStderr`. Warnings, and exceptions that end a thread, are logged too.

    Args:
        log_format: ``json`` or ``console``.
        level: ``debug``, ``info``, ``warning`` or ``error``.
        worker: number of this worker, added to every line; None for a single process.
    """
    close_logs()
    formatter, shared = _make_formatter(log_format, worker)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = _Handler()
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for name in ("asyncio", "grpc"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger(CORE).setLevel(level.upper())
    logging.captureWarnings(capture=True)
    threading.excepthook = _log_thread_exception
    sys.unraisablehook = _log_unraisable
    # Must run before the exit hook of `logging`, which holds the handler's lock while it closes it.
    atexit.register(close_logs)


def close_logs() -> None:
    """Writes the queued lines, restores stderr and ends the threads. It can be called twice."""
    for handler in [each for each in logging.getLogger().handlers if isinstance(each, _Handler)]:
        handler.close()
        logging.getLogger().removeHandler(handler)
        atexit.unregister(close_logs)
        logging.captureWarnings(capture=False)
        threading.excepthook = threading.__excepthook__
        sys.unraisablehook = sys.__unraisablehook__


def count_dropped_lines() -> Mapping[str, int]:
    """Returns the number of lines that this process dropped, by reason."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Handler):
            return handler.count_dropped()
    return {"queue_full": 0, "rate_limited": 0}


def get_original_stderr() -> int | None:
    """Returns the file descriptor of the original stderr; None if stderr is not captured."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Handler):
            return handler.stderr.original
    return None


def log_settings(settings: ServeSettings) -> None:
    """Logs the effective settings, with secrets as asterisks, and warns if anybody may call."""
    values = settings.model_dump(mode="json")
    # Not their path: the engine, which knows it, imports NumPy, and the supervisor does without.
    values["repository"] = str(settings.repository or "the shipped models")
    _log.info("settings", **{k: str(v) if isinstance(v, Path) else v for k, v in values.items()})
    if addresses := find_open_addresses(settings):
        _log.warning(
            "everybody who reaches these addresses can use the server; set api_keys or"
            " tls_client_ca",
            addresses=addresses,
        )


class _Handler(logging.Handler):
    """Formats records on the thread that logs, and queues the lines."""

    def __init__(self) -> None:
        super().__init__()
        self._limit = LineLimit()
        self.addFilter(GrpcFilter(self._limit))
        self.stderr = CapturedStderr(self._limit)
        self._writer = LogWriter(self.stderr.original, self._report_dropped)
        self._open = True
        self._looked_s = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.put(self._format_line(record))
            self._report_refused()
        except Exception:  # noqa: BLE001 - as in every handler of the standard library
            self.handleError(record)

    def close(self) -> None:
        """Writes the queued lines. If stderr is not read, later output to it is discarded."""
        if self._open:
            self._open = False
            self.stderr.close()
            self._report_refused(last=True)
            if not self._writer.close():
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, STDERR)
                os.close(null)
        super().close()

    def count_dropped(self) -> dict[str, int]:
        return {"queue_full": self._writer.dropped, "rate_limited": self._limit.refused}

    def _format_line(self, record: logging.LogRecord) -> bytes:
        return (self.format(record) + "\n").encode(errors="backslashreplace")

    def _report_dropped(self, lines: int) -> bytes:
        return self._format_line(
            _make_report("log lines dropped: stderr was not read in time", lines)
        )

    def _report_refused(self, *, last: bool = False) -> None:
        now = time.monotonic()
        if last or now - self._looked_s >= _REPORT_S:
            self._looked_s = now
            if lines := self._limit.take_refused():
                self._writer.put(
                    self._format_line(_make_report("log lines of gRPC left out", lines))
                )


def _make_report(event: str, lines: int) -> logging.LogRecord:
    record = logging.LogRecord(__name__, logging.WARNING, "", 0, event, None, None)
    record.lines = lines
    return record


def _make_formatter(
    log_format: str, worker: int | None
) -> tuple[structlog.stdlib.ProcessorFormatter, list[structlog.typing.Processor]]:
    """Returns the formatter of records, and the processors for our own events before it."""

    def name_worker(
        _logger: object, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        if worker is not None:
            event["worker"] = worker
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        name_worker,
    ]
    is_json = log_format == "json"
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if is_json
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr is not None and sys.stderr.isatty(),
            # The default prints local variables, which can hold requests and secrets.
            exception_formatter=structlog.dev.plain_traceback,
        )
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            make_cleaner(escape=not is_json),
            renderer,
        ],
    )
    return formatter, shared


def _log_thread_exception(arguments: threading.ExceptHookArgs) -> None:
    name = arguments.thread.name if arguments.thread else ""
    error = arguments.exc_value
    if not isinstance(error, SystemExit | None):
        _log.error("thread failed", thread=name, exc_info=error)


def _log_unraisable(arguments: sys.UnraisableHookArgs) -> None:
    _log.error(arguments.err_msg or "exception ignored", exc_info=arguments.exc_value)
