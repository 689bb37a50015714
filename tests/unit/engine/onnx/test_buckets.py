"""Tests of batches in buckets on the CPU: splitting, padding, buffers and equal bytes."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_bundles import write_bundle

from imagemint.engine import draw_latents
from imagemint.engine.batch import Batch, draw_batch
from imagemint.engine.bundle import read_bundle
from imagemint.engine.bundle.findings import Batching
from imagemint.engine.errors import BackendFailed
from imagemint.engine.onnx import backend as onnx_backend
from imagemint.engine.onnx import session as onnx_session
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.onnx.batch_invariance import find_agreeing_buckets, make_probe_feed
from imagemint.engine.onnx.buckets import (
    allocate_buffers,
    choose_default_buckets,
    split_into_pieces,
)

MOST = 130
CLASSES = np.arange(MOST, dtype=np.int64) % 10


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A tiny conditional bundle."""
    return read_bundle(write_bundle(tmp_path_factory.mktemp("models")))


@pytest.fixture(scope="module")
def plain(bundle):
    """The backend of the bundle without buckets."""
    return OnnxBackend(bundle, device="cpu")


@pytest.fixture(scope="module")
def bucketed(bundle):
    """The backend of the bundle with buckets of 1 to 64 rows."""
    return OnnxBackend(bundle, device="cpu", bucketed=True)


@pytest.mark.parametrize(
    ("most", "expected"),
    [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (64, (1, 2, 4, 8, 16, 32, 64)), (5, (1, 2, 4, 5))],
)
def test_default_buckets_double(most, expected):
    """The default buckets are powers of two up to the largest batch, which is a bucket itself."""
    assert choose_default_buckets(most) == expected


@given(
    count=st.integers(0, 500),
    buckets=st.sets(st.integers(1, 130), min_size=1).map(lambda sizes: tuple(sorted(sizes))),
)
def test_pieces_cover_a_batch(count, buckets):
    """The pieces of a batch are contiguous.

    Each uses the smallest bucket that holds it, and all but the last are full.
    """
    cut = list(split_into_pieces(count, buckets))
    assert [piece.start for piece in cut[1:]] == [piece.stop for piece in cut[:-1]]
    assert (cut[0].start, cut[-1].stop) == (0, count) if cut else count == 0
    for piece in cut:
        rows = piece.stop - piece.start
        assert piece.size == min(size for size in buckets if size >= rows)
        assert rows == buckets[-1] or piece is cut[-1]


def test_buffers_share_no_page(bundle):
    """Each buffer begins on a page of its own, so that it can be page-locked separately."""
    inputs, output = allocate_buffers(bundle.spec, make_probe_feed(bundle.spec, 8), 3)
    assert {name: array.shape for name, array in inputs.items()} == {
        "z": (3, 8),
        "class_id": (3, 1),
    }
    assert output.shape == (3, 4, 6, 1)
    for array in (*inputs.values(), output):
        assert array.ctypes.data % 4096 == 0
        assert array.flags.c_contiguous


def test_every_size_gives_the_bytes_of_plain_runs(plain, bucketed):
    """Batches of 0 to more than two of the largest bucket have equal bytes, bound and unbound."""
    instance = bucketed.open_instance()
    z = draw_latents(3, 0, MOST, 8)
    for count in range(MOST + 1):
        expected = plain.run(Batch(z[:count], CLASSES[:count]))
        assert instance.run(Batch(z[:count], CLASSES[:count])).tobytes() == expected.tobytes(), (
            count
        )
        assert bucketed.run(Batch(z[:count], CLASSES[:count])).tobytes() == expected.tobytes(), (
            count
        )
    instance.close()


@pytest.mark.parametrize(
    "options", [{"truncation": "psi"}, {"conditional": False}, {"captions": True}], ids=str
)
def test_every_kind_of_model_is_bound(tmp_path, options):
    """Models with PSI, without classes and with captions run on bound buffers."""
    bundle = read_bundle(write_bundle(tmp_path, **options))
    spec = bundle.spec
    batch = draw_batch(spec, 3, 0, 70)
    if spec.takes_psi:
        batch = replace(batch, truncation=np.linspace(0, 1, 70, dtype=np.float32))
    instance = OnnxBackend(bundle, device="cpu", bucketed=True).open_instance()
    expected = OnnxBackend(bundle, device="cpu").run(batch)
    assert instance.run(batch).tobytes() == expected.tobytes()
    instance.close()


def test_threads_run_in_parallel(plain, bucketed):
    """Each thread has an instance and gets its own images."""

    def work(seed):
        instance = bucketed.open_instance()
        for count in (1, 7, 64, 65, 100, 3, 130):
            z = draw_latents(seed, count, count, 8)
            expected = plain.run(Batch(z, CLASSES[:count])).tobytes()
            assert instance.run(Batch(z, CLASSES[:count])).tobytes() == expected
        instance.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))


def test_buffers_keep_their_addresses(bucketed):
    """Runs allocate no buffers, because a captured graph contains their addresses."""
    instance = bucketed.open_instance()
    before = {size: batch.addresses for size, batch in instance._batches.items()}
    hosts = {size: batch.output.ctypes.data for size, batch in instance._batches.items()}
    for count in (1, 64, 13, 130):
        instance.run(Batch(draw_latents(3, 0, count, 8), CLASSES[:count]))
    assert {size: batch.addresses for size, batch in instance._batches.items()} == before
    assert {size: batch.output.ctypes.data for size, batch in instance._batches.items()} == hosts
    assert len({address for each in before.values() for address in each}) == 3 * len(before)
    instance.close()


def test_images_are_copies_of_the_buffer(bucketed):
    """The images of a run do not change when the instance runs again."""
    instance = bucketed.open_instance()
    first = instance.run(Batch(draw_latents(1, 0, 4, 8), CLASSES[:4]))
    kept = first.copy()
    instance.run(Batch(draw_latents(2, 0, 4, 8), CLASSES[:4]))
    assert np.array_equal(first, kept)
    instance.close()


def test_padding_repeats_the_first_row(bucketed):
    """Padding repeats a row of the batch, so its class exists and its latent is finite."""
    instance = bucketed.open_instance()
    z = draw_latents(3, 0, 5, 8)
    instance.run(Batch(z, CLASSES[2:7]))
    padded = instance._batches[8].inputs
    assert np.array_equal(padded["z"][5:], np.repeat(z[:1], 3, axis=0))
    assert padded["class_id"][5:].tolist() == 3 * [[2]]
    instance.close()


def test_largest_bucket_is_bound_first(bundle, monkeypatch):
    """The largest bucket is bound first so that the memory arena of a GPU grows once."""
    sizes = []
    bind = onnx_session.Session.bind

    def noted(self, feed, output, **options):
        sizes.append(len(output))
        return bind(self, feed, output, **options)

    monkeypatch.setattr(onnx_session.Session, "bind", noted)
    OnnxBackend(bundle, device="cpu", buckets=(4, 32, 8), bucketed=True).open_instance().close()
    assert sizes == [32, 8, 4]


def test_instance_is_bound_to_its_thread(bucketed):
    """A captured graph may only be replayed by the thread that captured it."""
    instance = bucketed.open_instance()
    caught = []

    def misuse():
        try:
            instance.run(Batch(draw_latents(1, 0, 1, 8), CLASSES[:1]))
        except RuntimeError as error:
            caught.append(str(error))

    thread = threading.Thread(target=misuse)
    thread.start()
    thread.join()
    assert caught == ["an instance belongs to the thread that opened it"]
    instance.close()


def test_run_after_close_fails(bundle):
    """A run after `close` raises BackendFailed. Closing twice is allowed."""
    backend = OnnxBackend(bundle, device="cpu", bucketed=True)
    instance, other = backend.open_instance(), backend.open_instance()
    instance.close()
    instance.close()
    for broken in (instance, other):
        if broken is other:
            backend.close()
        with pytest.raises(BackendFailed, match="closed"):
            broken.run(Batch(draw_latents(1, 0, 1, 8), CLASSES[:1]))
    with pytest.raises(BackendFailed, match="closed"):
        backend.open_instance()
    other.close()


def test_unbucketed_instance_shares_its_backend(plain):
    """On the CPU an instance is not bound to a thread. Closing it does not close the backend."""
    instance = plain.open_instance()
    instance.close()
    z = draw_latents(1, 0, 3, 8)
    assert np.array_equal(instance.run(Batch(z, CLASSES[:3])), plain.run(Batch(z, CLASSES[:3])))


# --- buckets in which rows differ ---------------------------------------------------------------


def make_compute(sizes):
    """Returns a computation whose rows differ in batches of these sizes."""

    def compute(feed):
        z = feed["z"]
        return z * np.float32(2) + np.float32(1e-6 if len(z) in sizes else 0)

    return compute


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ((), (1, 2, 4, 8, 16)),
        ((1,), (2, 4, 8, 16)),
        ((2, 8), (1, 4, 16)),
        ((1, 2, 4, 8), (16,)),
        ((16,), (16,)),
    ],
)
def test_buckets_that_differ_are_removed(wrong, expected):
    """The buckets that remain agree with the largest one."""
    feed = {"z": np.linspace(-1, 1, 64, dtype=np.float32).reshape(16, 4)}
    assert find_agreeing_buckets(make_compute(wrong), feed, (1, 2, 4, 8, 16)) == expected


def test_rows_that_depend_on_their_place_are_run_alone():
    """If rows depend on their position, the only bucket has one row."""

    def compute(feed):
        return feed["z"] + np.arange(len(feed["z"]), dtype=np.float32)[:, np.newaxis]

    feed = {"z": np.ones((16, 4), np.float32)}
    assert find_agreeing_buckets(compute, feed, (1, 4, 16)) == (1,)


def test_batch_dependent_model_keeps_one_bucket(tmp_path, batch_dependence, caplog):
    """A graph whose rows depend on the batch size gives equal bytes in a single bucket."""
    bundle = read_bundle(write_bundle(tmp_path, edit_model=batch_dependence(1e-7)))
    with caplog.at_level(logging.INFO, logger="imagemint.engine.onnx.backend"):
        backend = OnnxBackend(bundle, device="cpu", buckets=(1, 4, 16), bucketed=True)
    assert (backend.buckets, backend.batching) == ((16,), Batching.BUCKETS)
    assert caplog.records[-1].levelno == logging.WARNING
    assert "in batches of 16" in caplog.text
    instance = backend.open_instance()
    z = draw_latents(5, 0, 40, 8)
    whole = instance.run(Batch(z, CLASSES[:40]))
    for count in range(1, 41):
        assert instance.run(Batch(z[:count], CLASSES[:count])).tobytes() == whole[:count].tobytes()
    instance.close()


# --- falling back -------------------------------------------------------------------------------


@pytest.fixture
def gpu_stand_in(bundle, monkeypatch):
    """A function that opens a backend with CUDA's code paths on CPU sessions.

    `make(session)` opens an instance; `session(graphs)` replaces the CUDA session.
    """

    def make(session):
        backend = OnnxBackend(bundle, device="cpu", buckets=(1, 8), bucketed=True)
        backend._bundle = bundle
        monkeypatch.setattr(
            onnx_backend, "create_cuda_session", lambda content, graphs: session(graphs)
        )
        return backend, backend.open_instance()

    return make


def make_cpu_session(bundle):
    """Returns a session on the CPU."""
    return onnx_session.create_cpu_session(bundle.read_model(), 1, bundle.directory)


def test_instances_with_graphs_have_their_own_sessions(bundle, gpu_stand_in):
    """An instance with CUDA graphs has its own session and one graph id per bucket."""
    made = []

    def session(graphs):
        assert graphs
        made.append(make_cpu_session(bundle))
        return made[-1]

    backend, first = gpu_stand_in(session)
    second = backend.open_instance()
    assert len(made) == 2
    ids = [batch._options.get_run_config_entry("gpu_graph_id") for batch in first._batches.values()]
    assert sorted(ids) == ["1", "2"]
    first.close()
    second.close()


def test_refused_graphs_fall_back_to_plain_binding(plain, gpu_stand_in, caplog):
    """A model that cannot be captured runs without CUDA graphs, and the log says why."""

    def refuse(graphs):
        raise BackendFailed("CUDA does not work: nodes on the CPU")

    _, instance = gpu_stand_in(refuse)
    assert "tiny@1 runs without CUDA graphs: CUDA does not work: nodes on the CPU" in caplog.text
    z = draw_latents(1, 0, 9, 8)
    assert np.array_equal(instance.run(Batch(z, CLASSES[:9])), plain.run(Batch(z, CLASSES[:9])))
    assert not any(batch._captures for batch in instance._batches.values())
    instance.close()


def test_failed_capture_falls_back_to_plain_binding(
    bundle, plain, gpu_stand_in, caplog, monkeypatch
):
    """A capture that fails for one bucket also falls back to plain binding."""

    class Breaking(onnx_session.Session):
        def bind(self, feed, output, *, graph_id=None):
            batch = super().bind(feed, output, graph_id=graph_id)
            if graph_id == 2:
                monkeypatch.setattr(batch, "_run", lambda: 1 / 0)
            return batch

    _, instance = gpu_stand_in(lambda graphs: Breaking(make_cpu_session(bundle)._session))
    assert "runs without CUDA graphs: division by zero" in caplog.text
    z = draw_latents(1, 0, 9, 8)
    assert np.array_equal(instance.run(Batch(z, CLASSES[:9])), plain.run(Batch(z, CLASSES[:9])))
    instance.close()


def test_replay_that_ignores_its_input_is_not_used(
    bundle, plain, gpu_stand_in, caplog, monkeypatch
):
    """Opening an instance detects a replay that does not read its inputs again."""

    class Stuck(onnx_session.Session):
        def bind(self, feed, output, *, graph_id=None):
            batch = super().bind(feed, output, graph_id=graph_id)
            real, runs = batch._run, []

            def once():
                if not runs:
                    real()
                runs.append(1)

            monkeypatch.setattr(batch, "_run", once)
            return batch

    _, instance = gpu_stand_in(lambda graphs: Stuck(make_cpu_session(bundle)._session))
    assert "without CUDA graphs: bound batches of 8 differ from plain ones" in caplog.text
    z = draw_latents(1, 0, 9, 8)
    assert np.array_equal(instance.run(Batch(z, CLASSES[:9])), plain.run(Batch(z, CLASSES[:9])))
    instance.close()


def test_graphs_are_not_captured_on_the_cpu(bundle, monkeypatch):
    """A CPU backend opens no session with CUDA graphs."""
    monkeypatch.setattr(
        onnx_backend, "create_cuda_session", lambda *_, **__: pytest.fail("captured")
    )
    OnnxBackend(bundle, device="cpu", bucketed=True).open_instance().close()
