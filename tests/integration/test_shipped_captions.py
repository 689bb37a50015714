"""Tests of the shipped model `avatars-text` through a real server."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from imagemint.client import Caption, InvalidRequest
from imagemint.server.app import App
from imagemint.server.settings import ServeSettings

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "avatars-text"
SHIPPED = Path(__file__).parents[2] / "models" / MODEL
# colours of shirts in the artwork, in levels
SHIRTS = {"navy": (37, 85, 124), "white": (255, 255, 255), "coral": (255, 92, 92)}


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A repository with the shipped model only."""
    directory = tmp_path_factory.mktemp("shipped")
    shutil.copytree(SHIPPED, directory / MODEL)
    return directory


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def app(models):
    """A server that waits for the model, which loads slowly on a busy machine."""
    anywhere = {"grpc_address": "127.0.0.1:0", "metrics_address": "127.0.0.1:0"}
    app = App(ServeSettings(repository=models, start_timeout_s=300, **anywhere))
    await app.start()
    yield app
    await app.stop()


async def draw(client, text, count=8):
    """Returns the images of a caption as int16, so that they can be subtracted."""
    batch = await client.generate(MODEL, count, seed=11, condition=Caption(text))
    return batch.image.astype(np.int16)


@pytest.mark.parametrize("colour", SHIRTS)
async def test_shirt_has_the_requested_colour(client, colour):
    """The middle of the last rows shows the shirt in the colour of the caption."""
    images = await draw(client, f"a person in a {colour} shirt")
    shirt = np.median(images[:, 58:, 28:36], axis=(1, 2))
    assert np.abs(shirt - SHIRTS[colour]).max() < 30


@pytest.mark.parametrize(
    "text",
    [
        "round glasses, red hair, pale skin, a smiling person, in a navy shirt",
        "in a navy shirt: smiling, pale skin and red hair, a person with round glasses",
    ],
)
async def test_order_of_phrases_does_not_matter(client, text):
    """One seed gives the same people for any order of phrases."""
    ordered = "a person with pale skin, red hair and round glasses, smiling, in a navy shirt"
    assert np.array_equal(await draw(client, text), await draw(client, ordered))


async def test_open_attributes_vary(client):
    """Eight people of one caption differ from each other and from those of another caption."""
    images = await draw(client, "a person with red hair")
    assert len(np.unique(images.reshape(8, -1), axis=0)) == 8
    assert not np.array_equal(images, await draw(client, "a person with blond hair"))


async def test_examples_are_valid_captions(client):
    """The manifest has the words and valid examples."""
    captions = (await client.model(MODEL)).manifest().captions
    assert "hair" in captions.vocabulary
    for example in captions.examples:
        assert (await draw(client, example, 1)).shape == (1, 64, 64, 3)


async def test_unknown_words_are_refused(client):
    """The error has the word that the model does not know."""
    with pytest.raises(InvalidRequest, match="purple"):
        await draw(client, "a person with purple hair")
