"""Tests of the engine and a server as sources of the same images for training."""

import asyncio
import subprocess
import sys

import numpy as np
import pytest
from tiny_bundles import write_bundle, write_critic

from imagemint.client import Cycle, Filter
from imagemint.client.image_source import ServerSource
from imagemint.client.torch import SyntheticImages, SyntheticStream
from imagemint.dataset import DatasetError, engine_source
from imagemint.dataset.engine_source import EngineSource

PROGRAM = """
import signal, sys
from torch.utils.data import DataLoader
from imagemint.client.torch import SyntheticStream
from imagemint.dataset.engine_source import EngineSource

signal.alarm(90)
source = EngineSource("digits", repository=sys.argv[1], seed=5)
first = source.read(0, 4).serials  # the parent has an engine when it forks
stream = SyntheticStream(source, 40, block_size=8, serials=True)
loader = DataLoader(stream, batch_size=8, num_workers=2, multiprocessing_context="fork")
serials = [serial for _, _, some in loader for serial in some]
assert [each.split("/")[2].split("?")[0] for each in serials] == list(map(str, range(40)))
assert tuple(serials[:4]) == first
"""


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("model", ["digits", "plain", "bounded", "styled"])
async def test_engine_and_server_give_the_same_images(app, models, model):
    """Pixels, classes, serials and identity are equal, with and without selected classes."""
    truncation = {"bounded": 0.5, "styled": 0.5}.get(model)
    condition, classes = (None, None) if model == "plain" else (Cycle([3, 1]), [3, 1])
    local = EngineSource(
        model, repository=models, seed=5, classes=classes, truncation=truncation, device="cpu"
    )

    def read_both():
        server = ServerSource(
            app.grpc_address, model, seed=5, condition=condition, truncation=truncation
        )
        assert server.identity == local.identity
        chosen = [] if model == "plain" else [[2, 2, 0, 9, 1]]
        pairs = [(server.read(7, 5, each), local.read(7, 5, each)) for each in [None, *chosen]]
        server.close()
        return pairs

    for remote, own in await asyncio.to_thread(read_both):
        assert np.array_equal(remote.image, own.image)
        assert remote.serials == own.serials
        assert remote.class_id is own.class_id is None or np.array_equal(
            remote.class_id, own.class_id
        )
    local.close()


def test_dataset_reads_the_engine(models):
    """A map-style dataset may have more images than the engine computes at once."""
    source = EngineSource("digits", repository=models, seed=1, device="cpu")
    images = SyntheticImages(source, 400, serials=True)
    items = images.__getitems__(range(400))
    assert [item[2].partition("?")[0] for item in items[255:258]] == [
        f"digits@1/1/{index}" for index in (255, 256, 257)
    ]
    source.close()


def test_threads_open_one_engine(models, monkeypatch):
    """The reads ahead of a stream, which begin together, share one engine."""
    opened = []

    class Recorded(engine_source._Engine):
        def __init__(self, *arguments):
            opened.append(self)
            super().__init__(*arguments)

    monkeypatch.setattr(engine_source, "_Engine", Recorded)
    source = EngineSource("digits", repository=models, seed=1, device="cpu")
    stream = SyntheticStream(source, 64, block_size=8, prefetch=8, batched=True)
    assert sum(len(images) for images, _ in stream) == 64
    assert len(opened) == 1
    source.close()


def test_workers_have_their_own_engines(models):
    """A source that was used before a fork works in the workers after it."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, models],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr


def test_bad_arguments_are_refused(models):
    """An unknown model, version, class or unsupported truncation raises DatasetError."""
    for arguments in (
        {"model": "absent"},
        {"model": "digits", "version": "7"},
        {"model": "digits", "classes": [10]},
        {"model": "plain", "classes": []},
        {"model": "digits", "truncation": 0.5},
    ):
        with pytest.raises(DatasetError):
            EngineSource(repository=models, device="cpu", **arguments)
    source = EngineSource("digits", repository=models, device="cpu")
    with pytest.raises(ValueError, match=r"10 classes, not \[10\]"):
        source.read(0, 1, [10])


def test_filter_has_no_index_of_a_candidate(tmp_path):
    """As a server, the engine refuses indices at which a filter finds the candidates of others."""
    write_critic(write_bundle(tmp_path, "digits"))
    source = EngineSource("digits", repository=tmp_path, device="cpu", image_filter=Filter())
    assert source.read(2**48 - 1, 1).index[0] == 2**48 - 1
    with pytest.raises(DatasetError, match=r"below 2\^48"):
        source.read(2**48 - 1, 2)
    source.close()
