"""Tests of the table of status codes, its machine-readable details and what it hides."""

from pathlib import Path

import grpc
import pytest
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
    Violation,
)
from imagemint.server.errors import (
    NotAllowed,
    OriginNotAllowed,
    RateLimited,
    TooManyCalls,
    Unauthenticated,
)
from imagemint.server.rpc.status import (
    CODES,
    DETAILS_KEY,
    PUSHBACK_KEY,
    REQUEST_ID_KEY,
    make_outcome,
)

# Clients depend on these codes, as docs/reference/errors.md lists them.
EXPECTED = {
    InvalidRequest([Violation("images.count", "0 is not 1 or more")]): "INVALID_ARGUMENT",
    ModelNotFound("nobody", ["mnist"]): "NOT_FOUND",
    VersionNotFound("mnist", "9", [1, 2]): "NOT_FOUND",
    ClassUnsupported("mnist"): "FAILED_PRECONDITION",
    CaptionUnsupported("mnist"): "FAILED_PRECONDITION",
    SourceUnsupported("mnist"): "FAILED_PRECONDITION",
    SourceRequired("sketch"): "FAILED_PRECONDITION",
    VariantMismatch("mnist", 2, "int8", "reference"): "FAILED_PRECONDITION",
    ScoreUnsupported("mnist", 2, ["realness"], []): "FAILED_PRECONDITION",
    FilterExhausted(3, 64, 640, 9, "realness up to 1"): "FAILED_PRECONDITION",
    QueueFull("mnist", 0.25): "RESOURCE_EXHAUSTED",
    Draining(1.0): "UNAVAILABLE",
    ModelNotReady("mnist", "still loading", 2.0): "UNAVAILABLE",
    LoadFailed("mnist", "version 2: no checksum"): "FAILED_PRECONDITION",
    ModelControlRefused("model_control is poll"): "FAILED_PRECONDITION",
    DeadlinePassed(): "DEADLINE_EXCEEDED",
    BackendFailed("no memory at 0xdeadbeef"): "INTERNAL",
    BundleRefused(Path("/srv/models"), "no checksum"): "INTERNAL",
    Unauthenticated("the API key is not known"): "UNAUTHENTICATED",
    NotAllowed("augmentation", "use this model"): "PERMISSION_DENIED",
    OriginNotAllowed(): "PERMISSION_DENIED",
    RateLimited("augmentation", 0.5): "RESOURCE_EXHAUSTED",
    TooManyCalls("the server", 8, 0.5): "RESOURCE_EXHAUSTED",
    KeyError("secret"): "INTERNAL",
}


def find_descendants(root):
    """Yields every subclass of `root`, at any depth."""
    for child in root.__subclasses__():
        yield child
        yield from find_descendants(child)


def read_details(outcome):
    """Returns the google.rpc details by message name, and the status that contains them."""
    status = status_pb2.Status.FromString(dict(outcome.trailing_metadata)[DETAILS_KEY])
    kinds = {
        kind.DESCRIPTOR.full_name: kind
        for kind in (
            error_details_pb2.ErrorInfo,
            error_details_pb2.BadRequest,
            error_details_pb2.RetryInfo,
        )
    }
    found = {}
    for packed in status.details:
        kind = kinds[packed.TypeName()]
        found[kind.__name__] = kind.FromString(packed.value)
    return status, found


def test_table_is_complete():
    """Every error of the engine and the server has a code, and no other class does."""
    served = ("imagemint.engine.", "imagemint.server.")
    ours = {
        descendant
        for descendant in find_descendants(ImagemintError)
        if descendant.__module__.startswith(served)
    }
    assert set(CODES) == ours
    assert {type(error) for error in EXPECTED if isinstance(error, ImagemintError)} == ours


@pytest.mark.parametrize("error", EXPECTED, ids=lambda error: type(error).__name__)
def test_code_is_that_of_the_design(error):
    """The status code is the same in the status of the call and in the details."""
    outcome = make_outcome(error, "id-1")
    assert outcome.code is grpc.StatusCode[EXPECTED[error]]
    status, details = read_details(outcome)
    assert (status.code, status.message) == (outcome.code.value[0], outcome.message)
    assert details["ErrorInfo"].domain == "imagemint"
    assert details["ErrorInfo"].metadata["request_id"] == "id-1"
    assert dict(outcome.trailing_metadata)[REQUEST_ID_KEY] == "id-1"


@pytest.mark.parametrize(
    "error",
    [error for error, code in EXPECTED.items() if code == "INTERNAL"],
    ids=lambda error: type(error).__name__,
)
def test_internal_error_reveals_nothing(error):
    """Only the request id leaves the server, without retry advice."""
    outcome = make_outcome(error, "id-1")
    assert outcome.message == "the server failed; request id id-1"
    _, details = read_details(outcome)
    assert details == {
        "ErrorInfo": error_details_pb2.ErrorInfo(
            reason="INTERNAL", domain="imagemint", metadata={"request_id": "id-1"}
        )
    }
    assert PUSHBACK_KEY not in dict(outcome.trailing_metadata)


def test_reasons_are_unique():
    """Clients recognize an error by its reason, so each has its own."""
    reasons = {error: each for error in CODES if (each := error.reason) != "INTERNAL"}
    assert len(set(reasons.values())) == len(CODES)
    assert all(reason.isupper() for reason in reasons.values())


def test_not_found_lists_what_exists():
    """The metadata of ErrorInfo has the same list as the message."""
    _, details = read_details(make_outcome(ModelNotFound("nobody", ["emoji", "mnist"]), "id"))
    assert details["ErrorInfo"].metadata["known"] == "emoji,mnist"
    _, details = read_details(make_outcome(VersionNotFound("mnist", "9", [1, 2]), "id"))
    assert details["ErrorInfo"].metadata["known"] == "1,2"


def test_every_violation_is_listed():
    """BadRequest lists all violations in order."""
    error = InvalidRequest([Violation("a.b", "too small"), Violation("c", "unknown")])
    _, details = read_details(make_outcome(error, "id"))
    told = [
        (field_violation.field, field_violation.description)
        for field_violation in details["BadRequest"].field_violations
    ]
    assert told == [("a.b", "too small"), ("c", "unknown")]


@pytest.mark.parametrize(
    "error",
    [
        QueueFull("m", 0.25),
        Draining(1.5),
        ModelNotReady("m", "why", 2.0),
        RateLimited("augmentation", 0.5),
        TooManyCalls("the server", 8, 0.5),
    ],
)
def test_retry_delay_is_sent_twice(error):
    """Details have it for this project's clients, and pushback for gRPC's own retries."""
    outcome = make_outcome(error, "id", previous_attempts=2)
    _, details = read_details(outcome)
    delay_s = details["RetryInfo"].retry_delay.ToTimedelta().total_seconds()
    assert delay_s == error.retry_delay_s
    assert dict(outcome.trailing_metadata)[PUSHBACK_KEY] == str(round(1000 * error.retry_delay_s))


@pytest.mark.parametrize(
    ("time_left_s", "pushback"), [(None, "250"), (1.0, "250"), (0.25, "-1"), (0.0, "-1")]
)
def test_retry_after_the_deadline_is_forbidden(time_left_s, pushback):
    """A negative pushback ends gRPC's retries, so that the caller learns the reason at once."""
    outcome = make_outcome(QueueFull("m", 0.25), "id", time_left_s=time_left_s)
    assert dict(outcome.trailing_metadata)[PUSHBACK_KEY] == pushback
    _, details = read_details(outcome)
    assert details["RetryInfo"].retry_delay.ToMilliseconds() == 250


@pytest.mark.parametrize(
    ("delay_s", "time_left_s", "is_allowed"),
    [(1.0, 1.09, False), (1.0, 1.11, True), (0.25, 0.29, False), (0.25, 0.31, True)],
)
def test_retry_close_to_the_deadline_is_forbidden(delay_s, time_left_s, is_allowed):
    """A tenth of the delay and at least 50 ms must be left, or the retry ends at the deadline."""
    outcome = make_outcome(ModelNotReady("m", "why", delay_s), "id", time_left_s=time_left_s)
    assert (dict(outcome.trailing_metadata)[PUSHBACK_KEY] != "-1") is is_allowed


def test_quick_retry_of_a_draining_server_needs_no_margin():
    """The next server can answer within the rest of a short deadline."""
    outcome = make_outcome(Draining(1.0), "id", time_left_s=0.03)
    assert dict(outcome.trailing_metadata)[PUSHBACK_KEY] == "10"


@pytest.mark.parametrize(
    ("previous_attempts", "pushback"), [(0, "10"), (1, "10"), (2, "-1"), (3, "-1")]
)
def test_first_retries_leave_a_draining_server_at_once(previous_attempts, pushback):
    """Even a call whose deadline is before the delay has time for another server."""
    outcome = make_outcome(
        Draining(1.0), "id", time_left_s=0.5, previous_attempts=previous_attempts
    )
    assert dict(outcome.trailing_metadata)[PUSHBACK_KEY] == pushback
    _, details = read_details(outcome)
    assert details["RetryInfo"].retry_delay.ToMilliseconds() == 1000


@pytest.mark.parametrize("letter", ["x", "ß", "🂡"])
def test_outcome_fits_into_metadata(letter):
    """Message and details stay below gRPC's limit of 8 KB, whatever the caller sent."""
    typed = letter * 100_000
    fields = [f"images.field_{number}" for number in range(8)]
    for error in (
        ModelNotFound(typed, [typed] * 100),
        VersionNotFound("mnist", typed, range(1, 10_000)),
        ModelNotReady("mnist", typed, 1.0),
        InvalidRequest([Violation(field, typed) for field in fields]),
    ):
        outcome = make_outcome(error, "id")
        percent_encoded = sum(3 if byte > 126 else 1 for byte in outcome.message.encode())
        sizes = [len(key) + len(value) * 4 / 3 for key, value in outcome.trailing_metadata]
        assert percent_encoded + sum(sizes) < 8_000
        assert outcome.message.endswith("…")
        assert outcome.code is CODES[type(error)]
