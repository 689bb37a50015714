"""Fixtures: real servers on loopback, in this process and its loop, over tiny real bundles."""

import asyncio
import functools
import urllib.request
from contextlib import asynccontextmanager

import grpc
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2, status_pb2
from held_backend import WAIT_S, HeldBackend
from prometheus_client.parser import text_string_to_metric_families
from server_process import server_logs
from tiny_bundles import write_each_kind

from imagemint.client import AsyncClient
from imagemint.engine.bundle import read_bundle
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.server.app import App
from imagemint.server.settings import ServeSettings
from imagemint.v1 import generation_service_pb2_grpc, model_service_pb2_grpc

ANYWHERE = {"grpc_address": "127.0.0.1:0", "metrics_address": "127.0.0.1:0"}
# without a proxy of the environment, and without retries that would hide responses
PLAIN = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
DETAILS = (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo)
# One event loop per module lets its tests share a server. Each module declares it.
on_module_loop = functools.partial(pytest_asyncio.fixture, loop_scope="module")


class HeldApp(App):
    """A server whose models compute when the test permits it."""

    def __init__(self, settings):
        super().__init__(settings)
        self.backends = {}

    def _open_backend(self, bundle):
        backend = HeldBackend(super()._open_backend(bundle).run)
        self.backends[bundle.spec.name] = backend
        return backend


@pytest.fixture(scope="session", autouse=True)
def _redirect_logs():
    """Redirects the server's log lines to pytest."""
    with server_logs():
        yield


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A repository with one model of each kind. The model `digits` has classes."""
    directory = tmp_path_factory.mktemp("models")
    write_each_kind(directory)
    return directory


@pytest.fixture(scope="session")
def engines(models):
    """The engine of each model, to compare with: without a server, one image at a time."""
    return {
        path.name: OnnxBackend(read_bundle(path / "1"), device="cpu") for path in models.iterdir()
    }


@on_module_loop
async def serve():
    """A function that starts servers. They are stopped at the end of the test."""
    running = []

    async def start(repository, kind=App, **settings):
        settings = ANYWHERE | {"drain_grace_s": 10.0} | settings
        app = kind(ServeSettings(repository=repository, **settings))
        await app.start()
        running.append(app)
        return app

    yield start
    for app in running:
        for backend in getattr(app, "backends", {}).values():
            backend.release()
        await app.stop()


@on_module_loop(scope="module")
async def app(models):
    """A server over `models` for tests of one module."""
    app = App(ServeSettings(repository=models, **ANYWHERE))
    await app.start()
    yield app
    await app.stop()


@on_module_loop
async def held(serve, models, tmp_path):
    """A server with one held instance of `digits`, batches of 8 and a queue of 20."""
    (tmp_path / "one").mkdir()
    (tmp_path / "one/digits").symlink_to(models / "digits")
    sizes = {"instances": 1, "max_batch_images": 8, "max_queue_images": 20}
    app = await serve(tmp_path / "one", HeldApp, max_images_per_request=20, **sizes)
    backend = app.backends["digits"]
    await backend.begun()  # the warm-up
    backend.batches.clear()
    backend.hold()
    return app


@pytest.fixture(scope="session")
def held_kind():
    """The class of the app of `held`, for servers with other settings."""
    return HeldApp


@pytest.fixture(scope="session")
def connect():
    """A function that opens a plain channel to a server for a block."""

    @asynccontextmanager
    async def connected(app):
        async with grpc.aio.insecure_channel(app.grpc_address, options=PLAIN) as channel:
            yield channel

    return connected


@on_module_loop(scope="module")
async def client(app):
    """The public client of `app`."""
    async with AsyncClient(app.grpc_address) as client:
        yield client


@on_module_loop(scope="module")
async def generation(app, connect):
    """The stub of GenerationService."""
    async with connect(app) as channel:
        yield generation_service_pb2_grpc.GenerationServiceStub(channel)


@on_module_loop(scope="module")
async def model_service(app, connect):
    """The stub of ModelService."""
    async with connect(app) as channel:
        yield model_service_pb2_grpc.ModelServiceStub(channel)


@pytest.fixture(scope="session")
def details_of():
    """A function that returns the google.rpc details of a failed call by message name."""

    def read(error):
        metadata = dict(error.trailing_metadata())
        status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
        assert status.code == error.code().value[0]
        found = {}
        for packed in status.details:
            for kind in DETAILS:
                message = kind()
                if packed.Unpack(message):
                    found[kind.__name__] = message
        return found

    return read


@pytest.fixture(scope="session")
def scrape():
    """A function that reads /metrics of an address: {(name, label items): value}."""

    def read(address):
        with DIRECT.open(f"http://{address}/metrics", timeout=WAIT_S) as answer:
            text = answer.read().decode()
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    async def scraped(address):
        return await asyncio.to_thread(read, address)

    return scraped


@pytest.fixture(scope="session")
def total():
    """A function that adds up the samples of a name with at least these labels."""

    def add(samples, name, **labels):
        wanted = set(labels.items())
        return sum(
            value for (each, have), value in samples.items() if each == name and wanted <= have
        )

    return add


@pytest.fixture
def until():
    """A function that polls until a condition holds, for effects that only a metric shows."""

    async def wait(condition):
        async with asyncio.timeout(WAIT_S):
            while not await condition():  # noqa: ASYNC110 - another thread or process, no event
                await asyncio.sleep(0.01)

    return wait
