"""A server with tiny translators, its engines and its stubs."""

import pytest
import pytest_asyncio
from tiny_bundles import write_bundle
from tiny_translators import write_translator

from imagemint.client import AsyncClient
from imagemint.engine.bundle import read_bundle
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.server.app import App
from imagemint.server.settings import ServeSettings
from imagemint.v1 import (
    generation_service_pb2,
    generation_service_pb2_grpc,
    image_pb2,
    translation_service_pb2_grpc,
)

ANYWHERE = {"grpc_address": "127.0.0.1:0", "metrics_address": "127.0.0.1:0"}


@pytest.fixture(scope="session")
def translators(tmp_path_factory):
    """One translator of each kind, and `digits`, which takes no source."""
    directory = tmp_path_factory.mktemp("translators")
    write_translator(directory, "fixed", size=(6, 8))
    write_translator(directory, "free", largest=(24, 32))
    write_translator(directory, "double", scale=2, largest=(24, 32), tiled=False)
    write_translator(directory, "drawn", size=(6, 8), z_dim=4, conditional=True)
    write_translator(directory, "labelled", conditional=True, largest=(16, 16))
    write_translator(directory, "gray", size=(6, 8), channels=1)
    write_translator(directory, "sequence", size=(6, 8), frames=3, mask=True)
    write_bundle(directory, "digits")
    return directory


@pytest.fixture(scope="session")
def backends(translators):
    """The engine of each translator."""
    return {
        path.name: OnnxBackend(read_bundle(path / "1"), device="cpu")
        for path in translators.iterdir()
    }


# A server of a module and not of the session, because tests of other files look at the process.
@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def translating_app(translators):
    """A server with the translators, with HTTP."""
    settings = ServeSettings(
        repository=translators, http_address="127.0.0.1:0", max_source_pixels=40_000, **ANYWHERE
    )
    app = App(settings)
    await app.start()
    yield app
    await app.stop()


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def translation(translating_app, connect):
    """The gRPC stub of TranslationService."""
    async with connect(translating_app) as channel:
        yield translation_service_pb2_grpc.TranslationServiceStub(channel)


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def translator(translating_app):
    """The public client."""
    async with AsyncClient(translating_app.grpc_address) as client:
        yield client


@pytest.fixture(scope="module")
def generation_of(translating_app, connect):
    """Requests an image of a model from GenerationService."""

    async def generate(model):
        async with connect(translating_app) as channel:
            stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
            images = image_pb2.ImageSpec(model=model, count=1)
            return await stub.Generate(generation_service_pb2.GenerateRequest(images=images))

    return generate
