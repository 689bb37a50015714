"""Tests of the ONNX backend on a real GPU."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest
from tiny_bundles import write_bundle

from imagemint.engine import draw_latents
from imagemint.engine.batch import Batch
from imagemint.engine.bundle import read_bundle
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.onnx.session import CUDA

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        CUDA not in onnxruntime.get_available_providers(), reason="needs onnxruntime-gpu"
    ),
]

MOST = 130
CLASSES = np.arange(MOST, dtype=np.int64) % 10
Z = draw_latents(5, 0, MOST, 64)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A bundle that is large enough for a GPU to choose among several kernels."""
    return read_bundle(write_bundle(tmp_path_factory.mktemp("models"), z_dim=64, size=(28, 28, 1)))


@pytest.fixture(scope="module")
def cuda(bundle):
    """The backend of the bundle on CUDA, with CUDA graphs."""
    return OnnxBackend(bundle, device="cuda")


def check_every_batch_size(instance, whole):
    """Asserts that the bytes of a row do not depend on the batch, from 1 to MOST rows."""
    for count in range(1, MOST + 1):
        assert (
            instance.run(Batch(Z[:count], CLASSES[:count])).tobytes() == whole[:count].tobytes()
        ), count
    for row in range(0, MOST, 13):
        alone = instance.run(Batch(Z[row : row + 1], CLASSES[row : row + 1]))
        assert alone.tobytes() == whole[row : row + 1].tobytes(), row


def test_provider_is_cuda(cuda):
    """The backend runs on CUDA without a fallback to the CPU, and has buckets of up to 64 rows."""
    assert cuda.provider == "CUDAExecutionProvider"
    assert cuda.buckets[-1] == 64


def test_pixels_differ_from_the_cpu_by_one_level_at_most(bundle, cuda):
    """The tolerance of this model is one level of 256."""
    cpu = OnnxBackend(bundle, device="cpu")
    assert np.abs(cuda.run(Batch(Z, CLASSES)).astype(int) - cpu.run(Batch(Z, CLASSES))).max() <= 1


def test_replayed_graphs_give_the_bytes_of_plain_runs(cuda, caplog):
    """CUDA graphs are captured, and a replay of any size gives the bytes of an unbound run."""
    instance = cuda.open_instance()
    assert "without CUDA graphs" not in caplog.text
    check_every_batch_size(instance, cuda.run(Batch(Z, CLASSES)))
    instance.close()


def test_bound_runs_without_graphs_give_the_same_bytes(bundle, cuda):
    """A server without CUDA graphs generates the same images."""
    instance = OnnxBackend(bundle, device="cuda", cuda_graphs=False).open_instance()
    check_every_batch_size(instance, cuda.run(Batch(Z, CLASSES)))
    instance.close()


def test_one_bucket_gives_the_same_bytes_for_every_batch(bundle):
    """A single bucket is the fallback of a model whose rows differ between batch sizes."""
    backend = OnnxBackend(bundle, device="cuda", buckets=(16,))
    instance = backend.open_instance()
    check_every_batch_size(instance, backend.run(Batch(Z, CLASSES)))
    instance.close()


def test_rows_of_a_batch_dependent_model_agree(tmp_path, batch_dependence):
    """The backend shrinks the buckets of such a model until its rows agree."""
    directory = write_bundle(
        tmp_path, z_dim=64, size=(28, 28, 1), edit_model=batch_dependence(1e-3)
    )
    backend = OnnxBackend(read_bundle(directory), device="cuda")
    instance = backend.open_instance()
    check_every_batch_size(instance, backend.run(Batch(Z, CLASSES)))
    instance.close()


def test_threads_replay_in_parallel(cuda):
    """Each thread opens an instance, captures graphs and replays them while others run."""
    whole = cuda.run(Batch(Z, CLASSES))

    def work(first):
        instance = cuda.open_instance()
        for start in range(first, MOST, 7):
            found = instance.run(Batch(Z[start:], CLASSES[start:]))
            assert found.tobytes() == whole[start:].tobytes()
        instance.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))


def test_buffers_stay_on_the_gpu(cuda):
    """The addresses of the bound buffers are on the device and do not change with a run."""
    instance = cuda.open_instance()
    before = [batch.addresses for batch in instance._batches.values()]
    hosts = {batch.output.ctypes.data for batch in instance._batches.values()}
    instance.run(Batch(Z, CLASSES))
    assert [batch.addresses for batch in instance._batches.values()] == before
    assert not hosts & {address for each in before for address in each}
    instance.close()
