"""Fixtures: a model of one pixel, a backend that can be held, batchers and a repository on disk."""

from pathlib import Path

import numpy as np
import pytest
from held_backend import HeldBackend
from tiny_bundles import write_bundle

from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.sampling import Distribution
from imagemint.engine.spec import ModelSpec
from imagemint.server.batching import Batcher, Conditions, Job
from imagemint.server.repository import LocalDirectory, ModelRepository
from imagemint.server.telemetry.metrics import Metrics

SPEC = ModelSpec(
    name="dot",
    z_dim=2,
    distribution=Distribution.NORMAL,
    truncation=None,
    class_labels=(),
    height=1,
    width=1,
    channels=1,
)


def draw_dots(batch):
    """Returns one pixel per image, computed from the two numbers of its latent."""
    z = batch.z
    return ((z[:, 0] * 50 + z[:, 1]) % 256).astype(np.uint8).reshape(-1, 1, 1, 1)


@pytest.fixture
def metrics():
    """A registry for one test."""
    return Metrics()


@pytest.fixture
def backend():
    """A backend that draws dots. It is released at the end, so that no thread remains."""
    backend = HeldBackend(draw_dots)
    yield backend
    backend.release()


@pytest.fixture
def new_batcher(backend, metrics):
    """A function that makes batchers over `backend`.

    By default a batcher has one instance and batches of 8.
    """
    opened = []

    def make(spec=SPEC, **options):
        options = {"instances": 1, "max_batch_images": 8, "max_queue_images": 10_000} | options
        opened.append(Batcher(spec, 1, backend, metrics, **options))
        return opened[-1]

    yield make
    backend.release()
    for batcher in opened:
        batcher.close()


@pytest.fixture
def new_job():
    """A function that makes jobs with distinct latents: [tag, position within the job]."""

    def make(tag, count, **options):
        places = np.arange(count, dtype=np.float32)
        latents = np.stack([np.full(count, tag, np.float32), places], axis=1)
        conditions = Conditions(options.pop("class_id", None))
        return Job(count, latents, conditions, **options)

    return make


@pytest.fixture
async def held(backend, new_job):
    """A function that occupies the only instance of a batcher, so that later jobs wait."""

    async def occupy(batcher):
        backend.hold()
        job = new_job(0, 1)
        batcher.submit(job)
        await backend.begun()
        backend.batches.clear()
        return job

    return occupy


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A model repository on disk with a conditional model and one of each other kind."""
    directory = tmp_path_factory.mktemp("models")
    write_bundle(directory, "tiny")
    write_bundle(directory, "plain", conditional=False)
    write_bundle(directory, "bounded", truncation="threshold")
    write_bundle(directory, "styled", truncation="psi")
    write_bundle(directory, "people", captions=True, truncation="threshold")
    return directory


def make_repository(place, **options):
    """Returns a repository that is not loaded, by default with real backends on the CPU."""
    metrics = Metrics()
    source = LocalDirectory(place) if isinstance(place, Path) else place

    def open_batcher(bundle, backend):
        sizes = {"max_batch_images": 64, "max_queue_images": 4_096}
        return Batcher(bundle.spec, bundle.version, backend, metrics, instances=1, **sizes)

    options = {
        "open_backend": lambda bundle: OnnxBackend(bundle, device="cpu"),
        "open_batcher": open_batcher,
        "metrics": metrics,
        "max_bundle_bytes": 2**20,
        "max_images": 100,
        "max_response_bytes": 2**20,
    } | options
    return ModelRepository(source, **options)


@pytest.fixture
def new_repository():
    """A function that makes repositories, by default loaded ones. They are closed at the end.

    Each is over a directory, or over another source.
    """
    opened = []

    def make(place, *, load=True, **options):
        opened.append(make_repository(place, **options))
        if load:
            opened[-1].load()
        return opened[-1]

    yield make
    for repository in opened:
        repository.close()


@pytest.fixture(scope="session")
def repository(models):
    """A loaded repository of all kinds of models for tests that change nothing.

    A request may have up to 100 images.
    """
    repository = make_repository(models)
    repository.load()
    yield repository
    repository.close()
