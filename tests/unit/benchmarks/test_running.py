"""Tests of the servers that benchmarks start."""

import os

import numpy as np
import pytest
from peers.checking import SEED, NotReady, Truth
from peers.running import run_server
from peers.servers import Model, Server, Started
from tiny_bundles import write_bundle

from imagemint.bench.mix import parse_mix
from imagemint.bench.target import CallFailed
from imagemint.engine.batch import draw_batch
from imagemint.engine.bundle import read_bundle
from imagemint.engine.onnx.backend import OnnxBackend

ASKS = parse_mix("count=1, count=2").kinds


@pytest.fixture
def model(tmp_path):
    """A tiny bundle."""
    bundle = read_bundle(write_bundle(tmp_path / "models"))
    return Model(tmp_path / "models", bundle.directory / "model.onnx", bundle.spec)


@pytest.fixture
def run(model, tmp_path):
    """Returns a function that runs a shell command as a server with these answers."""
    folder = tmp_path / "run"
    folder.mkdir()

    def begin(command, answers, environment=None):
        started = Started(["sh", "-c", command], {"TOLD": "by the server"}, None, answers)
        server = Server("peer", "Peer", "peer", "gRPC", 1, lambda model, ports: started)
        truth = Truth(model.file, model.spec)
        return run_server(server, model, truth, ASKS, folder, environment=environment)

    return begin


def test_server_runs_inside_the_block(run, model, tmp_path):
    """Each request is checked, the variables of both sides are set, and all processes end."""
    instance = OnnxBackend(read_bundle(model.file.parent), device="cpu").open_instance()
    asked = []

    async def answer(ask):
        asked.append(ask)
        return np.array(instance.run(draw_batch(model.spec, SEED, 0, ask.count)))

    os.mkfifo(tmp_path / "run/told")
    command = 'echo "$TOLD, $MORE" > told; exec sleep 60'
    with run(command, answer, {"MORE": "more"}) as running:
        assert (tmp_path / "run/told").read_text() == "by the server, more\n"
        assert running.ready_s > 0
        assert asked == list(ASKS)
        assert running.tree.ended is None
    assert running.tree.ended is not None


def test_server_that_ends_tells_its_output(run):
    """The error has the status and what the server wrote."""

    async def refuse(ask):
        raise CallFailed("refused")

    with (
        pytest.raises(NotReady, match=r"ended with status 3; no such model"),
        run("echo no such model; exit 3", refuse),
    ):
        raise AssertionError("it never runs")


def test_wrong_answers_stop_the_server(run, model):
    """A server with wrong pictures is not measured, and does not stay."""

    async def answer(ask):
        return np.zeros((ask.count, *model.spec.make_image_shape(())), np.uint8)

    with pytest.raises(ValueError, match="levels off"), run("exec sleep 60", answer):
        raise AssertionError("it never runs")
