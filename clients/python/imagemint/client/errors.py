"""The errors of the client. The client raises no gRPC exceptions.

    ImagemintError
    ├── InvalidRequest        a field is wrong; `violations` names every one
    ├── NotFound              no such model or version
    ├── FailedPrecondition    a class requested from an unconditional model
    ├── Unauthenticated       missing or wrong credentials
    ├── PermissionDenied      the credentials do not allow the call
    ├── QueueFull             queue full, rate or quota exceeded; `retry_delay_s`
    ├── Unavailable           not reachable, draining or still loading; `retry_delay_s`
    ├── DeadlineExceeded      no answer within `timeout_s`
    ├── Cancelled             the server cancelled the call
    │   └── ClientClosed      the client was closed, before or during the call
    ├── ClientForked          the client was created before this process was forked
    └── ServerError           the server failed; its log has the details under `request_id`
        └── Unimplemented     the server is older than this client, or not an imagemint server

`BY_CODE` maps every gRPC status code to one of them. `reason` is never empty: each class has a
default for errors without a reason from the server.
"""

# ruff: noqa: N818 - `errors.NotFound` says it; the tree reads as the table of status codes does

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

_DETAILS_KEY = "grpc-status-details-bin"
_FORKED = (
    "this client was created before the process was forked and does not work in the child; create a"
    " new client in each child process, or start the children with the multiprocessing method"
    ' "spawn" or "forkserver"'
)

CONNECTION_LOST = "CONNECTION_LOST"
"""Reason of `Unavailable` if the connection ended while the server answered the call."""
NO_SERVER = frozenset({"SERVER_UNREACHABLE", "NOT_SERVING", CONNECTION_LOST})
"""Reasons of `Unavailable` if no server was there to answer a call, or not to its end."""
_HEALTH_DELAY_S = 1.0  # a server that is replaced is soon back

DetailT = TypeVar("DetailT", bound=Message)


@dataclass(frozen=True, slots=True)
class Violation:
    """One wrong field of a request."""

    field: str
    """Path of the field in the request message, such as `images.count`. If the client detects the
    fault, before a call: name of the argument, such as `count`."""
    description: str
    """What is wrong with it."""


class ImagemintError(Exception):
    """Any failure of a call.

    Args:
        message: text for humans.
        reason: stable name for programs, in UPPER_SNAKE_CASE; each class has a default.
        metadata: details of `reason`, such as the known models.
        code: status code of the call; each class has a default.
        violations: invalid fields, if the server names them.
        retry_delay_s: seconds to wait before a retry, as the server asks; None if it does not ask.
        request_id: id of the request in the server's log; empty if the server sent none.
    """

    default_code = grpc.StatusCode.UNKNOWN
    default_reason = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] = MappingProxyType({}),
        code: grpc.StatusCode | None = None,
        violations: Sequence[Violation] = (),
        retry_delay_s: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata = dict(metadata)
        self.code = code or self.default_code
        self.violations = tuple(violations)
        self.retry_delay_s = retry_delay_s
        self.request_id = request_id

    def __str__(self) -> str:
        unnamed = [
            violation for violation in self.violations if violation.description not in self.message
        ]
        faults = "; ".join(f"{each.field}: {each.description}" for each in unnamed)
        text = f"{self.message} ({faults})" if faults else self.message
        return f"{text} [request {self.request_id}]" if self.request_id else text


class InvalidRequest(ImagemintError):
    """A field of the request is wrong; `violations` names every one."""

    default_code = grpc.StatusCode.INVALID_ARGUMENT
    default_reason = "INVALID_REQUEST"


class NotFound(ImagemintError):
    """There is no such model or version; the message says which exist."""

    default_code = grpc.StatusCode.NOT_FOUND
    default_reason = "NOT_FOUND"


class FailedPrecondition(ImagemintError):
    """The model cannot do this, or the server runs another variant of it.

    An unconditional model, for example, takes no class.
    """

    default_code = grpc.StatusCode.FAILED_PRECONDITION
    default_reason = "FAILED_PRECONDITION"


class Unauthenticated(ImagemintError):
    """Credentials are missing or wrong."""

    default_code = grpc.StatusCode.UNAUTHENTICATED
    default_reason = "UNAUTHENTICATED"


class PermissionDenied(ImagemintError):
    """These credentials do not allow the call."""

    default_code = grpc.StatusCode.PERMISSION_DENIED
    default_reason = "PERMISSION_DENIED"


class QueueFull(ImagemintError):
    """The queue is full, or a rate or quota is exceeded; `retry_delay_s` says when to try again."""

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED
    default_reason = "RESOURCE_EXHAUSTED"


class Unavailable(ImagemintError):
    """The server cannot be reached, does not serve, is draining, or still loads the model.

    The reason CONNECTION_LOST says that the server was reached, and that the connection ended
    during the call.
    """

    default_code = grpc.StatusCode.UNAVAILABLE
    default_reason = "SERVER_UNREACHABLE"


class DeadlineExceeded(ImagemintError):
    """The answer did not arrive within `timeout_s`."""

    default_code = grpc.StatusCode.DEADLINE_EXCEEDED
    default_reason = "DEADLINE_EXCEEDED"


class Cancelled(ImagemintError):
    """The server cancelled the call. A cancelled task raises asyncio.CancelledError instead."""

    default_code = grpc.StatusCode.CANCELLED
    default_reason = "CANCELLED"


class ClientClosed(Cancelled):
    """The client was closed, before the call or during it."""

    default_reason = "CLIENT_CLOSED"

    # A default, because an exception is unpickled with its message: a child process sends it.
    def __init__(
        self, message: str = "the client is closed; create a new one for further calls"
    ) -> None:
        super().__init__(message)


class ClientForked(ImagemintError):
    """The client was created before this process was forked; its connection is the parent's."""

    default_code = grpc.StatusCode.FAILED_PRECONDITION
    default_reason = "CLIENT_FORKED"

    def __init__(self, message: str = _FORKED) -> None:
        super().__init__(message)


class ServerError(ImagemintError):
    """The server failed; its log has the details under `request_id`."""

    default_code = grpc.StatusCode.INTERNAL
    default_reason = "INTERNAL"


class Unimplemented(ServerError):
    """The server does not know the call: it is older than the client, or another service."""

    default_code = grpc.StatusCode.UNIMPLEMENTED
    default_reason = "UNIMPLEMENTED"


BY_CODE: Mapping[grpc.StatusCode, type[ImagemintError]] = MappingProxyType(
    {
        grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
        grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
        grpc.StatusCode.NOT_FOUND: NotFound,
        grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
        grpc.StatusCode.ALREADY_EXISTS: FailedPrecondition,
        grpc.StatusCode.ABORTED: FailedPrecondition,
        grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
        grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
        grpc.StatusCode.RESOURCE_EXHAUSTED: QueueFull,
        grpc.StatusCode.UNAVAILABLE: Unavailable,
        grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
        grpc.StatusCode.CANCELLED: Cancelled,
        grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
        grpc.StatusCode.INTERNAL: ServerError,
        grpc.StatusCode.UNKNOWN: ServerError,
        grpc.StatusCode.DATA_LOSS: ServerError,
        # A call that fails although its status is OK.
        grpc.StatusCode.OK: ServerError,
    }
)
"""Error class for each status code. It has all codes, so that every failure is translated."""


def translate_error(
    error: aio.AioRpcError, server: str = "", timeout_s: float | None = None
) -> ImagemintError:
    """Translates a gRPC error, with its google.rpc details.

    Details that cannot be parsed are ignored. The status code determines the class, except of a
    message that is larger than gRPC takes: that is an InvalidRequest.

    Args:
        error: error of gRPC.
        server: address or addresses, for messages about unreachable servers.
        timeout_s: deadline of the call in seconds, for messages about deadlines.
    """
    details = _read_status(error)
    info = _find_detail(details, error_details_pb2.ErrorInfo) if details else None
    bad_request = _find_detail(details, error_details_pb2.BadRequest) if details else None
    retry = _find_detail(details, error_details_pb2.RetryInfo) if details else None
    request = _find_detail(details, error_details_pb2.RequestInfo) if details else None
    text = error.details() or error.code().name
    if details is None and _is_about_size(error.code(), text):
        return InvalidRequest(f"too large for one call: {text}", code=error.code())
    if details is None and _is_about_health(error.code(), text):
        return Unavailable(
            f"{server or 'the server'} does not serve now: it shuts down, or it still loads its"
            f" models ({text})",
            reason="NOT_SERVING",
            retry_delay_s=_HEALTH_DELAY_S,
        )
    if details is None and _is_about_lost_connection(error.code(), text):
        return Unavailable(
            f"the connection to {server or 'the server'} was lost during the call: {text}",
            reason=CONNECTION_LOST,
        )
    return BY_CODE[error.code()](
        text if details else _explain(error.code(), text, server, timeout_s),
        reason=info.reason if info else "",
        metadata=info.metadata if info else {},
        code=error.code(),
        violations=[
            Violation(each.field, each.description)
            for each in (bad_request.field_violations if bad_request else ())
        ],
        retry_delay_s=retry.retry_delay.ToTimedelta().total_seconds() if retry else None,
        request_id=_read_request_id(request, info),
    )


def _is_about_size(code: grpc.StatusCode, text: str) -> bool:
    """Returns whether gRPC has refused a message, or metadata, because of its size.

    It does so with the code that a server has for a full queue, but a retry cannot help. Only its
    text tells them apart.
    """
    signs = ("message larger than max", "metadata size exceeds")
    return code is grpc.StatusCode.RESOURCE_EXHAUSTED and any(sign in text for sign in signs)


def _is_about_health(code: grpc.StatusCode, text: str) -> bool:
    """Returns whether gRPC has not made a call because every server said that it does not serve.

    `healthCheckConfig` of the service config asks for it. Only the text tells this from servers
    that cannot be reached.
    """
    signs = ("health check", "backend unhealthy")
    return code is grpc.StatusCode.UNAVAILABLE and any(sign in text.lower() for sign in signs)


def _is_about_lost_connection(code: grpc.StatusCode, text: str) -> bool:
    """Returns whether the connection of a call ended during the call.

    Only the text tells this from connections that could not be made, of which it has the last
    error.
    """
    signs = ("stream removed", "socket closed", "connection reset", "broken pipe")
    lowered = text.lower()
    return (
        code is grpc.StatusCode.UNAVAILABLE
        and "last error" not in lowered
        and any(sign in lowered for sign in signs)
    )


def make_invalid_request(field: str, description: str) -> InvalidRequest:
    """Returns the error for an invalid argument that the client detects before a call."""
    return InvalidRequest(f"{field}: {description}", violations=[Violation(field, description)])


# What gRPC says of a connection on which only one side uses TLS, of one that TLS refuses, and of
# one to a port of HTTP/1.1.
_SIGNS_OF_SETTINGS = ("socket closed", "handshake", "verif", "parsing http/2")


def _explain(code: grpc.StatusCode, text: str, server: str, timeout_s: float | None) -> str:
    """Returns gRPC's own `text` with the server and a hint."""
    if code is grpc.StatusCode.UNAVAILABLE and server:
        hint = "Is an imagemint server running there?"
        if any(sign in text.lower() for sign in _SIGNS_OF_SETTINGS):
            hint += " Is this its gRPC port (8001), and do your TLS settings fit the server's?"
        return f"cannot reach {server}: {text.rstrip('.')}. {hint}"
    if code is grpc.StatusCode.UNIMPLEMENTED:
        hint = "Is it an imagemint server, as new as this client, and is no proxy in between?"
        return f"{server or 'the server'} does not know this call: {text.rstrip('.')}. {hint}"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and timeout_s is not None:
        return f"no answer{f' from {server}' if server else ''} within {timeout_s:g} s"
    return text


def _read_status(error: aio.AioRpcError) -> status_pb2.Status | None:
    """Returns the status that the server sent; None if gRPC itself raised the error."""
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return status_pb2.Status()
    return None


def _find_detail(status: status_pb2.Status, kind: type[DetailT]) -> DetailT | None:
    """Returns the first detail of this kind; None if there is none or it is malformed."""
    for packed in status.details:
        message = kind()
        try:
            if packed.Unpack(message):
                return message
        except DecodeError:
            continue
    return None


def _read_request_id(
    request: error_details_pb2.RequestInfo | None, info: error_details_pb2.ErrorInfo | None
) -> str:
    if request:
        return str(request.request_id)
    return str(info.metadata.get("request_id", "")) if info else ""
