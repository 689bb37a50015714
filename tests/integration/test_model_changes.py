"""Tests of models that are added and removed under a running server."""

import asyncio
import shutil
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from held_backend import WAIT_S
from tiny_bundles import write_bundle

from imagemint.client import AsyncClient, ModelState
from imagemint.client.errors import NotFound
from imagemint.engine.batch import Batch
from imagemint.engine.bundle import read_bundle
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.sampling import draw_classes, draw_latents
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import generation_service_pb2_grpc

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
# The tests call refresh themselves, except for one test of polling.
QUIET = {"poll_interval_s": 3_600.0}


def compute_pixels(directory, seed, first, count):
    """Returns the images of a bundle from the engine."""
    engine = OnnxBackend(read_bundle(directory), device="cpu")
    return engine.run(
        Batch(draw_latents(seed, first, count, 8), draw_classes(seed, first, count, 10))
    )


def publish_version(staging, repository, number):
    """Publishes a version by a rename, as the exporter does."""
    directory = write_bundle(staging, "tiny", number, weights_seed=number)
    (repository / "tiny").mkdir(exist_ok=True)
    return directory.rename(repository / "tiny" / str(number))


@pytest.fixture
def repository(tmp_path):
    """A repository with version 1 of `tiny`."""
    (tmp_path / "models").mkdir()
    publish_version(tmp_path / "staging", tmp_path / "models", 1)
    return tmp_path / "models"


@asynccontextmanager
async def watch_health(channel, name):
    """Watches the health status of a name."""
    call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=name))

    async def following(status):
        async with asyncio.timeout(WAIT_S):
            while (await call.read()).status != status:
                pass

    yield following
    call.cancel()


async def test_version_change_under_load_loses_no_call(serve, repository, tmp_path, connect):
    """Two versions are added under forty callers. Each response is complete and of one version."""
    expected = {1: compute_pixels(repository / "tiny/1", 7, 0, 600)}
    seen, stopped = set(), asyncio.Event()
    app = await serve(repository, version_policy="latest:1", **QUIET)

    def check(batch, first):
        version = int(batch.version)
        stop = first + len(batch.images)
        assert b"".join(batch.pictures) == expected[version][first:stop].tobytes()
        assert all(image.serial.startswith(f"tiny@{version}/") for image in batch.images)
        seen.add(version)
        return version

    async def ask(stub, first):
        while not stopped.is_set():
            images = {"model": "tiny", "count": 9, "seed": 7, "first_index": first}
            check((await stub.Generate(pb.GenerateRequest(images=images))).batch, first)
            first = (first + 40) % 590

    async def stream(stub):
        images = {"model": "tiny", "count": 300, "seed": 7}
        request = pb.StreamGenerateRequest(images=images, chunk_size=20)
        while not stopped.is_set():
            batches = [chunk.batch async for chunk in stub.StreamGenerate(request)]
            assert len(batches) == 15
            assert len({check(batch, batch.images[0].index) for batch in batches}) == 1

    async with connect(app) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        asking = [asyncio.create_task(ask(stub, number)) for number in range(40)]
        asking += [asyncio.create_task(stream(stub)) for _ in range(4)]
        for number in (1, 2, 3):
            if number > 1:
                staged = write_bundle(tmp_path / "made", "tiny", number, weights_seed=number)
                expected[number] = await asyncio.to_thread(compute_pixels, staged, 7, 0, 600)
                staged.rename(repository / f"tiny/{number}")
                await app.control.refresh()
            while number not in seen:
                done, _ = await asyncio.wait(asking, timeout=0.01)
                assert not done, [task.exception() for task in done]
        stopped.set()
        await asyncio.gather(*asking)
    assert seen == {1, 2, 3}
    assert app.repository.get_model("tiny").default_version.version == 3


async def test_stream_stays_on_its_version(serve, repository, tmp_path, connect, until):
    """A stream of version 1 continues with it while it is unloaded."""
    app = await serve(repository, version_policy="latest:1", **QUIET)
    old = app.repository.resolve("tiny")
    expected = compute_pixels(repository / "tiny/1", 7, 0, 640)
    async with connect(app) as channel, AsyncClient(app.grpc_address) as client:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        images = {"model": "tiny", "count": 2**50, "seed": 7}
        stream = stub.StreamGenerate(pb.StreamGenerateRequest(images=images, chunk_size=16))
        chunks = [await stream.read()]
        publish_version(tmp_path / "staging", repository, 2)
        await app.control.refresh()
        states = {v.version: v.state for v in (await client.model("tiny")).versions}
        assert states == {"1": ModelState.UNLOADING, "2": ModelState.READY}
        assert (await client.generate("tiny", 1)).version == "2"
        chunks += [await stream.read() for _ in range(39)]
        stream.cancel()

        async def gone():
            version, _ = (await client.model("tiny")).versions
            return (version.state, version.reason) == (
                ModelState.UNLOADED,
                "version_policy is latest:1",
            )

        await until(gone)
    assert {chunk.batch.version for chunk in chunks} == {"1"}
    got = b"".join(picture for chunk in chunks for picture in chunk.batch.pictures)
    assert got == expected.tobytes()
    assert old.backend._session is None


async def test_endless_stream_ends_after_the_grace(
    serve, repository, tmp_path, connect, details_of
):
    """It gets UNAVAILABLE between chunks. A resumed stream learns that the version is gone."""
    app = await serve(repository, version_policy="latest:1", drain_grace_s=0.05, **QUIET)
    async with connect(app) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        images = {"model": "tiny", "count": 2**50, "seed": 7}
        stream = stub.StreamGenerate(pb.StreamGenerateRequest(images=images, chunk_size=16))
        await stream.read()
        publish_version(tmp_path / "staging", repository, 2)
        await app.control.refresh()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _read_rest(stream)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert details_of(caught.value)["ErrorInfo"].reason == "MODEL_NOT_READY"
        assert caught.value.details().startswith("version 1 of model 'tiny' ")


async def _read_rest(stream):
    while chunk := await stream.read():
        assert chunk.batch.version == "1"


async def test_client_raises_if_its_stream_cannot_continue(serve, repository, tmp_path):
    """The client does not continue with the pixels of another version."""
    app = await serve(repository, version_policy="latest:1", drain_grace_s=0.05, **QUIET)
    async with AsyncClient(app.grpc_address) as client:
        chunks = client.stream("tiny", 2**50, seed=7, chunk_size=16)
        assert (await anext(chunks)).version == "1"
        publish_version(tmp_path / "staging", repository, 2)
        await app.control.refresh()
        with pytest.raises(NotFound, match="no version 1; there is 2"):
            assert {chunk.version async for chunk in chunks} == set()


async def test_invalid_bundle_changes_nothing_else(serve, repository, connect):
    """ModelService has the reason, and health and the default are unchanged."""
    app = await serve(repository, **QUIET)
    directory = write_bundle(repository, "tiny", 2, weights_seed=2)
    (directory / "model.onnx").write_bytes(b"half a file")
    await app.control.refresh()
    async with AsyncClient(app.grpc_address) as client, connect(app) as channel:
        model = await client.model("tiny")
        assert model.default_version == "1"
        assert [v.state for v in model.versions] == [ModelState.READY, ModelState.FAILED]
        assert "checksum mismatch" in model.versions[1].reason
        health = health_pb2_grpc.HealthStub(channel)
        for name, status in (("model/tiny", SERVING), ("", SERVING)):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == status
        async with watch_health(channel, "model/tiny/2") as following:
            await following(NOT_SERVING)
        assert (await client.generate("tiny", 1)).version == "1"


async def test_changed_bytes_are_refused_with_a_reason(serve, repository):
    """A serial keeps its pixels, and ModelService says what was refused."""
    app = await serve(repository, **QUIET)
    async with AsyncClient(app.grpc_address) as client:
        before = await client.generate("tiny", 4, seed=1)
        shutil.rmtree(repository / "tiny/1")
        write_bundle(repository, "tiny", 1, weights_seed=99)
        await app.control.refresh()
        after = await client.generate("tiny", 4, seed=1)
        assert after.image.tobytes() == before.image.tobytes()
        (version,) = (await client.model("tiny")).versions
        assert version.state is ModelState.READY
        assert "version 1 is immutable" in version.reason


async def test_health_and_metrics_follow_the_versions(serve, repository, tmp_path, connect, scrape):
    """The status of each version changes when it is loaded and unloaded."""
    app = await serve(repository, version_policy="latest:1", unload_when_empty=True, **QUIET)
    async with (
        connect(app) as channel,
        watch_health(channel, "model/tiny/1") as first,
        watch_health(channel, "model/tiny/2") as second,
        watch_health(channel, "model/tiny") as model,
        watch_health(channel, "") as whole,
    ):
        await first(SERVING)
        publish_version(tmp_path / "staging", repository, 2)
        await app.control.refresh()
        await second(SERVING)
        await first(NOT_SERVING)
        await model(SERVING)
        shutil.rmtree(repository / "tiny")
        await app.control.refresh()
        await second(NOT_SERVING)
        await model(NOT_SERVING)
        await whole(NOT_SERVING)
        publish_version(tmp_path / "staging", repository, 3)
        await app.control.refresh()
        await whole(SERVING)
    await asyncio.to_thread(_wait_unloaded, app)
    samples = await scrape(app.metrics_address)
    infos = [dict(labels) for (name, labels) in samples if name == "imagemint_model_info"]
    assert [(info["model"], info["version"]) for info in infos] == [("tiny", "3")]
    assert samples["imagemint_model_failed_versions", frozenset({("model", "tiny")})] == 0
    assert {dict(k[1]).get("version") for k in samples if "queue_images" in k[0]} == {"3"}


def _wait_unloaded(app):
    for thread in tuple(app.repository._lifecycle._unloading._leaving):
        thread.join(WAIT_S)


async def test_server_without_a_ready_model_is_not_serving(serve, repository, connect):
    """On a missing device the server answers with the reason and is NOT_SERVING."""
    app = await serve(repository, device="cuda", **QUIET)
    async with connect(app) as channel, AsyncClient(app.grpc_address) as client:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "imagemint.v1.GenerationService", "model/tiny"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == NOT_SERVING
        (version,) = (await client.model("tiny")).versions
        assert version.state is ModelState.FAILED
        assert "CUDA does not work" in version.reason


async def test_first_model_makes_an_empty_server_ready(serve, tmp_path, connect):
    """The server starts without models and waits for one."""
    (tmp_path / "models").mkdir()
    app = await serve(tmp_path / "models", **QUIET)
    async with connect(app) as channel, watch_health(channel, "") as following:
        await following(NOT_SERVING)
        publish_version(tmp_path / "staging", tmp_path / "models", 1)
        await app.control.refresh()
        await following(SERVING)


@pytest.mark.parametrize(
    "settings",
    [
        {"model_control": "poll", "poll_interval_s": 0.02},
        {"model_control": "watch", "poll_interval_s": 3_600.0},
    ],
    ids=["poll", "watch"],
)
async def test_new_versions_are_found_automatically(serve, repository, tmp_path, connect, settings):
    """They are found by polling or by events of the file system."""
    app = await serve(repository, **settings)
    async with connect(app) as channel, watch_health(channel, "model/tiny/9") as following:
        version = publish_version(tmp_path / "staging", repository, 9)
        if settings["model_control"] == "watch":
            # The watch may have started after the rename, so more changes follow.
            touching = asyncio.create_task(_touch(version))
        await following(SERVING)
        if settings["model_control"] == "watch":
            touching.cancel()


async def _touch(directory):
    while True:
        (directory / "card.md").touch()
        await asyncio.sleep(0.1)


async def test_model_control_none_finds_no_versions(serve, repository, tmp_path):
    """No refresh runs automatically."""
    app = await serve(repository, model_control="none", poll_interval_s=0.01)
    assert [task.get_coro().__name__ for task in app.control._tasks] == ["_keep_trying"]
    publish_version(tmp_path / "staging", repository, 2)
    async with AsyncClient(app.grpc_address) as client:
        assert [v.version for v in (await client.model("tiny")).versions] == ["1"]


async def test_pinned_version_is_the_default(serve, repository, tmp_path):
    """A newer version is available by number and is not the default."""
    publish_version(tmp_path / "staging", repository, 2)
    app = await serve(repository, default_versions={"tiny": 1}, **QUIET)
    async with AsyncClient(app.grpc_address) as client:
        assert (await client.model("tiny")).default_version == "1"
        assert (await client.generate("tiny", 1)).version == "1"
        assert (await client.generate("tiny", 1, version="2")).version == "2"


async def test_unreadable_repository_does_not_end_polling(
    serve, repository, tmp_path, connect, caplog
):
    """Loaded models serve, the error and its end are logged once, and polling continues."""
    caplog.set_level("INFO")
    app = await serve(repository, poll_interval_s=0.01)
    repository.rename(tmp_path / "away")
    async with asyncio.timeout(WAIT_S):
        while "the repository cannot be read" not in caplog.text:  # noqa: ASYNC110 - a log line
            await asyncio.sleep(0.01)
    async with connect(app) as channel, AsyncClient(app.grpc_address) as client:
        assert (await client.generate("tiny", 1)).version == "1"
        (tmp_path / "away").rename(repository)
        publish_version(tmp_path / "staging", repository, 2)
        async with watch_health(channel, "model/tiny/2") as following:
            await following(SERVING)
        async with asyncio.timeout(WAIT_S):
            while "the repository can be read again" not in caplog.text:  # noqa: ASYNC110 - a log line
                await asyncio.sleep(0.01)
    assert caplog.text.count("the repository cannot be read") == 1
    assert caplog.text.count("the repository can be read again") == 1


async def test_polling_ends_with_the_server(serve, repository):
    """No task of the polling remains."""
    app = await serve(repository, poll_interval_s=0.01)
    (task,) = app.control._tasks
    await app.control.stop()
    assert task.cancelled()
