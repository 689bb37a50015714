"""Loading and unloading by name, through the Open Inference Protocol."""

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
    """Starts a server over `a` and `b`, in the mode explicit unless told otherwise."""
    for name in ("a", "b"):
        write_bundle(tmp_path, name)

    async def start(**settings):
        return await serve(tmp_path, **{"model_control": "explicit"} | settings)

    return start


def stub_of(channel):
    """The bare stub of the protocol."""
    return grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)


def load(name, **parameters):
    """A request to load, with parameters that are bools."""
    request = pb.RepositoryModelLoadRequest(model_name=name)
    for key, value in parameters.items():
        request.parameters[key].bool_param = value
    return request


def unload(name):
    """A request to unload."""
    return pb.RepositoryModelUnloadRequest(model_name=name)


async def index_of(stub, *, ready=False):
    """What the index lists."""
    answer = await stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=ready))
    return {each.name: (each.state, each.reason) for each in answer.models}


async def refused(call):
    """The code and the text of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


async def test_models_are_loaded_and_unloaded(explicit, connect):
    """Index, readiness and answers follow; the others do not notice."""
    app = await explicit(load_models=["a"])
    async with connect(app) as channel, AsyncClient(app.grpc_address) as client:
        stub = stub_of(channel)
        assert await index_of(stub) == {"a": ("READY", ""), "b": ("UNAVAILABLE", "not loaded")}
        await stub.RepositoryModelLoad(load("b"))
        assert list(await index_of(stub, ready=True)) == ["a", "b"]
        assert (await stub.ModelReady(pb.ModelReadyRequest(name="b"))).ready
        assert len(await client.generate("b", 2)) == 2
        await stub.RepositoryModelUnload(unload("b"))
        assert not (await stub.ModelReady(pb.ModelReadyRequest(name="b"))).ready
        answer = stub.ModelInfer(pb.ModelInferRequest(model_name="b"))
        assert await refused(answer) == (grpc.StatusCode.NOT_FOUND, "no model 'b'; there is a")
        assert len(await client.generate("a", 2)) == 2


async def test_empty_explicit_server_serves(explicit, connect):
    """Nothing is meant to be loaded, so nothing is missing; the server takes commands."""
    app = await explicit()
    async with connect(app) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        await stub_of(channel).RepositoryModelLoad(load("a"))
        assert (await stub_of(channel).ModelReady(pb.ModelReadyRequest(name="a"))).ready


async def test_load_that_fails_says_why(explicit, connect, tmp_path, details_of):
    """FAILED_PRECONDITION with each refused version, and what served still does."""
    app = await explicit(load_models=["a"])
    (write_bundle(tmp_path, "a", 2) / "SHA256SUMS").unlink()
    async with connect(app) as channel, AsyncClient(app.grpc_address) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub_of(channel).RepositoryModelLoad(load("a"))
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "version 2: SHA256SUMS is missing" in caught.value.details()
        assert details_of(caught.value)["ErrorInfo"].reason == "LOAD_FAILED"
        assert (await client.generate("a", 1)).version == "1"


async def test_changed_bundle_is_accepted_by_parameter(explicit, connect, tmp_path):
    """Refused without it; with it the new pixels are what the serial means from now on."""
    app = await explicit(load_models=["a"])
    (tmp_path / "a/1").rename(tmp_path / "away")
    write_bundle(tmp_path, "a", 1, weights_seed=5)
    async with connect(app) as channel, AsyncClient(app.grpc_address) as client:
        stub = stub_of(channel)
        before = await client.generate("a", 3, seed=1)
        for request in (load("a"), load("a", accept_changed_bundle=False)):
            code, text = await refused(stub.RepositoryModelLoad(request))
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert "version 1 is immutable" in text
        same = await client.generate("a", 3, seed=1)
        await stub.RepositoryModelLoad(load("a", accept_changed_bundle=True))
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
async def test_control_is_refused_where_it_is_not_offered(explicit, connect, settings, why):
    """Both ways, also of models that do not exist, and it is not announced."""
    app = await explicit(**settings)
    async with connect(app) as channel:
        stub = stub_of(channel)
        for name in ("a", "nobody"):
            calls = (stub.RepositoryModelLoad(load(name)), stub.RepositoryModelUnload(unload(name)))
            for call in calls:
                code, text = await refused(call)
                assert code is grpc.StatusCode.FAILED_PRECONDITION
                assert text.startswith("explicit model load / unload is not allowed")
                assert why in text
        assert await index_of(stub) == {"a": ("READY", ""), "b": ("READY", "")}
        answer = await stub.ServerMetadata(pb.ServerMetadataRequest())
        assert "model_repository" not in answer.extensions


async def test_chosen_models_are_loaded_once(explicit, connect):
    """With model_control none, load_models chooses what is loaded, and nothing changes it."""
    app = await explicit(model_control="none", load_models=["b"])
    async with connect(app) as channel:
        assert (await index_of(stub_of(channel)))["b"] == ("READY", "")
        assert (await index_of(stub_of(channel)))["a"][0] == "UNAVAILABLE"


async def test_control_is_announced(explicit, connect):
    """As the extension of that name."""
    app = await explicit()
    async with connect(app) as channel:
        answer = await stub_of(channel).ServerMetadata(pb.ServerMetadataRequest())
    assert "model_repository" in answer.extensions


async def test_wrong_requests_are_told(explicit, connect):
    """No name, no such model, another repository, content of the caller's own, a wrong type."""
    app = await explicit()
    async with connect(app) as channel:
        stub = stub_of(channel)
        expected = {
            grpc.StatusCode.INVALID_ARGUMENT: [
                stub.RepositoryModelLoad(load("")),
                stub.RepositoryModelUnload(unload("")),
                stub.RepositoryModelLoad(
                    pb.RepositoryModelLoadRequest(model_name="a", repository_name="other")
                ),
                stub.RepositoryModelLoad(_texts("a", accept_changed_bundle="yes")),
            ],
            grpc.StatusCode.NOT_FOUND: [
                stub.RepositoryModelLoad(load("nobody")),
                stub.RepositoryModelUnload(unload("nobody")),
            ],
            grpc.StatusCode.UNIMPLEMENTED: [stub.RepositoryModelLoad(_texts("a", config="{}"))],
        }
        for code, calls in expected.items():
            for call in calls:
                assert (await refused(call))[0] is code


def _texts(name, **parameters):
    request = load(name)
    for key, value in parameters.items():
        request.parameters[key].string_param = value
    return request


async def test_key_must_be_for_control_and_for_the_model(explicit, connect, tmp_path_factory):
    """PERMISSION_DENIED without changing anything, whatever else the key is good for."""
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
        stub = stub_of(channel)

        def asked(name, call, request):
            return call(request, metadata=[("x-api-key", secrets[name])])

        for name, model in (("user", "a"), ("operator", "b")):
            for call, request in (
                (stub.RepositoryModelLoad, load(model)),
                (stub.RepositoryModelUnload, unload(model)),
            ):
                code, _ = await refused(asked(name, call, request))
                assert code is grpc.StatusCode.PERMISSION_DENIED
        await asked("operator", stub.RepositoryModelLoad, load("a"))
        ready = await asked("user", stub.ModelReady, pb.ModelReadyRequest(name="a"))
        assert ready.ready
        assert app.repository.models["b"].default_version is None
