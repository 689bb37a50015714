"""Tests of a server as a source for `imagemint evaluate`."""

import asyncio

import numpy as np
import pytest
from tiny_bundles import EXAMPLES, MAX_WORDS, WORDS

from imagemint.client.errors import NotFound
from imagemint.client.settings import UsageError
from imagemint.client.sources import RemoteModel
from imagemint.engine.batch import Batch
from imagemint.engine.captions import Captions
from imagemint.engine.sampling import draw_latents
from imagemint.training.evaluation.sources import takes_captions

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("model", ["digits", "plain"])
async def test_served_images_equal_those_of_the_bundle(app, engines, model):
    """Images follow from seed and index, with classes in turn from any index on."""

    def drawn():
        source = RemoteModel(f"{app.grpc_address}/{model}")
        try:
            return source.name, source.sha256, source.num_classes, source.draw(11, 7, 90)
        finally:
            source.close()

    name, digest, num_classes, (images, classes) = await asyncio.to_thread(drawn)
    turns = np.arange(7, 97) % 10 if model == "digits" else None
    assert np.array_equal(images, engines[model].run(Batch(draw_latents(11, 7, 90, 8), turns)))
    assert np.array_equal(classes, turns) if turns is not None else classes is None
    assert num_classes == (10 if model == "digits" else 0)
    assert name.startswith(f"{model}@1 served at ")
    assert len(digest) == 64


async def test_served_captions_equal_those_of_the_bundle(app, engines):
    """Each image has its own caption and index."""
    texts = ["A person, with RED hair!", "blue hair", "round glasses", "blue hair"]

    def drawn():
        source = RemoteModel(f"{app.grpc_address}/people")
        try:
            assert takes_captions(source)
            return source.draw_captions(11, 7, texts)
        finally:
            source.close()

    images = await asyncio.to_thread(drawn)
    known = Captions(WORDS, MAX_WORDS, EXAMPLES)
    tokens = known.encode([known.parse(text) for text in texts])
    expected = engines["people"].run(Batch(draw_latents(11, 7, 4, 8), tokens=tokens))
    assert np.array_equal(images, expected)


@pytest.mark.parametrize("rest", ["/nobody", "/digits@9", ""])
async def test_unknown_model_is_an_error(app, rest):
    """An address without a model, or with an unknown one, raises NotFound."""
    with pytest.raises(NotFound):
        await asyncio.to_thread(RemoteModel, f"{app.grpc_address}{rest}")


async def test_connection_uses_the_environment(app, monkeypatch):
    """Variables for TLS are used, and an invalid one is an error with its name."""
    monkeypatch.setenv("IMAGEMINT_TLS_ROOT_CERTIFICATES", "absent.pem")
    with pytest.raises(FileNotFoundError, match=r"absent\.pem"):
        await asyncio.to_thread(RemoteModel, f"{app.grpc_address}/digits")
    monkeypatch.setenv("IMAGEMINT_TLS", "perhaps")
    with pytest.raises(UsageError, match="IMAGEMINT_TLS"):
        RemoteModel(f"{app.grpc_address}/digits")
