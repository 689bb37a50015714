"""Tests of invalid bundles next to valid ones, which are not affected."""

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tiny_bundles import write_bundle

from imagemint.client import AsyncClient, ModelState
from imagemint.server import app as app_module
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import generation_service_pb2_grpc

pytestmark = pytest.mark.asyncio(loop_scope="module")


def truncate(directory):
    """Truncates the model to half, as an incomplete copy does."""
    path = directory / "model.onnx"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_bit(directory):
    """Flips one bit of the weights."""
    path = directory / "model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def remove_checksums(directory):
    """Removes the checksums."""
    (directory / "SHA256SUMS").unlink()


def use_foreign_operator(model):
    """Uses an operator that no runtime here knows."""
    model.graph.node[-1].domain = "com.example.custom"


DAMAGES = {
    truncate: "truncated or altered",
    flip_bit: "altered",
    remove_checksums: "SHA256SUMS is missing",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
async def test_damaged_bundle_is_refused(serve, tmp_path, connect, details_of, damage):
    """The bundle is listed with its reason, and calls for it fail. The valid one serves."""
    write_bundle(tmp_path, "good")
    damage(write_bundle(tmp_path, "bad"))
    app = await serve(tmp_path)
    async with AsyncClient(app.grpc_address) as client, connect(app) as channel:
        bad = await client.model("bad")
        assert bad.default_version == ""
        assert bad.versions[0].state is ModelState.FAILED
        assert DAMAGES[damage] in bad.versions[0].reason
        assert bad.versions[0].manifest is None
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        for version in ("", "1"):
            images = {"model": "bad", "version": version, "count": 1}
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Generate(pb.GenerateRequest(images=images))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            details = details_of(caught.value)
            assert details["ErrorInfo"].reason == "MODEL_NOT_READY"
            assert details["RetryInfo"].retry_delay.ToNanoseconds() > 0
            assert str(tmp_path) not in caught.value.details()
        assert len(await client.generate("good", 3)) == 3


async def test_foreign_operator_is_refused(serve, tmp_path):
    """A graph outside the allow-list is not loaded, and the reason has the operator's domain."""
    write_bundle(tmp_path, "good")
    write_bundle(tmp_path, "bad", edit_model=use_foreign_operator)
    app = await serve(tmp_path)
    async with AsyncClient(app.grpc_address) as client:
        assert "com.example.custom" in (await client.model("bad")).versions[0].reason
        assert len(await client.generate("good", 1)) == 1


async def test_older_version_replaces_an_invalid_one(serve, tmp_path, connect):
    """The default is the newest READY version, and health has the status of each."""
    write_bundle(tmp_path, "tiny", 1, weights_seed=1)
    write_bundle(tmp_path, "tiny", 2, weights_seed=2)
    truncate(write_bundle(tmp_path, "tiny", 3))
    app = await serve(tmp_path)
    async with AsyncClient(app.grpc_address) as client:
        assert (await client.model("tiny")).default_version == "2"
        default, second = [
            await client.generate("tiny", 2, seed=1, version=version) for version in ("", "2")
        ]
        assert default.version == "2"
        assert default.image.tobytes() == second.image.tobytes()
        first = await client.generate("tiny", 2, seed=1, version="1")
        assert first.image.tobytes() != second.image.tobytes()
    async with connect(app) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        told = {}
        for name in ("", "model/tiny", "model/tiny/1", "model/tiny/2", "model/tiny/3"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            told[name] = answer.status == health_pb2.HealthCheckResponse.SERVING
        assert told == {name: name != "model/tiny/3" for name in told}


async def test_model_without_ready_version_is_not_serving(serve, tmp_path, connect):
    """Its own health is NOT_SERVING, and the server's health does not depend on it."""
    write_bundle(tmp_path, "good")
    flip_bit(write_bundle(tmp_path, "bad"))
    app = await serve(tmp_path)
    async with connect(app) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service="model/bad"))
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_oversized_bundle_is_refused(serve, tmp_path, monkeypatch):
    """The limit applies before the content is read."""
    write_bundle(tmp_path, "good", size=(2, 2, 1))
    write_bundle(tmp_path, "huge", size=(64, 64, 1))
    monkeypatch.setattr(app_module, "_MAX_BUNDLE_BYTES", 100_000)
    app = await serve(tmp_path)
    async with AsyncClient(app.grpc_address) as client:
        assert (
            "larger than the limit of 100,000 bytes"
            in (await client.model("huge")).versions[0].reason
        )
        assert len(await client.generate("good", 1)) == 1
