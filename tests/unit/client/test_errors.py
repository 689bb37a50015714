"""Tests of errors: the table of codes, and details on the wire."""

import pickle

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import aio

from imagemint.client import AsyncClient, ImagemintError, InvalidRequest, errors

CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


async def get_error(address):
    """Returns the error of one call."""
    async with AsyncClient(address) as asynchronous:
        with pytest.raises(ImagemintError) as caught:
            await asynchronous.generate("tiny")
    return caught.value


def test_table_is_complete():
    """Every status code has a class. Errors of the client itself have no code."""
    assert set(errors.BY_CODE) == set(grpc.StatusCode)
    classes = {each for each in vars(errors).values() if isinstance(each, type)}
    tree = {class_ for class_ in classes if issubclass(class_, ImagemintError)} - {ImagemintError}
    assert set(errors.BY_CODE.values()) == tree - {errors.ClientClosed, errors.ClientForked}


def test_every_error_has_a_reason():
    """The reason is set even without a server, so that programs can use it."""
    reasons = [each("x").reason for each in set(errors.BY_CODE.values())]
    reasons += [errors.ClientClosed().reason, errors.ClientForked().reason]
    assert all(reasons)
    assert len(set(reasons)) == len(reasons)


def test_default_codes_agree_with_the_table():
    """An error that is raised without a server has the code of its class."""
    for kind in set(errors.BY_CODE.values()):
        assert errors.BY_CODE[kind("x").code] is kind


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
async def test_each_code_raises_its_class(address, mint, fault, code):
    """The class follows from the code on the wire, which stays available."""
    # enough for the retries of the service config
    mint.faults.extend([fault(code, "because")] * 4)
    error = await get_error(address)
    assert type(error) is errors.BY_CODE[code]
    assert error.code is code
    assert str(error) == "because"


async def test_large_metadata_is_an_invalid_request(address):
    """Its code is that of a full queue, but a retry cannot help."""
    async with AsyncClient(address, metadata=[("note", "x" * 100_000)]) as asynchronous:
        with pytest.raises(InvalidRequest, match="too large for one call") as caught:
            await asynchronous.generate("tiny")
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_all_violations_are_available(address, mint, fault):
    """Every violation is in the error and in its text."""
    violations = [
        error_details_pb2.BadRequest.FieldViolation(field="images.count", description="is 0"),
        error_details_pb2.BadRequest.FieldViolation(field="output.quality", description="is 400"),
    ]
    bad = error_details_pb2.BadRequest(field_violations=violations)
    mint.faults.append(fault(grpc.StatusCode.INVALID_ARGUMENT, "2 fields are wrong", bad))
    error = await get_error(address)
    assert isinstance(error, InvalidRequest)
    assert [violation.field for violation in error.violations] == ["images.count", "output.quality"]
    assert str(error) == "2 fields are wrong (images.count: is 0; output.quality: is 400)"


async def test_reason_and_metadata_are_available(address, mint, fault):
    """ErrorInfo becomes reason and metadata."""
    info = error_details_pb2.ErrorInfo(
        reason="MODEL_NOT_FOUND", domain="imagemint", metadata={"known": "a, b"}
    )
    mint.faults.append(fault(grpc.StatusCode.NOT_FOUND, "no", info))
    error = await get_error(address)
    assert (error.reason, error.metadata) == ("MODEL_NOT_FOUND", {"known": "a, b"})


async def test_retry_delay_is_available(address, mint, fault):
    """RetryInfo becomes retry_delay_s."""
    mint.faults.extend([fault(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_s=0.25)] * 4)
    assert (await get_error(address)).retry_delay_s == 0.25


async def test_request_id_is_available(address, mint, fault):
    """RequestInfo becomes request_id and is part of the text."""
    info = error_details_pb2.RequestInfo(request_id="r-17")
    mint.faults.append(fault(grpc.StatusCode.INTERNAL, "failed", info))
    error = await get_error(address)
    assert error.request_id == "r-17"
    assert str(error) == "failed [request r-17]"


def test_invalid_details_are_ignored():
    """If the details are not a Status, the code still gives the class."""
    trailer = aio.Metadata(("grpc-status-details-bin", b"\xff\xff"))
    error = aio.AioRpcError(grpc.StatusCode.NOT_FOUND, aio.Metadata(), trailer, "gone")
    assert type(errors.translate_error(error)) is errors.NotFound


async def test_unreachable_server_is_named():
    """The error has the address, a hint and a stable reason."""
    async with AsyncClient("127.0.0.1:1") as asynchronous:
        with pytest.raises(errors.Unavailable, match=r"127\.0\.0\.1:1.*Is an imagemint") as caught:
            await asynchronous.models()
    assert caught.value.reason == "SERVER_UNREACHABLE"


async def test_deadline_of_the_client_is_explained(address, mint):
    """The error has the server, the seconds and a stable reason."""
    mint.silent = True
    async with AsyncClient(address) as asynchronous:
        with pytest.raises(errors.DeadlineExceeded, match=f"{address} within 0.05 s") as caught:
            await asynchronous.generate("tiny", timeout_s=0.05)
    assert caught.value.reason == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize(
    "kind", [*dict.fromkeys(errors.BY_CODE.values()), errors.ClientClosed, errors.ClientForked]
)
def test_errors_can_be_pickled(kind):
    """A pool of processes sends them to the parent."""
    error = kind("text") if kind in errors.BY_CODE.values() else kind()
    error.metadata, error.request_id = {"model": "tiny"}, "abc"
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - made here
    assert (type(copy), str(copy), vars(copy)) == (kind, str(error), vars(error))


async def test_server_that_does_not_serve_is_no_unreachable_one(serve, mint):
    """While a server drains, its health says so. The error has a reason and a delay of its own."""
    error = await get_error(serve(mint, serving=False))
    assert (error.reason, error.retry_delay_s) == ("NOT_SERVING", 1.0)
    assert "does not serve now" in str(error)
    assert mint.requests == []


async def test_another_service_is_named():
    """A gRPC server without our services may be the wrong address."""
    server = aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        error = await get_error(f"127.0.0.1:{port}")
    finally:
        await server.stop(None)
    assert isinstance(error, errors.Unimplemented)
    assert f"127.0.0.1:{port} does not know this call: " in str(error)
    assert "Is it an imagemint server" in str(error)
