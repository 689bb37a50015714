"""Fixtures: a server under every kind of load, scraped by a real Prometheus."""

import asyncio
import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
import yaml
from free_ports import find_free_port
from held_backend import WAIT_S, HeldBackend
from tiny_bundles import write_bundle

from imagemint.server.app import App
from imagemint.server.settings import ServeSettings
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import generation_service_pb2_grpc, image_pb2

ROOT = Path(__file__).parents[3]
# without a proxy of the environment, and without retries that would hide responses
PLAIN = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
OURS = 'service!~"grpc[.].*"'
MONITOR = ROOT / "deploy/kubernetes/components/monitoring/service-monitor.yaml"
# What the Prometheus Operator sets on each target, beside `job` and `instance`.
OPERATOR_LABELS = {
    "namespace": "imagemint",
    "service": "imagemint-headless",
    "pod": "imagemint-0",
    "container": "server",
    "endpoint": "metrics",
}


class Prometheus:
    """A running Prometheus and its HTTP API."""

    def __init__(self, address):
        self._base = f"http://{address}"

    def get(self, path, **parameters):
        """Returns the `data` of a response."""
        url = f"{self._base}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with DIRECT.open(url, timeout=WAIT_S) as answer:
            said = json.load(answer)
        assert said["status"] == "success", said
        return said["data"]

    def query(self, expression):
        """Returns the current vector of an expression."""
        data = self.get("query", query=expression)
        assert data["resultType"] == "vector", expression
        return data["result"]

    def values(self, expression):
        """Returns the numbers of that vector."""
        return [float(each["value"][1]) for each in self.query(expression)]

    def is_ready(self):
        """Returns whether it answers queries."""
        try:
            with DIRECT.open(f"{self._base}/-/ready", timeout=WAIT_S) as answer:
                return answer.status == 200
        except OSError:
            return False


def wait_until(condition):
    """Polls until the condition holds, because another process sends no event."""
    given_up = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < given_up, "waited in vain"
        time.sleep(0.05)


def _configure(target):
    """Returns the configuration that the operator makes of the ServiceMonitor for one target."""
    (endpoint,) = yaml.safe_load(MONITOR.read_text())["spec"]["endpoints"]
    assert all(set(rule) == {"action", "regex"} for rule in endpoint["relabelings"])
    job = {
        "job_name": "imagemint",
        "static_configs": [{"targets": [target], "labels": OPERATOR_LABELS}],
        "relabel_configs": endpoint["relabelings"],
    }
    return {
        "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
        "rule_files": [str(ROOT / "deploy/prometheus/alerts.yml")],
        "scrape_configs": [job],
    }


@contextmanager
def _run_prometheus(directory, target):
    config = directory / "prometheus.yml"
    config.write_text(yaml.safe_dump(_configure(target)))
    address = f"127.0.0.1:{find_free_port()}"
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
    """A server whose only model computes when the load permits it."""

    def _open_backend(self, bundle):
        self.backend = HeldBackend(super()._open_backend(bundle).run)
        return self.backend


class _Load:
    """Calls of every kind and outcome. Attribute `calls` counts those that have ended."""

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

    async def make_calls(self):
        """Makes successful calls, a stream, and failures that need no other calls."""
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

    async def fill_queue(self):
        """Occupies the only instance with 8 images and fills the queue with 20."""
        self._backend.hold()
        batches = len(self._backend.batches)
        self._under_way.append(asyncio.create_task(_await_call(self._generate(8))))
        await _wait_until(lambda: len(self._backend.batches) > batches)
        # Long enough to reach the queue on a busy machine: the server must count the call.
        await self._expect(grpc.StatusCode.DEADLINE_EXCEEDED, self._generate(4, timeout=1.0))
        await _wait_until(lambda: self._queued() == 0)
        self._under_way.append(asyncio.create_task(_await_call(self._generate(20))))
        await _wait_until(lambda: self._queued() == 20)

    def _queued(self):
        labels = {"model": "tiny", "version": "1"}
        return self._registry.get_sample_value("imagemint_queue_images", labels)

    async def make_refused_call(self):
        """Makes a call that does not fit in the queue."""
        await self._expect(grpc.StatusCode.RESOURCE_EXHAUSTED, self._generate(20))

    async def end(self):
        """Lets the waiting calls finish."""
        self._backend.release()
        await asyncio.gather(*self._under_way)


async def _await_call(call):
    return await call


async def _wait_until(condition):
    await asyncio.to_thread(wait_until, condition)


@pytest.fixture(scope="session")
def eventually():
    """A function that waits for an effect in another process."""
    return wait_until


@pytest.fixture(scope="session")
def promtool():
    """The path of promtool, which is part of Debian's package prometheus."""
    return _find_program("promtool")


def _find_program(name):
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs the program {name}; on Debian: apt-get install prometheus")
    return found


def _write_repository(directory):
    write_bundle(directory, "tiny")
    broken = directory / "tiny/2"
    broken.mkdir()
    (broken / "model.onnx").write_bytes(b"not a model")
    return directory


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched(tmp_path_factory):
    """A Prometheus that has scraped a working server, whose queue is now full."""
    _find_program("prometheus")
    settings = ServeSettings(
        repository=_write_repository(tmp_path_factory.mktemp("models")),
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
        with _run_prometheus(directory, app.metrics_address) as prometheus:
            async with grpc.aio.insecure_channel(app.grpc_address, options=PLAIN) as channel:
                load = _Load(app, channel)

                async def scraped():
                    total = f"sum(imagemint_requests_total{{{OURS}}})"
                    await _wait_until(lambda: sum(prometheus.values(total)) == load.calls)

                # The calls are made twice with a scrape between them, because a rate needs an
                # increase.
                await load.make_calls()
                await scraped()
                await load.make_calls()
                await load.fill_queue()
                await load.make_refused_call()
                await scraped()
                await load.make_refused_call()
                await scraped()
                yield prometheus
                await load.end()
    finally:
        app.backend.release()
        await app.stop()
