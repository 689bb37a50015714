"""The page of all errors, from the table of status codes of the server and that of the client."""

import inspect
from collections.abc import Iterator
from pathlib import Path

import grpc
from client_reasons import describe, find_reasons
from markdown_text import GENERATED, escape, format_table

from imagemint.client import errors
from imagemint.server.http.problems import STATUSES
from imagemint.server.rpc.status import CODES

_HEAD = """\
# Errors

A failed call has a gRPC status code and an `ErrorInfo` with the domain `imagemint`, a `reason` and
the `request_id`, under which the server's log has the details. The reason is stable: programs
compare it, never the message. `BadRequest` lists every wrong field. `RetryInfo` says when a retry
makes sense. Over HTTP, the same fields are a [problem](../http.md#errors), and the status follows
from the code.
"""
_TAIL = """
## In the Python client

Every failure is an `imagemint.client.ImagemintError` with `reason`, `metadata`, `violations`,
`retry_delay_s` and `request_id`. Its class follows from the status code:

"""
_OF_CLIENT = """
The client gives these reasons itself. For a passed deadline, compare the class `DeadlineExceeded`:
the reason depends on who notices first.

"""
_CLIENT = Path(errors.__file__).parent


def render() -> dict[str, str]:
    """Returns the page by name: `errors.md`."""
    text = GENERATED + _HEAD + "\n## Reasons\n\n"
    text += format_table(("reason", "status code", "HTTP", "meaning"), _list_reasons())
    text += _TAIL + format_table(("status code", "class", "meaning"), _list_classes())
    text += _OF_CLIENT + format_table(("reason", "class", "meaning"), _list_client_reasons())
    return {"errors.md": text}


def _list_reasons() -> Iterator[tuple[str, str, str, str]]:
    for error, code in CODES.items():
        hidden = code is grpc.StatusCode.INTERNAL  # callers get one reason for all of them
        reason = "INTERNAL" if hidden else error.reason
        yield f"`{reason}`", f"`{code.name}`", str(STATUSES[code.name]), _read_first_sentence(error)


def _list_classes() -> Iterator[tuple[str, str, str]]:
    for code, error in errors.BY_CODE.items():
        yield f"`{code.name}`", f"`{error.__name__}`", _read_first_sentence(error)


def _list_client_reasons() -> Iterator[tuple[str, str, str]]:
    of_server = {"INTERNAL"} | {error.reason for error in CODES}
    for reason, classes in sorted(find_reasons(_CLIENT).items()):
        if reason not in of_server:
            names = ", ".join(f"`{class_name}`" for class_name in sorted(classes))
            yield f"`{reason}`", names, escape(describe(reason))


def _read_first_sentence(error: type) -> str:
    return escape(inspect.cleandoc(error.__doc__ or "").partition("\n\n")[0])
