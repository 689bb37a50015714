"""Tests of loading and unloading by name through the Open Inference Protocol."""

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tiny_bundles import write_bundle

from imagemint.client import AsyncClient
from imagemint.open_inference import grpc_service_pb2 as pb
from imagemint.open_inference import grpc_service_pb2_grpc
from imagemint.server.access.api_keys import compute_digest

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def explicit(serve, connect, tmp_path):
    """A function that starts a server over `a` and `b`, by default with explicit control."""
    for name in ("a", "b"):
        write_bundle(tmp_path, name)

    async def start(**settings):
        return await serve(tmp_path, **{"model_control": "explicit"} | settings)

    return start


def make_stub(channel):
    """Returns the stub of the protocol."""
    return grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)


def make_load(name, **parameters):
    """Returns a request to load with boolean parameters."""
    request = pb.RepositoryModelLoadRequest(model_name=name)
    for key, value in parameters.items():
        request.parameters[key].bool_param = value
    return request


def make_unload(name):
    """Returns a request to unload."""
    return pb.RepositoryModelUnloadRequest(model_name=name)


async def read_index(stub, *, ready=False):
    """Returns the models of the index."""
    answer = await stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=ready))
    return {model.name: (model.state, model.reason) for model in answer.models}


async def get_failure(call):
    """Returns the code and the text of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


async def test_models_are_loaded_and_unloaded(explicit, connect):
    """Index, readiness and responses follow, and other models are not affected."""
    app = await explicit(load_models=["a"])
    async with connect(app) as channel, AsyncClient(app.grpc_address) as client:
        stub = make_stub(channel)
        assert await read_index(stub) == {"a": ("READY", ""), "b": ("UNAVAILABLE", "not loaded")}
        await stub.RepositoryModelLoad(make_load("b"))
        assert list(await read_index(stub, ready=True)) == ["a", "b"]
        assert (await stub.ModelReady(pb.ModelReadyRequest(name="b"))).ready
        assert len(await client.generate("b", 2)) == 2
        await stub.RepositoryModelUnload(make_unload("b"))
        assert not (await stub.ModelReady(pb.ModelReadyRequest(name="b"))).ready
        answer = stub.ModelInfer(pb.ModelInferRequest(model_name="b"))
        assert await get_failure(answer) == (grpc.StatusCode.NOT_FOUND, "no model 'b'; there is a")
        assert len(await client.generate("a", 2)) == 2


async def test_empty_explicit_server_is_serving(explicit, connect):
    """No model is required, so the server is ready and accepts commands."""
    app = await explicit()
    async with connect(app) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        await make_stub(channel).RepositoryModelLoad(make_load("a"))
        assert (await make_stub(channel).ModelReady(pb.ModelReadyRequest(name="a"))).ready


async def test_failed_load_has_the_reasons(explicit, connect, tmp_path, details_of):
    """FAILED_PRECONDITION has each refused version, and the loaded one still serves."""
    app = await explicit(load_models=["a"])
    (write_bundle(tmp_path, "a", 2) / "SHA256SUMS").unlink()
    async with connect(app) as channel, AsyncClient(app.grpc_address) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await make_stub(channel).RepositoryModelLoad(make_load("a"))
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "version 2: SHA256SUMS is missing" in caught.value.details()
        assert details_of(caught.value)["ErrorInfo"].reason == "LOAD_FAILED"
        assert (await client.generate("a", 1)).version == "1"


async def test_changed_bundle_is_accepted_by_parameter(explicit, connect, tmp_path):
    """Without the parameter the load is refused. With it, the serial means the new pixels."""
    app = await explicit(load_models=["a"])
    (tmp_path / "a/1").rename(tmp_path / "away")
    write_bundle(tmp_path, "a", 1, weights_seed=5)
    async with connect(app) as channel, AsyncClient(app.grpc_address) as client:
        stub = make_stub(channel)
        before = await client.generate("a", 3, seed=1)
        for request in (make_load("a"), make_load("a", accept_changed_bundle=False)):
            code, text = await get_failure(stub.RepositoryModelLoad(request))
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert "version 1 is immutable" in text
        same = await client.generate("a", 3, seed=1)
        await stub.RepositoryModelLoad(make_load("a", accept_changed_bundle=True))
        after = await client.generate("a", 3, seed=1)
    assert same.image.tobytes() == before.image.tobytes()
    assert after.image.tobytes() != before.image.tobytes()
    assert after.bundle_sha256 != before.bundle_sha256


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"model_control": "none"}, "model_control is none"),
        ({"model_control": "poll"}, "model_control is poll"),
        ({"model_control": "watch"}, "model_control is watch"),
    ],
)
async def test_control_is_refused_in_other_modes(explicit, connect, settings, why):
    """Load and unload are refused for any model, and the extension is not announced."""
    app = await explicit(**settings)
    async with connect(app) as channel:
        stub = make_stub(channel)
        for name in ("a", "nobody"):
            calls = (
                stub.RepositoryModelLoad(make_load(name)),
                stub.RepositoryModelUnload(make_unload(name)),
            )
            for call in calls:
                code, text = await get_failure(call)
                assert code is grpc.StatusCode.FAILED_PRECONDITION
                assert text.startswith("explicit model load / unload is not allowed")
                assert why in text
        assert await read_index(stub) == {"a": ("READY", ""), "b": ("READY", "")}
        answer = await stub.ServerMetadata(pb.ServerMetadataRequest())
        assert "model_repository" not in answer.extensions


async def test_selected_models_are_loaded_once(explicit, connect):
    """With model_control none, load_models selects the models, and nothing changes them."""
    app = await explicit(model_control="none", load_models=["b"])
    async with connect(app) as channel:
        assert (await read_index(make_stub(channel)))["b"] == ("READY", "")
        assert (await read_index(make_stub(channel)))["a"][0] == "UNAVAILABLE"


async def test_control_is_announced_as_an_extension(explicit, connect):
    """The server's metadata have the extension of that name."""
    app = await explicit()
    async with connect(app) as channel:
        answer = await make_stub(channel).ServerMetadata(pb.ServerMetadataRequest())
    assert "model_repository" in answer.extensions


async def test_invalid_requests_are_refused(explicit, connect):
    """A missing name, an unknown model, another repository, content or a wrong type fail."""
    app = await explicit()
    async with connect(app) as channel:
        stub = make_stub(channel)
        expected = {
            grpc.StatusCode.INVALID_ARGUMENT: [
                stub.RepositoryModelLoad(make_load("")),
                stub.RepositoryModelUnload(make_unload("")),
                stub.RepositoryModelLoad(
                    pb.RepositoryModelLoadRequest(model_name="a", repository_name="other")
                ),
                stub.RepositoryModelLoad(_make_text_load("a", accept_changed_bundle="yes")),
            ],
            grpc.StatusCode.NOT_FOUND: [
                stub.RepositoryModelLoad(make_load("nobody")),
                stub.RepositoryModelUnload(make_unload("nobody")),
            ],
            grpc.StatusCode.UNIMPLEMENTED: [
                stub.RepositoryModelLoad(_make_text_load("a", config="{}"))
            ],
        }
        for code, calls in expected.items():
            for call in calls:
                assert (await get_failure(call))[0] is code


def _make_text_load(name, **parameters):
    request = make_load(name)
    for key, value in parameters.items():
        request.parameters[key].string_param = value
    return request


async def test_key_needs_model_control_and_the_model(explicit, connect, tmp_path_factory):
    """PERMISSION_DENIED changes nothing, whatever other rights the key has."""
    names = {"user": "", "operator": 'models = ["a"]\nmodel_control = true\n'}
    secrets = {name: f"imk_{name:k<43}" for name in names}
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    path.write_text(
        "".join(
            f'[[key]]\nname = "{name}"\nsha256 = "{compute_digest(secrets[name])}"\n{more}'
            for name, more in names.items()
        )
    )
    app = await explicit(api_keys=path)
    async with connect(app) as channel:
        stub = make_stub(channel)

        def asked(name, call, request):
            return call(request, metadata=[("x-api-key", secrets[name])])

        for name, model in (("user", "a"), ("operator", "b")):
            for call, request in (
                (stub.RepositoryModelLoad, make_load(model)),
                (stub.RepositoryModelUnload, make_unload(model)),
            ):
                code, _ = await get_failure(asked(name, call, request))
                assert code is grpc.StatusCode.PERMISSION_DENIED
        await asked("operator", stub.RepositoryModelLoad, make_load("a"))
        ready = await asked("user", stub.ModelReady, pb.ModelReadyRequest(name="a"))
        assert ready.ready
        assert app.repository.models["b"].default_version is None
