"""Errors as problem details for HTTP (RFC 9457).

A problem has the members of the standard, and those that a gRPC client gets as google.rpc details:
`code`, `reason`, `metadata`, `violations`, `retry_delay_s` and `request_id`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from google.rpc import error_details_pb2, status_pb2

from imagemint.engine.errors import Draining
from imagemint.server.rpc.status import DETAILS_KEY

MEDIA_TYPE = "application/problem+json"

STATUSES: dict[str, int] = {
    "OK": 200,
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "UNAUTHENTICATED": 401,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
}
"""HTTP status of each gRPC status code, as in google/rpc/code.proto."""

_CLIENT_CLOSED = 499  # not a standard status, so http.HTTPStatus does not know it


@dataclass(frozen=True)
class Problem:
    """An error in the form for the caller.

    Attributes:
        status: HTTP status.
        detail: one sentence for people.
        code: name of the gRPC status code that a gRPC client gets for the same error.
        members: further members, by name.
        retry_delay_s: seconds after which a retry is useful; None if it is not.
    """

    status: int
    detail: str
    code: str
    members: Mapping[str, Any] = field(default_factory=dict)
    retry_delay_s: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns the members of the problem, for JSON."""
        found: dict[str, Any] = {
            "type": "about:blank",
            "title": _get_title(self.status),
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            **self.members,
        }
        if self.retry_delay_s is not None:
            found["retry_delay_s"] = self.retry_delay_s
        return found

    def encode(self) -> bytes:
        """Returns the JSON of the problem."""
        return json.dumps(self.as_dict()).encode()

    def make_headers(self) -> dict[str, str]:
        """Returns the headers of an answer with the problem, except its length."""
        found = {"content-type": MEDIA_TYPE, "cache-control": "no-store"}
        if self.retry_delay_s is not None:  # the header has whole seconds
            found["retry-after"] = str(max(1, math.ceil(self.retry_delay_s)))
        if self.status == HTTPStatus.UNAUTHORIZED:
            found["www-authenticate"] = "Bearer"
        if self.members.get("reason") == Draining.reason:
            found["connection"] = "close"  # so that the next request goes to another server
        if request_id := self.members.get("request_id"):
            found["x-request-id"] = request_id
        return found


def make_problem(
    code: str, message: str, trailing_metadata: Sequence[tuple[str, str | bytes]]
) -> Problem:
    """Returns the problem of a failed RPC.

    Args:
        code: name of its gRPC status code.
        message: text for people.
        trailing_metadata: trailing metadata of `imagemint.server.rpc.status.make_outcome`.
    """
    members: dict[str, Any] = {}
    delay_s = None
    for key, value in trailing_metadata:
        if key == DETAILS_KEY and isinstance(value, bytes):
            delay_s = _read_details(value, members)
    return Problem(STATUSES[code], message, code, members, delay_s)


def _read_details(packed: bytes, members: dict[str, Any]) -> float | None:
    """Adds google.rpc details to the members; returns the retry delay in seconds, or None."""
    info = error_details_pb2.ErrorInfo()
    request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    delay_s = None
    for detail in status_pb2.Status.FromString(packed).details:
        if detail.Unpack(info):
            metadata = dict(info.metadata)
            members["reason"] = info.reason
            members["request_id"] = metadata.pop("request_id", "")
            if metadata:
                members["metadata"] = metadata
        elif detail.Unpack(request):
            members["violations"] = [
                {"field": field_violation.field, "description": field_violation.description}
                for field_violation in request.field_violations
            ]
        elif detail.Unpack(retry):
            delay_s = retry.retry_delay.ToNanoseconds() / 1e9
    return delay_s


def _get_title(status: int) -> str:
    return "Client Closed Request" if status == _CLIENT_CLOSED else HTTPStatus(status).phrase
