"""Tests of health, reflection and metrics."""

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from imagemint.client import AsyncClient, NotFound
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import generation_service_pb2_grpc, model_service_pb2_grpc
from imagemint.v1 import model_service_pb2 as model_pb

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVICES = {
    "imagemint.v1.GenerationService",
    "imagemint.v1.ModelService",
    "imagemint.v1.TranslationService",
    "inference.GRPCInferenceService",
}
SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest_asyncio.fixture(loop_scope="module")
async def fresh_app(serve, models):
    """A server that has answered no call yet."""
    return await serve(models)


@pytest.mark.parametrize(
    "name", ["", *sorted(SERVICES), "model/digits", "model/digits/1", "model/plain"]
)
async def test_health_has_each_name(app, connect, name):
    """The server, each service, each model and each version have a status."""
    async with connect(app) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == SERVING


async def test_end_of_a_watch_is_not_logged(serve, models, connect, scrape, total, until, caplog):  # noqa: PLR0917 - fixtures
    """Each client watches health while it is connected. A line for each would hide the others."""
    caplog.set_level("INFO")
    app = await serve(models, access_log=0.0)
    async with AsyncClient(app.grpc_address) as client:
        await client.models()
        with pytest.raises(NotFound):
            await client.model("nobody")

    async def watch_has_ended():
        samples = await scrape(app.metrics_address)
        return total(samples, "imagemint_requests_total", method="Watch", code="CANCELLED") == 1

    await until(watch_has_ended)
    calls = [record for record in caplog.records if record.getMessage() == "call"]
    assert [record.method for record in calls] == ["GetModel"]


async def test_log_says_why_a_call_failed(serve, models, connect, caplog):
    """Several reasons share a status code, so the line has the reason and the caller."""
    caplog.set_level("INFO")
    app = await serve(models, access_log=1.0)
    requests = [
        {"model": "tpyo", "count": 1},
        {"model": "digits", "version": "77", "count": 1},
        {"model": "digits", "count": 1, "class_label": "x" * 5_000},
        {"model": "digits", "count": 1},
    ]
    async with connect(app) as channel:
        generation = generation_service_pb2_grpc.GenerationServiceStub(channel)
        for request in requests[:-1]:
            with pytest.raises(grpc.aio.AioRpcError):
                await generation.Generate(pb.GenerateRequest(images=request))
        await generation.Generate(pb.GenerateRequest(images=requests[-1]))
    calls = [record for record in caplog.records if record.getMessage() == "call"]
    *failed, done = (call for call in calls if call.method == "Generate")
    assert [(call.code, call.reason, call.peer) for call in failed] == [
        ("NOT_FOUND", "MODEL_NOT_FOUND", "127.0.0.1"),
        ("NOT_FOUND", "VERSION_NOT_FOUND", "127.0.0.1"),
        ("INVALID_ARGUMENT", "INVALID_REQUEST", "127.0.0.1"),
    ]
    assert failed[0].detail.startswith("no model 'tpyo'; there are ")
    assert "images.class_label" in failed[2].detail
    assert len(failed[2].detail) <= 300
    assert not hasattr(done, "peer")


async def test_health_of_an_unknown_name_is_not_found(app, connect, scrape, total, until):
    """The protocol requires NOT_FOUND, and the metrics count it."""
    async with connect(app) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service="model/nobody"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    async def counted():
        samples = await scrape(app.metrics_address)
        labels = {"service": "grpc.health.v1.Health", "code": "NOT_FOUND"}
        return total(samples, "imagemint_requests_total", **labels) == 1

    await until(counted)


@pytest.mark.parametrize("method", ["Check", "Watch"])
async def test_health_check_is_small(app, connect, method):
    """A health check needs no key, so the server keeps none that is larger than a name."""
    async with connect(app) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="model/" + "x" * 1_024)
        call = getattr(stub, method)(request)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await (call if method == "Check" else call.read())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "more than 1024" in caught.value.details()


async def list_reflected_services(connect, app):
    """Returns the services that reflection lists."""
    async with connect(app) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        answer = await call.read()
        await call.done_writing()
        return {service.name for service in answer.list_services_response.service}


async def test_reflection_lists_the_services(app, connect):
    """The list has imagemint's services, health and reflection."""
    names = await list_reflected_services(connect, app)
    assert names == SERVICES | {
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


async def test_reflection_can_be_disabled(serve, models, connect):
    """Without reflection the service does not exist."""
    app = await serve(models, reflection=False)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await list_reflected_services(connect, app)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_running_calls_are_a_metric_before_the_first(serve, models, scrape):
    """An autoscaler reads zero from a server that has answered no call yet."""
    samples = await scrape((await serve(models)).metrics_address)
    running = {
        dict(labels)["service"]: value
        for (name, labels), value in samples.items()
        if name == "imagemint_inflight_requests"
    }
    assert running == dict.fromkeys(SERVICES, 0)


async def test_calls_are_counted(fresh_app, connect, scrape, total, until):
    """Calls, images, batches and encodings are counted with their labels."""
    app = fresh_app
    png = {"format": 2}
    async with connect(app) as channel:
        generation = generation_service_pb2_grpc.GenerationServiceStub(channel)
        catalogue = model_service_pb2_grpc.ModelServiceStub(channel)
        digits = {"model": "digits", "count": 20, "class_cycle": {}}
        await generation.Generate(pb.GenerateRequest(images=digits, output=png))
        stream = generation.StreamGenerate(pb.StreamGenerateRequest(images=digits, chunk_size=6))
        assert len([chunk async for chunk in stream]) == 4
        await generation.Generate(pb.GenerateRequest(images={"model": "plain", "count": 3}))
        await catalogue.ListModels(model_pb.ListModelsRequest())
        await catalogue.GetModel(model_pb.GetModelRequest(model="plain"))

        async def all_counted():
            return total(await scrape(app.metrics_address), "imagemint_requests_total") == 5

        await until(all_counted)
        samples = await scrape(app.metrics_address)
    told = {
        tuple(dict(labels)[key] for key in ("service", "method", "model", "code")): value
        for (name, labels), value in samples.items()
        if name == "imagemint_requests_total"
    }
    generation, catalogue, *_ = sorted(SERVICES)
    assert told == {
        (generation, "Generate", "digits", "OK"): 1,
        (generation, "StreamGenerate", "digits", "OK"): 1,
        (generation, "Generate", "plain", "OK"): 1,
        (catalogue, "ListModels", "", "OK"): 1,
        (catalogue, "GetModel", "plain", "OK"): 1,
    }
    for label in "0123456789":
        labels = {"model": "digits", "version": "1", "class": label}
        assert total(samples, "imagemint_images_total", **labels) == 4
    assert total(samples, "imagemint_images_total", model="plain", **{"class": ""}) == 3
    assert total(samples, "imagemint_request_duration_seconds_count") == 5
    assert total(samples, "imagemint_queue_wait_seconds_count", model="digits") == 5
    assert total(samples, "imagemint_batch_images_sum", model="digits") == 40
    passes = total(samples, "imagemint_batch_images_count", model="digits")
    assert total(samples, "imagemint_inference_duration_seconds_count", model="digits") == passes
    assert total(samples, "imagemint_encode_duration_seconds_count", format="png") == 1
    assert total(samples, "imagemint_model_info", model="digits", version="1") == 1
    assert total(samples, "imagemint_model_load_duration_seconds", model="digits") > 0
    assert total(samples, "imagemint_inflight_requests") == 0
    assert total(samples, "imagemint_build_info") == 1


async def test_labels_are_never_text_of_callers(serve, models, connect, scrape):
    """Unknown models, versions and classes do not appear in the metrics."""
    app = await serve(models)
    async with connect(app) as channel:
        generation = generation_service_pb2_grpc.GenerationServiceStub(channel)
        catalogue = model_service_pb2_grpc.ModelServiceStub(channel)
        typed = [
            generation.Generate(pb.GenerateRequest(images={"model": "tpyo", "count": 1})),
            generation.Generate(pb.GenerateRequest(images={"model": "digits", "version": "tpyo"})),
            generation.Generate(
                pb.GenerateRequest(images={"model": "digits", "count": 1, "class_label": "tpyo"})
            ),
            catalogue.GetModel(model_pb.GetModelRequest(model="tpyo")),
            channel.unary_unary("/tpyo.Service/Tpyo")(b""),
            channel.unary_unary("/imagemint.v1.ModelService/Tpyo")(b""),
        ]
        for call in typed:
            with pytest.raises(grpc.aio.AioRpcError):
                await call
    samples = await scrape(app.metrics_address)
    assert not [sample for sample in samples if "tpyo" in str(sample).lower()]


async def test_refused_bundle_is_counted(serve, tmp_path, scrape, total):
    """An alert can use the count of refused bundles."""
    (tmp_path / "broken/1").mkdir(parents=True)
    app = await serve(tmp_path)
    samples = await scrape(app.metrics_address)
    assert total(samples, "imagemint_model_load_failures_total", model="broken") == 1
