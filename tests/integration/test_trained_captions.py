"""Test of recipe `stack`, from a run through the export to the answer of a server."""

import json

import numpy as np
import pytest
import torch
from onnx_registry import keep_registry  # noqa: F401 - a fixture
from small_runs import small, train_twice

from imagemint.client import AsyncClient, Caption
from imagemint.engine import draw_latents
from imagemint.exporter import parity
from imagemint.exporter.export import export_generator
from imagemint.exporter.graph import to_levels
from imagemint.server.app import App
from imagemint.server.settings import ServeSettings
from imagemint.training.recipes.stack import StackRecipe
from imagemint.training.trained import read_generator

pytestmark = pytest.mark.asyncio(loop_scope="session")

CAPTION = "a person with red hair and round glasses"
SAME = 1  # level


async def test_stack_is_answered_by_a_server(tmp_path, monkeypatch):
    """A server draws what the refined image of the run's network is, by caption."""
    monkeypatch.setattr(parity, "SAMPLES", 16)  # a thousand take long
    train_twice(small(StackRecipe), tmp_path, monkeypatch)
    rows = [json.loads(row) for row in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    assert np.isfinite([figure for row in rows for figure in row.values()]).all()
    trained = read_generator(tmp_path / "whole")
    export_generator(trained, name="stack", repository=tmp_path / "models")

    places = {"grpc_address": "127.0.0.1:0", "metrics_address": "127.0.0.1:0"}
    app = App(ServeSettings(repository=tmp_path / "models", **places))
    await app.start()
    try:
        async with AsyncClient(app.grpc_address) as client:
            batch = await client.generate("stack", 5, seed=7, condition=Caption(CAPTION))
    finally:
        await app.stop()

    assert batch.captions == (CAPTION,) * 5
    tokens = torch.from_numpy(trained.captions.encode([CAPTION] * 5))
    with torch.no_grad():
        images = trained.module(
            torch.from_numpy(draw_latents(7, 0, 5, trained.z_dim)), tokens=tokens
        )
    assert batch.image.shape == (5, 64, 64, 3)
    assert batch.image.std() > 0
    assert np.abs(batch.image.astype(int) - to_levels(images).numpy()).max() <= SAME
