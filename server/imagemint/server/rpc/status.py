"""Maps errors to gRPC statuses with google.rpc details."""

from collections.abc import Iterator
from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from imagemint.engine.errors import (
    BackendFailed,
    BundleRefused,
    CaptionUnsupported,
    ClassUnsupported,
    DeadlinePassed,
    Draining,
    FilterExhausted,
    ImagemintError,
    InvalidRequest,
    LoadFailed,
    ModelControlRefused,
    ModelNotFound,
    ModelNotReady,
    QueueFull,
    ScoreUnsupported,
    SourceRequired,
    SourceUnsupported,
    VariantMismatch,
    VersionNotFound,
)
from imagemint.server.errors import (
    NotAllowed,
    OriginNotAllowed,
    RateLimited,
    TooManyCalls,
    Unauthenticated,
)

DOMAIN = "imagemint"
DETAILS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"
ATTEMPTS_KEY = "grpc-previous-rpc-attempts"
REQUEST_ID_KEY = "x-request-id"

# gRPC drops a call, and its status code, if the trailing metadata exceed 8 KB. A message may quote
# the caller's text or name every model. With these limits, the base64 of the details and the
# percent encoding of the message stay below 8 KB, even if one of them has its largest size.
_MOST_MESSAGE_BYTES = 1_000
_MOST_DETAIL_BYTES = 200

# gRPC sends a retry to the next server, which need not wait for a draining one. Only a call that a
# draining server has refused this often waits for the delay of the error: there may be no other.
_QUICK_RETRIES = 2
_QUICK_RETRY_S = 0.01

# A retry after the whole delay needs some time of the deadline for itself. Without this margin, a
# call whose deadline is close to the delay ends at the deadline, without the reason. A quick retry
# has no margin: the next server probably answers.
_RETRY_MARGIN_SHARE = 0.1
_LEAST_RETRY_MARGIN_S = 0.05

# A test checks that every error of the hierarchy is listed here.
CODES: dict[type[ImagemintError], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    ModelNotFound: grpc.StatusCode.NOT_FOUND,
    VersionNotFound: grpc.StatusCode.NOT_FOUND,
    ClassUnsupported: grpc.StatusCode.FAILED_PRECONDITION,
    CaptionUnsupported: grpc.StatusCode.FAILED_PRECONDITION,
    SourceUnsupported: grpc.StatusCode.FAILED_PRECONDITION,
    SourceRequired: grpc.StatusCode.FAILED_PRECONDITION,
    VariantMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    ScoreUnsupported: grpc.StatusCode.FAILED_PRECONDITION,
    FilterExhausted: grpc.StatusCode.FAILED_PRECONDITION,
    QueueFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Draining: grpc.StatusCode.UNAVAILABLE,
    ModelNotReady: grpc.StatusCode.UNAVAILABLE,
    LoadFailed: grpc.StatusCode.FAILED_PRECONDITION,
    ModelControlRefused: grpc.StatusCode.FAILED_PRECONDITION,
    DeadlinePassed: grpc.StatusCode.DEADLINE_EXCEEDED,
    BackendFailed: grpc.StatusCode.INTERNAL,
    BundleRefused: grpc.StatusCode.INTERNAL,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    NotAllowed: grpc.StatusCode.PERMISSION_DENIED,
    OriginNotAllowed: grpc.StatusCode.PERMISSION_DENIED,
    RateLimited: grpc.StatusCode.RESOURCE_EXHAUSTED,
    TooManyCalls: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


@dataclass(frozen=True)
class Outcome:
    """Status of a failed call.

    Attributes:
        code: gRPC status code.
        reason: the stable reason, see docs/reference/errors.md.
        message: text for the caller.
        trailing_metadata: google.rpc details, the request id, and the retry delay that gRPC's own
            retries obey.
    """

    code: grpc.StatusCode
    reason: str
    message: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


def make_outcome(
    error: Exception,
    request_id: str,
    *,
    time_left_s: float | None = None,
    previous_attempts: int = 0,
) -> Outcome:
    """Returns the status of a call that failed with ``error``.

    Errors outside the table become INTERNAL. The caller gets only the request id; the details are
    in the log.

    Args:
        error: the reason of the failure.
        request_id: id of the call.
        time_left_s: seconds until the deadline of the call; None without a deadline.
        previous_attempts: how often gRPC has tried the call before.
    """
    code = CODES.get(type(error)) if isinstance(error, ImagemintError) else None
    if code is None or code is grpc.StatusCode.INTERNAL or not isinstance(error, ImagemintError):
        code, reason, metadata = grpc.StatusCode.INTERNAL, "INTERNAL", {}
        message = f"the server failed; request id {request_id}"
    else:
        reason, message = error.reason, _shorten(error.message, _MOST_MESSAGE_BYTES)
        metadata = {k: _shorten(v, _MOST_DETAIL_BYTES) for k, v in error.metadata.items()}
    info = error_details_pb2.ErrorInfo(
        reason=reason, domain=DOMAIN, metadata={**metadata, "request_id": request_id}
    )
    status = status_pb2.Status(code=code.value[0], message=message)
    status.details.extend(_pack(detail) for detail in (info, *_make_details(error)))
    trailing: list[tuple[str, str | bytes]] = [
        (DETAILS_KEY, status.SerializeToString()),
        (REQUEST_ID_KEY, request_id),
    ]
    delay_s = getattr(error, "retry_delay_s", None)
    if delay_s is not None:
        if isinstance(error, Draining) and previous_attempts < _QUICK_RETRIES:
            pushback = _make_pushback(min(delay_s, _QUICK_RETRY_S), 0.0, time_left_s)
        else:
            margin_s = max(_RETRY_MARGIN_SHARE * delay_s, _LEAST_RETRY_MARGIN_S)
            pushback = _make_pushback(delay_s, margin_s, time_left_s)
        trailing.append((PUSHBACK_KEY, pushback))
    return Outcome(code, reason, message, tuple(trailing))


def _make_pushback(delay_s: float, margin_s: float, time_left_s: float | None) -> str:
    """Returns the delay of gRPC's own retries in milliseconds; a negative one forbids them.

    gRPC would wait for a retry after the deadline, and then report only that the deadline has
    passed. So the caller would learn late, and without the reason, what is known now.

    Args:
        delay_s: seconds until the retry.
        margin_s: seconds of the deadline that must be left for the retry itself.
        time_left_s: seconds until the deadline; None without a deadline.
    """
    if time_left_s is not None and delay_s + margin_s >= time_left_s:
        return "-1"
    return str(max(1, round(1000 * delay_s)))


def _make_details(error: Exception) -> Iterator[Message]:
    if isinstance(error, InvalidRequest):
        violations = [
            error_details_pb2.BadRequest.FieldViolation(
                field=v.field, description=_shorten(v.description, _MOST_DETAIL_BYTES)
            )
            for v in error.violations
        ]
        yield error_details_pb2.BadRequest(field_violations=violations)
    if isinstance(error, QueueFull | Draining | ModelNotReady | RateLimited | TooManyCalls):
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(round(1e9 * error.retry_delay_s))
        yield error_details_pb2.RetryInfo(retry_delay=delay)


def _pack(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed


def _shorten(text: str, most_bytes: int) -> str:
    encoded = text.encode()
    if len(encoded) <= most_bytes:
        return text
    ellipsis = "…"
    kept = encoded[: most_bytes - len(ellipsis.encode())]
    return kept.decode(errors="ignore") + ellipsis
