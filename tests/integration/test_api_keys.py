"""Tests of API keys over gRPC: access, models, quotas and secrecy."""

import asyncio
import logging
import urllib.request

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from imagemint.client import (
    AsyncClient,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    QueueFull,
    Unauthenticated,
)
from imagemint.open_inference import grpc_service_pb2, grpc_service_pb2_grpc
from imagemint.server.access.api_keys import compute_digest
from imagemint.server.settings import ServeSettings
from imagemint.server.telemetry.logs import log_settings
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import generation_service_pb2_grpc

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEYS = {name: f"imk_{name:k<43}" for name in ("all", "digits", "slow", "one", "gone")}
FILE = f"""
[[key]]
name = "all"
sha256 = "{compute_digest(KEYS["all"])}"

[[key]]
name = "digits"
sha256 = "{compute_digest(KEYS["digits"])}"
models = ["digits", "absent"]

[[key]]
name = "slow"
sha256 = "{compute_digest(KEYS["slow"])}"
rate_images_per_s = 100
burst_images = 20

[[key]]
name = "one"
sha256 = "{compute_digest(KEYS["one"])}"
max_concurrent_calls = 1
"""
GONE = f"""
[[key]]
name = "gone"
sha256 = "{compute_digest(KEYS["gone"])}"
rate_images_per_s = 1000
"""


def make_client(app, name, **options):
    """Returns a public client with a key."""
    metadata = [("authorization", f"Bearer {KEYS[name]}")]
    return AsyncClient(app.grpc_address, metadata=metadata, **options)


@pytest.fixture
def keys(tmp_path):
    """The key file."""
    path = tmp_path / "keys.toml"
    path.write_text(FILE + GONE)
    return path


@pytest.fixture
def locked(serve, models, keys):
    """A function that starts a server that requires keys."""

    def start(**settings):
        return serve(models, api_keys=keys, **settings)

    return start


async def test_key_is_required(locked):
    """The key is a bearer token or x-api-key. Missing, wrong, duplicate and damaged keys fail."""
    app = await locked()
    for metadata in (
        [("authorization", f"Bearer {KEYS['all']}")],
        [("authorization", f"bearer  {KEYS['all']} ")],
        [("x-api-key", KEYS["all"])],
        [("x-api-key", KEYS["all"]), ("authorization", f"Bearer {KEYS['all']}")],
    ):
        async with AsyncClient(app.grpc_address, metadata=metadata) as client:
            assert len(await client.generate("digits", 1)) == 1
    for metadata in (
        [],
        [("authorization", "Bearer wrong")],
        [("authorization", "Bearer ")],
        [("authorization", KEYS["all"])],
        [("authorization", f"Basic {KEYS['all']}")],
        [("x-api-key", KEYS["all"]), ("x-api-key", KEYS["digits"])],
        [("x-api-key-bin", KEYS["all"].encode())],
        [("x-api-key", compute_digest(KEYS["all"]))],
    ):
        async with AsyncClient(app.grpc_address, metadata=metadata) as client:
            for call in (client.generate("digits", 1), client.models(), client.model("digits")):
                with pytest.raises(Unauthenticated) as caught:
                    await call
                assert caught.value.reason == "UNAUTHENTICATED"
                assert caught.value.request_id


@pytest.mark.parametrize("scheme", ["", "Basic "])
async def test_key_without_bearer_is_explained(locked, scheme):
    """The message does not say that a key is missing, and has nothing of the key."""
    app = await locked()
    metadata = [("authorization", scheme + KEYS["all"])]
    async with AsyncClient(app.grpc_address, metadata=metadata) as client:
        with pytest.raises(Unauthenticated, match="another form than `Bearer KEY`") as caught:
            await client.models()
        assert KEYS["all"] not in str(caught.value)


async def test_stream_requires_a_key(locked):
    """A stream is refused before its first chunk."""
    app = await locked()
    async with AsyncClient(app.grpc_address) as client:
        with pytest.raises(Unauthenticated):
            await anext(client.stream("digits", 10))


async def test_health_needs_no_key_and_reflection_does(locked, connect):
    """Load balancers have no key. Reflection requires one."""
    app = await locked()
    async with connect(app) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service="model/digits"))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        tensors = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert (await tensors.ServerReady(grpc_service_pb2.ServerReadyRequest())).ready
        assert (await tensors.ServerLive(grpc_service_pb2.ServerLiveRequest())).live
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await tensors.ModelReady(grpc_service_pb2.ModelReadyRequest(name="digits"))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(aiter(reflection.ServerReflectionInfo(iter([question]))))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        metadata = (("x-api-key", KEYS["digits"]),)
        answers = reflection.ServerReflectionInfo(iter([question]), metadata=metadata)
        assert (await anext(aiter(answers))).list_services_response.service
        answers.cancel()


async def test_only_allowed_models_are_visible(locked, connect):
    """A model of others is refused whether it exists or not, and is not listed."""
    app = await locked()
    async with make_client(app, "digits") as client:
        assert [model.name for model in await client.models()] == ["digits"]
        assert len(await client.generate("digits", 1)) == 1
        for name in ("plain", "never-was"):
            for call in (
                client.generate(name, 1),
                client.model(name),
                anext(client.stream(name, 1)),
            ):
                with pytest.raises(PermissionDenied) as caught:
                    await call
                assert caught.value.metadata["client"] == "digits"
        with pytest.raises(NotFound) as caught:
            await client.generate("absent", 1)
        assert "plain" not in str(caught.value)
        assert caught.value.metadata["known"] == "digits"
        with pytest.raises(InvalidRequest):
            await client.generate("", 1)
    async with make_client(app, "all") as client:
        names = {model.name for model in await client.models()}
        assert names == {"bounded", "digits", "people", "plain", "styled"}


async def test_only_allowed_models_are_visible_as_tensors(locked, connect):
    """The Open Inference Protocol, with its streams, has the same rules."""
    app = await locked()
    metadata = (("x-api-key", KEYS["digits"]),)
    async with connect(app) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        index = await stub.RepositoryIndex(
            grpc_service_pb2.RepositoryIndexRequest(), metadata=metadata
        )
        assert {model.name for model in index.models} == {"digits"}
        told = await stub.ModelStatistics(
            grpc_service_pb2.ModelStatisticsRequest(), metadata=metadata
        )
        assert {model.name for model in told.model_stats} == {"digits"}
        infer = grpc_service_pb2.ModelInferRequest(model_name="plain")
        for call in (
            stub.ModelInfer(infer, metadata=metadata),
            stub.ModelReady(grpc_service_pb2.ModelReadyRequest(name="plain"), metadata=metadata),
            stub.ModelMetadata(
                grpc_service_pb2.ModelMetadataRequest(name="plain"), metadata=metadata
            ),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        absent = grpc_service_pb2.ModelInferRequest(model_name="absent")
        answers = stub.ModelStreamInfer(iter([infer, absent]), metadata=metadata)
        refused, unknown = [answer.error_message async for answer in answers]
        assert "may not use this model" in refused
        assert "plain" not in unknown


async def test_refused_call_gets_the_exact_delay(locked, details_of, connect, scrape, total):
    """A call over its rate is refused with the delay after which it succeeds."""
    app = await locked()
    metadata = (("x-api-key", KEYS["slow"]),)
    request = pb.GenerateRequest(images={"model": "digits", "count": 20})
    async with connect(app) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        answered = 0

        async def ask_until_refused():  # the second call, unless images are available again by then
            nonlocal answered
            while True:
                await stub.Generate(request, metadata=metadata)
                answered += 1

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask_until_refused()
        assert answered
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        details = details_of(caught.value)
        assert details["ErrorInfo"].reason == "RATE_LIMITED"
        delay_s = details["RetryInfo"].retry_delay.ToNanoseconds() / 1e9
        assert 0 < delay_s <= 0.2
        await asyncio.sleep(delay_s + 0.001)
        await stub.Generate(request, metadata=metadata)
        other = (("x-api-key", KEYS["all"]),)
        await stub.Generate(request, metadata=other)
    samples = await scrape(app.metrics_address)
    told = {"client": "slow", "model": "digits"}
    assert total(samples, "imagemint_client_images_total", **told) == 20 * (answered + 1)
    assert total(samples, "imagemint_rejected_total", model="digits", reason="rate_limited") == 1


async def test_client_retries_calls_over_the_rate(locked):
    """The client waits for the pushback, so calls over the rate succeed later."""
    app = await locked()
    loop = asyncio.get_running_loop()
    async with make_client(app, "slow") as client:
        began = loop.time()
        for _ in range(3):
            assert len(await client.generate("digits", 20)) == 20
        # 60 images at 100 per second, of which 20 are available at once
        assert loop.time() - began >= 0.39


async def test_call_over_the_rate_fails_at_once_without_time_for_a_retry(locked, scrape, total):
    """The caller gets QueueFull with the delay, and not only DeadlineExceeded, much later."""
    app = await locked()
    async with make_client(app, "slow") as client:
        stream = client.stream("digits", 1_000_000, chunk_size=1024)
        assert len(await anext(stream)) == 1024  # and now ten seconds of debt
        await stream.aclose()
        with pytest.raises(QueueFull) as caught:
            await client.generate("digits", timeout_s=3)
    assert caught.value.reason == "RATE_LIMITED"
    assert caught.value.retry_delay_s > 3
    samples = await scrape(app.metrics_address)
    assert total(samples, "imagemint_rejected_total", model="digits", reason="rate_limited") == 1


async def test_stream_is_slowed_to_its_rate(locked, scrape, total):
    """It gets every image in chunks at the rate and is never refused."""
    app = await locked()
    loop = asyncio.get_running_loop()
    async with make_client(app, "slow") as client:
        began = loop.time()
        sizes = [len(chunk) async for chunk in client.stream("digits", 80, seed=1)]
        assert sum(sizes) == 80
        assert max(sizes) == 10  # half of a burst, which streams may use
        assert loop.time() - began >= 0.59
    samples = await scrape(app.metrics_address)
    assert total(samples, "imagemint_rejected_total") == 0
    assert total(samples, "imagemint_client_images_total", client="slow") == 80


async def test_waiting_stream_can_be_cancelled(locked, until, scrape, total):
    """A caller that leaves while its rate delays it leaves nothing behind."""
    app = await locked()
    async with make_client(app, "slow") as client:
        stream = client.stream("digits", 1_000_000, chunk_size=1024)
        assert len(await anext(stream)) == 1024  # and now ten seconds of debt
        await stream.aclose()

    async def left():
        samples = await scrape(app.metrics_address)
        service = "imagemint.v1.GenerationService"
        return total(samples, "imagemint_inflight_requests", service=service) == 0

    await until(left)


async def test_calls_of_a_key_are_limited(  # noqa: PLR0917 - fixtures
    locked, details_of, connect, until, scrape, total
):
    """A further call is refused until one has ended, and counted apart from the server's limit."""
    app = await locked()
    metadata = (("x-api-key", KEYS["one"]),)
    endless = pb.StreamGenerateRequest(images={"model": "digits", "count": 10**9})
    single = pb.GenerateRequest(images={"model": "digits", "count": 1})
    async with connect(app) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        stream = stub.StreamGenerate(endless, metadata=metadata)
        await stream.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Generate(single, metadata=metadata)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        details = details_of(caught.value)
        assert details["ErrorInfo"].reason == "TOO_MANY_CALLS"
        assert details["RetryInfo"].retry_delay.ToNanoseconds() > 0
        samples = await scrape(app.metrics_address)
        for reason, expected in ("too_many_calls_of_caller", 1), ("too_many_calls", 0):
            assert total(samples, "imagemint_rejected_total", reason=reason) == expected
        await stub.Generate(single, metadata=(("x-api-key", KEYS["all"]),))
        stream.cancel()

        async def answered():
            try:
                await stub.Generate(single, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                return error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED
            return True

        await until(answered)


async def test_removed_key_ends_its_stream(locked, keys, scrape, total):
    """A key that is removed from the file is refused within seconds, also in running streams."""
    app = await locked()
    async with make_client(app, "gone") as client:
        assert len(await client.generate("digits", 1)) == 1
        stream = client.stream("digits", 10**9)
        await anext(stream)
        keys.write_text(FILE)
        with pytest.raises(Unauthenticated):  # noqa: PT012 - at one of the next chunks
            while True:
                await anext(stream)
        with pytest.raises(Unauthenticated):
            await client.models()
    async with make_client(app, "all") as client:
        assert await client.models()
    samples = await scrape(app.metrics_address)
    labels = {"what": "api_keys", "outcome": "ok"}
    assert total(samples, "imagemint_reloads_total", **labels) == 1
    assert total(samples, "imagemint_file_refused", what="api_keys") == 0


async def test_refused_file_is_a_metric(locked, keys, scrape, total, until):
    """An alert needs it: the counter of reloads begins with 1, which is no increase."""
    app = await locked()

    async def is_refused():
        samples = await scrape(app.metrics_address)
        return total(samples, "imagemint_file_refused", what="api_keys") == 1

    assert not await is_refused()
    keys.write_text("[[key")
    await until(is_refused)


async def test_secrets_are_never_revealed(locked, caplog, connect, keys):
    """Logs, metrics, errors and settings have no key, no wrong key and no digest."""
    caplog.set_level(logging.DEBUG)
    app = await locked(access_log=1.0)
    log_settings(ServeSettings(api_keys=keys))
    secrets = [*KEYS.values(), "imk_wrong", *map(compute_digest, KEYS.values())]
    told = []
    for name in ("all", "digits", "slow"):
        async with make_client(app, name) as client:
            for call in (client.generate("plain", 20), client.generate("plain", 20)):
                try:
                    await call
                except (PermissionDenied, QueueFull) as error:
                    told.append(repr(vars(error)) + str(error) + repr(error.__cause__))
    async with AsyncClient(app.grpc_address, metadata=[("x-api-key", "imk_wrong")]) as client:
        with pytest.raises(Unauthenticated) as caught:
            await client.models()
        told.append(repr(vars(caught.value)) + repr(caught.value.__cause__))
    address = f"http://{app.metrics_address}/metrics"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    answer = await asyncio.to_thread(direct.open, address)
    with answer:
        told.append(answer.read().decode())
    told += [repr(vars(record)) for record in caplog.records]
    assert len(told) > 6
    assert any("keys.toml" in each for each in told)  # including the settings
    assert any("'client': 'digits'" in each for each in told)  # and the access log
    assert not [secret for secret in secrets if any(secret in each for each in told)]
