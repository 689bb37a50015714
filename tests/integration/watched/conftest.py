"""A server under every kind of load, watched by a real Prometheus."""

import asyncio
import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from held_backend import WAIT_S, HeldBackend
from tiny_bundles import write_bundle

from imagemint.server.app import App
from imagemint.server.settings import ServeSettings
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import generation_service_pb2_grpc, image_pb2

ROOT = Path(__file__).parents[3]
# Without a proxy of the environment, and without retries that would hide what a server answers.
PLAIN = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
OURS = 'service!~"grpc[.].*"'
CONFIG = """
global: {{scrape_interval: 500ms, evaluation_interval: 500ms}}
rule_files: ['{rules}']
scrape_configs:
  - job_name: imagemint
    static_configs: [{{targets: ['{target}']}}]
"""


class Prometheus:
    """A Prometheus that runs; what it says by its HTTP API."""

    def __init__(self, address):
        self._base = f"http://{address}"

    def get(self, path, **parameters):
        """The `data` of an answer."""
        url = f"{self._base}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with DIRECT.open(url, timeout=WAIT_S) as answer:
            said = json.load(answer)
        assert said["status"] == "success", said
        return said["data"]

    def query(self, expression):
        """The vector that an expression has now."""
        data = self.get("query", query=expression)
        assert data["resultType"] == "vector", expression
        return data["result"]

    def values(self, expression):
        """The numbers of that vector."""
        return [float(each["value"][1]) for each in self.query(expression)]

    def is_ready(self):
        """Whether it answers queries."""
        try:
            with DIRECT.open(f"{self._base}/-/ready", timeout=WAIT_S) as answer:
                return answer.status == 200
        except OSError:
            return False


def wait_until(condition):
    """Asks again until it is so: another process announces nothing."""
    given_up = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < given_up, "waited in vain"
        time.sleep(0.05)


def _free_address():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def _prometheus(directory, target):
    config = directory / "prometheus.yml"
    rules = ROOT / "deploy/prometheus/alerts.yml"
    config.write_text(CONFIG.format(rules=rules, target=target))
    address = _free_address()
    command = ["prometheus", f"--config.file={config}", f"--web.listen-address={address}"]
    command += [f"--storage.tsdb.path={directory / 'data'}", "--log.level=warn"]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    prometheus = Prometheus(address)
    try:
        wait_until(lambda: process.poll() is not None or prometheus.is_ready())
        assert process.poll() is None, (directory / "log").read_text()
        yield prometheus
    finally:
        process.terminate()
        process.wait(WAIT_S)


class _HeldApp(App):
    """A server whose only model computes when the load lets it."""

    def _open_backend(self, bundle):
        self.backend = HeldBackend(super()._open_backend(bundle).run)
        return self.backend


class _Load:
    """Calls of every kind and outcome; every one that has ended is in `calls`."""

    def __init__(self, app, channel):
        self._registry = app.metrics.registry
        self._backend = app.backend
        self._stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        self._under_way = []
        self.calls = 0

    def _generate(self, count, model="tiny", picture_format=image_pb2.IMAGE_FORMAT_RAW, **options):
        request = pb.GenerateRequest(output=image_pb2.OutputSpec(format=picture_format))
        request.images.model, request.images.count, request.images.seed = model, count, 1
        return self._stub.Generate(request, **options)

    async def _expect(self, code, call):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        assert raised.value.code() is code
        self.calls += 1

    async def free(self):
        """Answers, a stream, and the failures that need no company."""
        for picture_format in (image_pb2.IMAGE_FORMAT_RAW, image_pb2.IMAGE_FORMAT_PNG):
            for count in (1, 3, 20):
                await self._generate(count, picture_format=picture_format)
                self.calls += 1
        request = pb.StreamGenerateRequest(chunk_size=5)
        request.images.model, request.images.count, request.images.seed = "tiny", 15, 1
        assert len([chunk async for chunk in self._stub.StreamGenerate(request)]) == 3
        self.calls += 1
        await self._expect(grpc.StatusCode.NOT_FOUND, self._generate(1, "nobody"))
        await self._expect(grpc.StatusCode.INVALID_ARGUMENT, self._generate(0))
        self._backend.failure = RuntimeError("for once")
        await self._expect(grpc.StatusCode.INTERNAL, self._generate(1))
        self._backend.failure = None

    async def full(self):
        """From now on the one instance is busy and the queue full: 8 images and 20."""
        self._backend.hold()
        batches = len(self._backend.batches)
        self._under_way.append(asyncio.create_task(_answer(self._generate(8))))
        await _until(lambda: len(self._backend.batches) > batches)
        await self._expect(grpc.StatusCode.DEADLINE_EXCEEDED, self._generate(4, timeout=0.2))
        await _until(lambda: self._queued() == 0)
        self._under_way.append(asyncio.create_task(_answer(self._generate(20))))
        await _until(lambda: self._queued() == 20)

    def _queued(self):
        labels = {"model": "tiny", "version": "1"}
        return self._registry.get_sample_value("imagemint_queue_images", labels)

    async def refused(self):
        """One call for which there is no room."""
        await self._expect(grpc.StatusCode.RESOURCE_EXHAUSTED, self._generate(20))

    async def end(self):
        """Lets what waits have its answers."""
        self._backend.release()
        await asyncio.gather(*self._under_way)


async def _answer(call):
    return await call


async def _until(condition):
    await asyncio.to_thread(wait_until, condition)


@pytest.fixture(scope="session")
def eventually():
    """Waits for what another process will do."""
    return wait_until


@pytest.fixture(scope="session")
def promtool():
    """The path of promtool, which Debian's package prometheus brings."""
    return _program("promtool")


def _program(name):
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs the program {name}; on Debian: apt-get install prometheus")
    return found


def _repository(directory):
    write_bundle(directory, "tiny")
    broken = directory / "tiny/2"
    broken.mkdir()
    (broken / "model.onnx").write_bytes(b"not a model")
    return directory


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched(tmp_path_factory):
    """A Prometheus that has seen a server at work, and sees it now with its queue full."""
    _program("prometheus")
    settings = ServeSettings(
        repository=_repository(tmp_path_factory.mktemp("models")),
        grpc_address="127.0.0.1:0",
        metrics_address="127.0.0.1:0",
        instances=1,
        max_batch_images=8,
        max_images_per_request=20,
        max_queue_images=20,
    )
    app = _HeldApp(settings)
    await app.start()
    directory = tmp_path_factory.mktemp("prometheus")
    try:
        with _prometheus(directory, app.metrics_address) as prometheus:
            async with grpc.aio.insecure_channel(app.grpc_address, options=PLAIN) as channel:
                load = _Load(app, channel)

                async def scraped():
                    total = f"sum(imagemint_requests_total{{{OURS}}})"
                    await _until(lambda: sum(prometheus.values(total)) == load.calls)

                # Twice, and scraped in between: a rate needs a counter that was seen to grow.
                await load.free()
                await scraped()
                await load.free()
                await load.full()
                await load.refused()
                await scraped()
                await load.refused()
                await scraped()
                yield prometheus
                await load.end()
    finally:
        app.backend.release()
        await app.stop()
