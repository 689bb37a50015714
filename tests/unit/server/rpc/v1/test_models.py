"""ModelService: pages of a catalogue that changes between them."""

import types

import pytest

from imagemint.engine.errors import InvalidRequest
from imagemint.server.rpc.v1.models import ModelServicer
from imagemint.v1 import model_service_pb2 as pb


@pytest.fixture
def catalogue(repository):
    """The models `bounded`, `plain`, `styled` and `tiny`, some of which a test may take away."""
    return types.SimpleNamespace(models=dict(repository.models))


async def listed(catalogue, **fields):
    """The names on a page, and the token of the next one."""
    page = await ModelServicer(catalogue, 100).ListModels(pb.ListModelsRequest(**fields), None)
    return [model.name for model in page.models], page.next_page_token


async def test_page_goes_on_where_a_model_was(catalogue):
    """The token of a page whose last model has gone leads to those behind it."""
    names, token = await listed(catalogue, page_size=2)
    assert names == ["bounded", "people"]
    assert await listed(catalogue, page_token=token) == (["plain", "styled", "tiny"], "")
    del catalogue.models["people"]
    assert await listed(catalogue, page_token=token) == (["plain", "styled", "tiny"], "")
    del catalogue.models["plain"], catalogue.models["styled"], catalogue.models["tiny"]
    assert await listed(catalogue, page_token=token) == ([], "")


@pytest.mark.parametrize("token", ["plain", "00000000.plain", ".", "x" * 300, "é" * 5])
async def test_foreign_token_is_refused(catalogue, token):
    """Any text that no page came with."""
    with pytest.raises(InvalidRequest, match="not a page token of this server"):
        await listed(catalogue, page_token=token)
