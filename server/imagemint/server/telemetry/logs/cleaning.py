"""Strings on their way into the log: without secrets, of bounded length, on one line."""

import re
from collections.abc import Callable

import structlog

LONGEST_TEXT = 2_000
LONGEST_TRACEBACK = 16_000

_SECRETS = (
    # An API key of ours, wherever it stands.
    (re.compile(r"imk_[\w-]{4,}"), "imk_…"),
    (re.compile(r"\b(bearer|basic)\s+[^\s'\",;]+", re.IGNORECASE), r"\1 …"),
    (
        re.compile(
            r"\b(authorization|x-api-key|cookie)\b(['\"]?\s*[:=]\s*b?['\"]?|['\"]\s*,\s*b?['\"])"
            r"(?!(?:bearer|basic)\b)[^\s'\",;]+",
            re.IGNORECASE,
        ),
        r"\1\2…",
    ),
)
# One search, which finds nothing in nearly every string, is cheaper than the substitutions.
_SUSPICIOUS = re.compile(r"imk_|bearer|basic|authorization|x-api-key|cookie", re.IGNORECASE)
# gRPC prints metadata that it cannot decode as bytes, without its name: it may be a credential.
_BYTES = re.compile(r"\bb'(?:[^'\\]|\\.)*'?|\bb\"(?:[^\"\\]|\\.)*\"?", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROL_OF_TRACEBACKS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def prints_callers_bytes(logger: str) -> bool:
    """Tells whether a logger is one of gRPC, or prints its errors: the event loop, and stderr."""
    return logger.partition(".")[0] in {"grpc", "asyncio", "stderr"}


def clean(text: str, longest: int = LONGEST_TEXT) -> str:
    """Returns a text without secrets, cut to `longest` characters."""
    if len(text) > longest:
        text = f"{text[:longest]}… ({len(text)} characters)"
    if _SUSPICIOUS.search(text):
        for pattern, replacement in _SECRETS:
            text = pattern.sub(replacement, text)
    return text


def clean_bytes(text: str) -> str:
    """Returns a text in which each literal of bytes is replaced by its length."""
    return _BYTES.sub(lambda found: f"b'…' ({len(found[0]) - 3} characters)", text)


def cleaner(*, escape: bool) -> structlog.typing.Processor:
    """Returns the processor that cleans every string of an event.

    Args:
        escape: whether to escape control characters, for renderers that do not: a line feed would
            begin a line that looks like one of ours, and an escape sequence talks to the terminal.
    """

    def process(
        _logger: object, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        foreign = prints_callers_bytes(str(event.get("logger", "")))
        for key, value in event.items():
            if not isinstance(value, str):
                continue
            is_traceback = key == "exception"
            text = clean_bytes(value) if foreign else value
            text = clean(text, LONGEST_TRACEBACK if is_traceback else LONGEST_TEXT)
            if escape:
                text = (_CONTROL_OF_TRACEBACKS if is_traceback else _CONTROL).sub(_escaped, text)
            event[key] = text
        return event

    return process


_escaped: Callable[[re.Match[str]], str] = lambda found: ascii(found[0])[1:-1]  # noqa: E731
