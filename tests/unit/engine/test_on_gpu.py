"""The promises of the backend, on a real GPU."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tiny_bundles import write_bundle

from imagemint.engine import latents
from imagemint.engine.batch import Batch
from imagemint.engine.bundle import read_bundle
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.onnx.session import available_devices

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif("cuda" not in available_devices(), reason="needs onnxruntime-gpu"),
]

MOST = 130
CLASSES = np.arange(MOST, dtype=np.int64) % 10
Z = latents(5, 0, MOST, 64)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A bundle large enough that a GPU has several kernels for it."""
    return read_bundle(write_bundle(tmp_path_factory.mktemp("models"), z_dim=64, size=(28, 28, 1)))


@pytest.fixture(scope="module")
def cuda(bundle):
    """Its backend, with CUDA graphs."""
    return OnnxBackend(bundle, device="cuda")


def every_size(instance, whole):
    """Asserts that a row's bytes do not depend on the batch, from 1 to MOST rows."""
    for count in range(1, MOST + 1):
        assert (
            instance.run(Batch(Z[:count], CLASSES[:count])).tobytes() == whole[:count].tobytes()
        ), count
    for row in range(0, MOST, 13):
        alone = instance.run(Batch(Z[row : row + 1], CLASSES[row : row + 1]))
        assert alone.tobytes() == whole[row : row + 1].tobytes(), row


def test_provider_is_cuda(cuda):
    """Not the CPU in disguise, and batches come in buckets up to 64."""
    assert cuda.provider == "CUDAExecutionProvider"
    assert cuda.buckets[-1] == 64


def test_pixels_are_those_of_the_cpu_within_a_level(bundle, cuda):
    """The tolerance of this model: one level of 256."""
    cpu = OnnxBackend(bundle, device="cpu")
    assert np.abs(cuda.run(Batch(Z, CLASSES)).astype(int) - cpu.run(Batch(Z, CLASSES))).max() <= 1


def test_graphs_are_captured_and_replay_the_bytes_of_plain_runs(cuda, caplog):
    """This model can be captured; every size gives what an unbound run gives."""
    instance = cuda.open_instance()
    assert "without CUDA graphs" not in caplog.text
    every_size(instance, cuda.run(Batch(Z, CLASSES)))
    instance.close()


def test_bound_runs_without_graphs_give_the_same_bytes(bundle, cuda):
    """A server that switches graphs off mints the same images."""
    instance = OnnxBackend(bundle, device="cuda", cuda_graphs=False).open_instance()
    every_size(instance, cuda.run(Batch(Z, CLASSES)))
    instance.close()


def test_one_bucket_gives_the_same_bytes_for_every_batch(bundle):
    """The last resort of a model whose rows differ between sizes works for any."""
    backend = OnnxBackend(bundle, device="cuda", buckets=(16,))
    instance = backend.open_instance()
    every_size(instance, backend.run(Batch(Z, CLASSES)))
    instance.close()


def test_model_that_looks_at_its_batch_is_dealt_with(tmp_path, looks_at_batch):
    """Its buckets shrink until its rows agree, whether or not it can be captured."""
    directory = write_bundle(tmp_path, z_dim=64, size=(28, 28, 1), edit_model=looks_at_batch(1e-3))
    backend = OnnxBackend(read_bundle(directory), device="cuda")
    instance = backend.open_instance()
    every_size(instance, backend.run(Batch(Z, CLASSES)))
    instance.close()


def test_threads_replay_side_by_side(cuda):
    """Each thread opens, captures and replays while others run."""
    whole = cuda.run(Batch(Z, CLASSES))

    def work(first):
        instance = cuda.open_instance()
        for start in range(first, MOST, 7):
            found = instance.run(Batch(Z[start:], CLASSES[start:]))
            assert found.tobytes() == whole[start:].tobytes()
        instance.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))


def test_buffers_lie_on_the_gpu_and_stay(cuda):
    """Addresses of the device, the same after any run."""
    instance = cuda.open_instance()
    before = [batch.addresses for batch in instance._batches.values()]
    hosts = {batch.output.ctypes.data for batch in instance._batches.values()}
    instance.run(Batch(Z, CLASSES))
    assert [batch.addresses for batch in instance._batches.values()] == before
    assert not hosts & {address for each in before for address in each}
    instance.close()
