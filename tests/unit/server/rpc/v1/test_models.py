"""Tests of ModelService: pages of a list of models that changes between requests."""

import types

import pytest

from imagemint.engine.errors import InvalidRequest
from imagemint.server.rpc.v1.models import ModelServicer, make_limits
from imagemint.server.settings import ServeSettings
from imagemint.v1 import model_service_pb2 as pb


@pytest.fixture
def catalogue(repository):
    """A copy of the list of models, from which a test may remove some."""
    return types.SimpleNamespace(models=dict(repository.models))


async def list_models(catalogue, **fields):
    """Returns the names on a page and the token of the next one."""
    page = await ModelServicer(catalogue, make_limits(ServeSettings())).ListModels(
        pb.ListModelsRequest(**fields), None
    )
    return [model.name for model in page.models], page.next_page_token


async def test_next_page_works_after_a_removal(catalogue):
    """The token continues after the last model of the page even if that model was removed."""
    names, token = await list_models(catalogue, page_size=2)
    assert names == ["bounded", "people"]
    assert await list_models(catalogue, page_token=token) == (["plain", "styled", "tiny"], "")
    del catalogue.models["people"]
    assert await list_models(catalogue, page_token=token) == (["plain", "styled", "tiny"], "")
    del catalogue.models["plain"], catalogue.models["styled"], catalogue.models["tiny"]
    assert await list_models(catalogue, page_token=token) == ([], "")


@pytest.mark.parametrize("token", ["plain", "00000000.plain", ".", "x" * 300, "é" * 5])
async def test_foreign_token_is_refused(catalogue, token):
    """Any text that no page returned is refused as a token."""
    with pytest.raises(InvalidRequest, match="not a page token of this server"):
        await list_models(catalogue, page_token=token)
