"""Tests of invalid requests, which get a code with details and do not affect others."""

import grpc
import pytest

from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import model_service_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAN = float("nan")


def make_request(output=None, **images):
    """Returns a valid GenerateRequest for an image of `digits`, changed by keywords."""
    good = {"model": "digits", "count": 1, "seed": 1}
    if "latents" in images:
        del good["seed"]
    return pb.GenerateRequest(images=good | images, output=output)


BAD_FIELDS = {
    "count 0": (make_request(count=0), {"images.count"}),
    "count over the limit": (make_request(count=1_025), {"images.count"}),
    "class out of range": (make_request(class_id=10), {"images.class_id"}),
    "negative class": (make_request(class_id=-1), {"images.class_id"}),
    "class of unknown name": (make_request(class_label="ten"), {"images.class_label"}),
    "truncation below": (make_request(model="bounded", truncation=0.2), {"images.truncation"}),
    "truncation above": (make_request(model="styled", truncation=1.5), {"images.truncation"}),
    "truncation of none": (make_request(truncation=0.5), {"images.truncation"}),
    "latents of the wrong shape": (
        make_request(class_id=1, latents={"values": [0.0] * 7}),
        {"images.latents.values"},
    ),
    "unknown format": (make_request({"format": 17}), {"output.format"}),
    "no model": (make_request(model=""), {"images.model"}),
    "several": (
        make_request({"quality": 3}, count=0, class_id=11, truncation=NAN),
        {"images.count", "images.class_id", "images.truncation", "output.quality"},
    ),
}


async def get_failure(call):
    """Returns the error of a call."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def check_serving(generation):
    """Checks that the server answers a valid request."""
    answer = await generation.Generate(make_request())
    assert answer.batch.images[0].serial.startswith("digits@1/1/0?class=")


@pytest.mark.parametrize("name", BAD_FIELDS)
async def test_invalid_field_is_named(generation, details_of, name):
    """Generate returns INVALID_ARGUMENT with every violation."""
    bad, fields = BAD_FIELDS[name]
    error = await get_failure(generation.Generate(bad))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = details_of(error)
    assert {
        field_violation.field for field_violation in details["BadRequest"].field_violations
    } == fields
    assert all(
        field_violation.description for field_violation in details["BadRequest"].field_violations
    )
    assert details["ErrorInfo"].reason == "INVALID_REQUEST"
    await check_serving(generation)


async def test_invalid_field_of_a_stream_is_named(generation, details_of):
    """StreamGenerate validates as Generate does, before the first chunk."""
    bad = pb.StreamGenerateRequest(images={"model": "digits", "class_id": 10}, chunk_size=0)
    error = await get_failure(generation.StreamGenerate(bad).read())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    violations = details_of(error)["BadRequest"].field_violations
    assert {violation.field for violation in violations} == {
        "images.count",
        "images.class_id",
        "chunk_size",
    }
    await check_serving(generation)


@pytest.mark.parametrize(
    ("images", "reason", "known"),
    [
        ({"model": "nobody"}, "MODEL_NOT_FOUND", "bounded,digits,people,plain,styled"),
        ({"version": "2"}, "VERSION_NOT_FOUND", "1"),
        ({"version": "latest"}, "VERSION_NOT_FOUND", "1"),
        ({"model": "🂡" * 100_000}, "MODEL_NOT_FOUND", "bounded,digits,people,plain,styled"),
        ({"version": "9" * 100_000}, "VERSION_NOT_FOUND", "1"),
    ],
)
async def test_unknown_model_and_version_are_not_found(
    generation, details_of, images, reason, known
):
    """NOT_FOUND lists what exists."""
    error = await get_failure(generation.Generate(make_request(**images)))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    info = details_of(error)["ErrorInfo"]
    assert (info.reason, info.metadata["known"]) == (reason, known)
    await check_serving(generation)


async def test_class_of_an_unconditional_model_fails(generation, details_of):
    """The code is FAILED_PRECONDITION, because no other class would be valid."""
    error = await get_failure(generation.Generate(make_request(model="plain", class_id=0)))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert details_of(error)["ErrorInfo"].reason == "CLASS_UNSUPPORTED"


async def test_unknown_model_is_not_found_by_model_service(model_service, details_of):
    """GetModel also lists what exists, and requires a name."""
    error = await get_failure(model_service.GetModel(model_service_pb2.GetModelRequest(model="x")))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert "digits" in details_of(error)["ErrorInfo"].metadata["known"]
    error = await get_failure(model_service.GetModel(model_service_pb2.GetModelRequest()))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "wrong", [{"page_size": -1}, {"page_token": "nobody"}], ids=lambda wrong: next(iter(wrong))
)
async def test_invalid_page_is_refused(model_service, details_of, wrong):
    """A negative size and a token of another server are refused."""
    error = await get_failure(
        model_service.ListModels(model_service_pb2.ListModelsRequest(**wrong))
    )
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = details_of(error)["BadRequest"].field_violations
    assert violation.field == next(iter(wrong))


@pytest.mark.parametrize(
    ("sent", "echoed"), [("order-66:a.b_c", True), ("x" * 129, False), ("two words", False)]
)
async def test_request_id_is_returned(generation, details_of, sent, echoed):
    """A simple id of the caller is returned. Any other is replaced."""
    call = generation.Generate(make_request(count=0), metadata=(("x-request-id", sent),))
    told = details_of(await get_failure(call))["ErrorInfo"].metadata["request_id"]
    assert (told == sent) is echoed
    assert told
    answered = generation.Generate(make_request(), metadata=(("x-request-id", sent),))
    await answered
    echo = dict(await answered.trailing_metadata()).get("x-request-id")
    assert echo == (sent if echoed else None)
