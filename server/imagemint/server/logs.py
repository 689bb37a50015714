"""Structured logs on stderr, ours and the standard library's alike."""

import logging
import sys
from pathlib import Path

import structlog

from imagemint.server.settings import ServeSettings, shipped_models

_log = structlog.stdlib.get_logger(__name__)


def configure_logs(log_format: str, level: str, worker: int | None = None) -> None:
    """Sends every log line to stderr as JSON, or as text for people.

    Args:
        log_format: ``json`` or ``console``.
        level: ``debug``, ``info``, ``warning`` or ``error``.
        worker: number of this process, in every line; None where there is only one.
    """

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
    last: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if log_format == "json"
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                # The default prints local variables: whole requests, and whatever is secret.
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
    )
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
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for chatty in ("asyncio", "grpc"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def log_settings(settings: ServeSettings) -> None:
    """Logs the effective settings; those that are secrets print as asterisks."""
    values = settings.model_dump(mode="json")
    values["repository"] = str(settings.repository or shipped_models())
    _log.info("settings", **{k: str(v) if isinstance(v, Path) else v for k, v in values.items()})
