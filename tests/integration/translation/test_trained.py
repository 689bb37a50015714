"""Tests of recipes of translators, from a run through the export to the answer of a server."""

import numpy as np
import pytest
from onnx_registry import keep_registry  # noqa: F401 - a fixture
from small_translations import small_task, train

from imagemint.client import AsyncClient
from imagemint.exporter import parity
from imagemint.exporter.translation import export_translator
from imagemint.server.app import App
from imagemint.server.settings import ServeSettings
from imagemint.training.loop.examples import translate_images
from imagemint.training.recipes import TRANSLATION_RECIPES
from imagemint.training.recipes.translation import TranslationRecipe
from imagemint.training.translators import read_translator

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.timeout(300)  # a thousand would take long
@pytest.mark.parametrize("name", TRANSLATION_RECIPES)
async def test_recipe_is_answered_by_a_server(name, tmp_path, monkeypatch):
    """The server gives the same results as the network of the run, for each of its examples."""
    monkeypatch.setattr(parity, "SAMPLES", 16)  # a thousand take long
    monkeypatch.setattr(TranslationRecipe, "max_side", 24)
    train(small_task(TRANSLATION_RECIPES[name], images=8), tmp_path / "run")
    translator = read_translator(tmp_path / "run")
    export_translator(translator, name=name, repository=tmp_path / "models")
    sources = translator.examples.source[:5]

    places = {"grpc_address": "127.0.0.1:0", "metrics_address": "127.0.0.1:0"}
    app = App(ServeSettings(repository=tmp_path / "models", **places))
    await app.start()
    try:
        async with AsyncClient(app.grpc_address) as client:
            answers = await client.translate(name, list(sources))
    finally:
        await app.stop()

    images = np.stack([answer.image for answer in answers])
    expected = translate_images(translator.module, sources)
    assert np.abs(images.astype(int) - expected).max() <= 1
    assert all(answer.serials[0].startswith(f"{name}@1/0/0?source=") for answer in answers)
