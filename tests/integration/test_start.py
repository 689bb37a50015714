"""Tests of the start of a server with slow, expensive or unreadable bundles."""

import asyncio
import json
import os
import signal

import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from held_backend import WAIT_S
from hostile_graphs import folding
from server_process import ended, line_of, process
from tiny_bundles import write_bundle

from imagemint.client import AsyncClient, ModelState
from imagemint.engine.trial.trials import Trials
from imagemint.open_inference import grpc_service_pb2 as oip
from imagemint.open_inference import grpc_service_pb2_grpc as oip_grpc
from imagemint.server.app import App
from imagemint.server.peers import Peers
from imagemint.server.repository import loading
from imagemint.server.settings import ServeSettings

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("processes", [1, 2])
async def test_slow_bundle_does_not_delay_others(tmp_path, processes):
    """Ready models serve while slow ones are LOADING. SIGTERM works meanwhile."""
    write_bundle(tmp_path, "good")
    for name in ("a-slow", "b-slow", "c-slow"):
        write_bundle(tmp_path, name, edit_model=folding(20_000, 1))
    options = (f"--repository={tmp_path}", f"--processes={processes}", "--start-timeout-s=0.5")
    async with process(*options) as server:
        ready = await line_of(server, "ready")
        async with AsyncClient(ready["grpc_address"]) as client:
            assert len(await client.generate("good", 2)) == 2
            states = {m.name: m.versions[0].state for m in await client.models()}
        slow = dict.fromkeys(("a-slow", "b-slow", "c-slow"), ModelState.LOADING)
        assert states == {"good": ModelState.READY, **slow}
        server.send_signal(signal.SIGTERM)
        assert await ended(server) == 0


async def test_workers_share_the_trial_of_a_bundle(tmp_path, monkeypatch):
    """Two workers of a server serve a bundle after a single trial; a server alone runs its own."""
    monkeypatch.setattr(loading, "is_plain", lambda _: False)
    write_bundle(tmp_path / "models")
    tried, run = [], Trials.run

    def count(self, directory, *options):
        tried.append(directory)
        return run(self, directory, *options)

    monkeypatch.setattr(Trials, "run", count)

    async def serve(peers, expected):
        app = App(ServeSettings(repository=str(tmp_path / "models")), peers)
        await asyncio.to_thread(app.repository.load)
        assert app.repository.resolve("tiny").version == 1
        await asyncio.to_thread(app.repository.close)
        assert len(tried) == expected

    for number in range(2):
        peers = Peers(number)
        peers.shared_log = tmp_path / "log"
        await serve(peers, 1)
    await serve(Peers(), 2)


@pytest.mark.parametrize("processes", [1, 2])
async def test_sigterm_during_the_start_stops_the_server(tmp_path, processes):
    """The start ends at once with status 0."""
    write_bundle(tmp_path, "good")
    write_bundle(tmp_path, "slow", edit_model=folding(20_000, 1))
    options = (f"--repository={tmp_path}", f"--processes={processes}", "--start-timeout-s=3600")
    async with process(*options) as server:
        async with asyncio.timeout(WAIT_S):
            while "serving good@1" not in json.loads(await server.stderr.readline())["event"]:
                pass
        server.send_signal(signal.SIGTERM)
        async with asyncio.timeout(WAIT_S):
            _, rest = await server.communicate()
        events = [json.loads(line)["event"] for line in rest.splitlines()]
        assert server.returncode == 0
        assert events[-1] == "stopped"
        assert not {"ready", "health says SERVING"}.intersection(events)


@pytest.mark.parametrize("processes", [1, 2])
async def test_absent_models_of_settings_are_told(tmp_path, processes):
    """A pin of a misspelt model pins nothing; the log says so before `ready`."""
    write_bundle(tmp_path, "good")
    options = ("--default-versions=goood=1", "--variants=good=reference,bad=auto")
    async with process(f"--repository={tmp_path}", f"--processes={processes}", *options) as server:
        told = await line_of(server, "settings name models that are not in the repository")
        await line_of(server, "ready")
    assert (told["default_versions"], told["variants"]) == (["goood"], ["bad"])
    assert told["level"] == "warning"
    assert "version_policies" not in told


@pytest.mark.parametrize("processes", [1, 2])
async def test_open_server_is_told(tmp_path, processes):
    """The log warns once, before the server listens; on loopback it does not."""
    write_bundle(tmp_path, "good")
    options = (f"--repository={tmp_path}", f"--processes={processes}")
    event = "everybody who reaches these addresses can use the server"
    for address, told in (("0.0.0.0:0", [["0.0.0.0:0"]]), ("127.0.0.1:0", [])):
        async with process(*options, f"--http-address={address}") as server:
            lines = [json.loads(await server.stderr.readline())]
            async with asyncio.timeout(WAIT_S):
                while lines[-1]["event"] != "ready":
                    lines.append(json.loads(await server.stderr.readline()))
        warnings = [line for line in lines if line["event"].startswith(event)]
        assert [warning["addresses"] for warning in warnings] == told
        assert {warning["level"] for warning in warnings} <= {"warning"}


async def test_ready_waits_for_the_first_model(tmp_path):
    """After start_timeout_s, a server without a model waits for one, or until all are refused."""
    write_bundle(tmp_path, "slow", edit_model=folding(20_000, 1))
    options = ("--start-timeout-s=0", "--load-timeout-s=0.1", "--poll-interval-s=3600")
    async with process(f"--repository={tmp_path}", *options) as server:
        events = []
        async with asyncio.timeout(WAIT_S):
            while "ready" not in events:
                events.append(json.loads(await server.stderr.readline())["event"])
    assert any("version refused" in event for event in events)


async def test_healthz_answers_before_a_model_serves(tmp_path):
    """A startup probe of /healthz succeeds while the only model loads; /readyz needs a model."""
    write_bundle(tmp_path, "slow", edit_model=folding(20_000, 1))
    addresses = dict.fromkeys(("grpc_address", "metrics_address", "http_address"), "127.0.0.1:0")
    app = App(ServeSettings(repository=tmp_path, **addresses))
    starting = asyncio.create_task(app.start())
    try:
        async with (
            asyncio.timeout(WAIT_S),
            httpx.AsyncClient(trust_env=False, timeout=WAIT_S) as web,
        ):
            while not app.http_url:
                await asyncio.wait({starting}, timeout=0.01)
            codes = [
                (await web.get(app.http_url + path)).status_code for path in ("healthz", "readyz")
            ]
        assert not starting.done()
        assert codes == [200, 503]
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await app.stop()


async def test_bundle_that_loads_too_slowly_fails(serve, tmp_path):
    """After load_timeout_s it is FAILED with the reason and the time of the next attempt."""
    write_bundle(tmp_path, "good")
    write_bundle(tmp_path, "slow", edit_model=folding(20_000, 1))
    app = await serve(tmp_path, load_timeout_s=0.1)
    async with AsyncClient(app.grpc_address) as client:
        (version,) = (await client.model("slow")).versions
        assert version.state is ModelState.FAILED
        assert "not loaded within load_timeout_s (0.1 s); next attempt in 5 s" in version.reason
        assert len(await client.generate("good", 1)) == 1


async def test_unreadable_entries_are_no_failure(serve, tmp_path, connect):
    """Circular links, folders without versions and names that are not text do not fail calls."""
    write_bundle(tmp_path, "good")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "good/2").symlink_to(tmp_path / "good/2")
    write_bundle(tmp_path, "misnamed", "v1")
    (tmp_path / os.fsdecode(b"caf\xe9/1")).mkdir(parents=True)
    app = await serve(tmp_path)
    async with AsyncClient(app.grpc_address) as client, connect(app) as channel:
        models = {model.name: model for model in await client.models()}
        assert sorted(models) == ["good", "loop", "misnamed"]
        assert [v.state for v in models["good"].versions] == [ModelState.READY, ModelState.FAILED]
        for name, reason in (("loop", "symbolic links"), ("misnamed", "'v1' is not a version")):
            (version,) = models[name].versions
            assert (version.version, version.state) == ("", ModelState.FAILED)
            assert reason in version.reason
        index = await oip_grpc.GRPCInferenceServiceStub(channel).RepositoryIndex(
            oip.RepositoryIndexRequest()
        )
        found = {(model.name, model.version): model.state for model in index.models}
        assert found == {
            ("good", "1"): "READY",
            ("good", "2"): "UNAVAILABLE",
            ("loop", ""): "UNAVAILABLE",
            ("misnamed", ""): "UNAVAILABLE",
        }
        health = health_pb2_grpc.HealthStub(channel)
        for name, status in (("", 1), ("model/good", 1), ("model/loop", 2)):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == status
        assert len(await client.generate("good", 1)) == 1
