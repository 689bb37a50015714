"""Cleans strings for the log: removes secrets, limits the length, escapes control characters."""

import re

import structlog

LONGEST_TEXT = 2_000
LONGEST_TRACEBACK = 16_000

_SECRETS = (
    # Our API keys, anywhere in the text.
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
# Nearly no string contains these words, so one search is cheaper than all substitutions.
_SUSPICIOUS = re.compile(r"imk_|bearer|basic|authorization|x-api-key|cookie", re.IGNORECASE)
# gRPC prints metadata that it cannot decode as bytes, without the key: it may be a credential.
_BYTES = re.compile(r"\bb'(?:[^'\\]|\\.)*'?|\bb\"(?:[^\"\\]|\\.)*\"?", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROL_OF_TRACEBACKS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def prints_callers_bytes(logger: str) -> bool:
    """Returns whether a logger can print bytes of callers: gRPC's, asyncio's and stderr's can."""
    return logger.partition(".")[0] in {"grpc", "asyncio", "stderr"}


def clean(text: str, longest: int = LONGEST_TEXT) -> str:
    """Returns the text without secrets, cut to `longest` characters."""
    if len(text) > longest:
        text = f"{text[:longest]}… ({len(text)} characters)"
    if _SUSPICIOUS.search(text):
        for pattern, replacement in _SECRETS:
            text = pattern.sub(replacement, text)
    return text


def clean_bytes(text: str) -> str:
    """Returns the text with each bytes literal replaced by its length."""
    return _BYTES.sub(lambda found: f"b'…' ({len(found[0]) - 3} characters)", text)


def make_cleaner(*, escape: bool) -> structlog.typing.Processor:
    """Returns the processor that cleans every string of an event.

    Args:
        escape: whether to escape control characters; needed for renderers that do not. Otherwise a
            line feed could forge a log line, and an escape sequence could control the terminal.
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
                text = (_CONTROL_OF_TRACEBACKS if is_traceback else _CONTROL).sub(_escape, text)
            event[key] = text
        return event

    return process


def _escape(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]
