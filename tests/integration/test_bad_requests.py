"""Bad input gets its code and its details, and costs nobody else anything."""

import grpc
import pytest

from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import model_service_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAN = float("nan")


def request(output=None, **images):
    """A good GenerateRequest for an image of `digits`, changed by the keywords."""
    good = {"model": "digits", "count": 1, "seed": 1}
    if "latents" in images:
        del good["seed"]
    return pb.GenerateRequest(images=good | images, output=output)


BAD_FIELDS = {
    "count 0": (request(count=0), {"images.count"}),
    "count over the limit": (request(count=1_025), {"images.count"}),
    "class out of range": (request(class_id=10), {"images.class_id"}),
    "negative class": (request(class_id=-1), {"images.class_id"}),
    "class of unknown name": (request(class_label="ten"), {"images.class_label"}),
    "truncation below": (request(model="bounded", truncation=0.2), {"images.truncation"}),
    "truncation above": (request(model="styled", truncation=1.5), {"images.truncation"}),
    "truncation of none": (request(truncation=0.5), {"images.truncation"}),
    "latents of the wrong shape": (
        request(class_id=1, latents={"values": [0.0] * 7}),
        {"images.latents.values"},
    ),
    "unknown format": (request({"format": 17}), {"output.format"}),
    "no model": (request(model=""), {"images.model"}),
    "several": (
        request({"quality": 3}, count=0, class_id=11, truncation=NAN),
        {"images.count", "images.class_id", "images.truncation", "output.quality"},
    ),
}


async def failure(call):
    """The error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def goes_on_serving(generation):
    """The server answers, a good request."""
    answer = await generation.Generate(request())
    assert answer.batch.images[0].serial.startswith("digits@1/1/0?class=")


@pytest.mark.parametrize("name", BAD_FIELDS)
async def test_bad_field_is_named(generation, details_of, name):
    """INVALID_ARGUMENT with every violation, from Generate."""
    bad, fields = BAD_FIELDS[name]
    error = await failure(generation.Generate(bad))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = details_of(error)
    assert {each.field for each in details["BadRequest"].field_violations} == fields
    assert all(each.description for each in details["BadRequest"].field_violations)
    assert details["ErrorInfo"].reason == "INVALID_REQUEST"
    await goes_on_serving(generation)


async def test_bad_field_of_a_stream_is_named(generation, details_of):
    """StreamGenerate checks as Generate does, before the first chunk."""
    bad = pb.StreamGenerateRequest(images={"model": "digits", "class_id": 10}, chunk_size=0)
    error = await failure(generation.StreamGenerate(bad).read())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    violations = details_of(error)["BadRequest"].field_violations
    assert {each.field for each in violations} == {"images.count", "images.class_id", "chunk_size"}
    await goes_on_serving(generation)


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
async def test_unknown_is_not_found(generation, details_of, images, reason, known):
    """NOT_FOUND says which exist, whatever was typed."""
    error = await failure(generation.Generate(request(**images)))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    info = details_of(error)["ErrorInfo"]
    assert (info.reason, info.metadata["known"]) == (reason, known)
    await goes_on_serving(generation)


async def test_class_of_unconditional_model_fails(generation, details_of):
    """FAILED_PRECONDITION: no other class would be better."""
    error = await failure(generation.Generate(request(model="plain", class_id=0)))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert details_of(error)["ErrorInfo"].reason == "CLASS_UNSUPPORTED"


async def test_unknown_model_is_not_found_by_model_service(model_service, details_of):
    """GetModel too says which exist, and wants a name."""
    error = await failure(model_service.GetModel(model_service_pb2.GetModelRequest(model="x")))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert "digits" in details_of(error)["ErrorInfo"].metadata["known"]
    error = await failure(model_service.GetModel(model_service_pb2.GetModelRequest()))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "wrong", [{"page_size": -1}, {"page_token": "nobody"}], ids=lambda wrong: next(iter(wrong))
)
async def test_wrong_page_is_refused(model_service, details_of, wrong):
    """A negative size, or a token of another server."""
    error = await failure(model_service.ListModels(model_service_pb2.ListModelsRequest(**wrong)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = details_of(error)["BadRequest"].field_violations
    assert violation.field == next(iter(wrong))


@pytest.mark.parametrize(
    ("sent", "echoed"), [("order-66:a.b_c", True), ("x" * 129, False), ("two words", False)]
)
async def test_request_id_is_told(generation, details_of, sent, echoed):
    """A plain id of the caller's is his; any other is replaced by one of ours."""
    call = generation.Generate(request(count=0), metadata=(("x-request-id", sent),))
    told = details_of(await failure(call))["ErrorInfo"].metadata["request_id"]
    assert (told == sent) is echoed
    assert told
    answered = generation.Generate(request(), metadata=(("x-request-id", sent),))
    await answered
    echo = dict(await answered.trailing_metadata()).get("x-request-id")
    assert echo == (sent if echoed else None)
