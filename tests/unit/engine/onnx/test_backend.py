"""Tests of imagemint.engine.onnx.backend on real sessions."""

import gc
import logging
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_bundles import write_bundle

from imagemint.engine import draw_latents
from imagemint.engine.backend import Backend
from imagemint.engine.batch import Batch
from imagemint.engine.bundle import probe_hints, read_bundle
from imagemint.engine.bundle.findings import Batching, Findings
from imagemint.engine.errors import BackendFailed, BundleRefused
from imagemint.engine.onnx import backend as onnx_backend
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.onnx.batch_invariance import find_needed_batching, is_same_everywhere
from imagemint.engine.onnx.session import CUDA

CLASSES = np.arange(70, dtype=np.int64) % 10


def make_backend(tmp_path, *, device="cpu", alone_threads=1, **options):
    """Returns a backend of a new tiny bundle."""
    bundle = read_bundle(write_bundle(tmp_path, **options))
    return OnnxBackend(bundle, device=device, alone_threads=alone_threads)


@pytest.fixture
def backend(tmp_path):
    """A conditional backend on the CPU."""
    return make_backend(tmp_path)


def test_backend_computes_images(backend):
    """A batch gives uint8 NHWC images that depend on both the latent and the class."""
    served: Backend = backend
    z = draw_latents(1, 0, 3, 8)
    images = served.run(Batch(z, np.int64([0, 1, 2])))
    assert (images.shape, images.dtype) == ((3, 4, 6, 1), np.uint8)
    assert not np.array_equal(images, served.run(Batch(z, np.int64([3, 1, 2]))))
    assert not np.array_equal(
        images, served.run(Batch(draw_latents(2, 0, 3, 8), np.int64([0, 1, 2])))
    )


def test_unconditional_backend_computes_images(tmp_path):
    """A model without classes takes only the latent."""
    backend = make_backend(tmp_path, conditional=False, size=(8, 8, 3))
    assert backend.run(Batch(draw_latents(1, 0, 2, 8))).shape == (2, 8, 8, 3)


def test_psi_is_an_input_of_the_graph(tmp_path):
    """A PSI of 0 gives the mean image for every latent."""
    backend = make_backend(tmp_path, truncation="psi", conditional=False)
    images = backend.run(Batch(draw_latents(1, 0, 3, 8), truncation=np.float32([0, 0, 1])))
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_empty_batch_gives_no_images(backend):
    """A batch of no rows gives an array of no rows with the right shape."""
    images = backend.run(Batch(draw_latents(1, 0, 0, 8), np.int64([])))
    assert (images.shape, images.dtype) == ((0, 4, 6, 1), np.uint8)


def _compute_weights_in_graph(model):
    """Computes the weights from the input of the graph, so that the runtime cannot pack them."""
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    gemm.input[1] = "computed"
    nodes = [
        helper.make_node("Size", ["z"], ["m"]),
        helper.make_node("Equal", ["m", "m"], ["true"]),
        helper.make_node("Cast", ["true"], ["one"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["weight", "one"], ["computed"]),
    ]
    for node in reversed(nodes):
        model.graph.node.insert(0, node)


@pytest.mark.parametrize(
    ("exponent", "expected"),
    [
        (None, Batching.AS_THEY_COME),
        # N^-40 is 1 for a single row and negligible beside the features for any other batch.
        (-40.0, Batching.NEVER_ALONE),
        (0.01, Batching.FIXED),
        # This changes the last bits of the floats and is far too small to change a pixel.
        (1e-7, Batching.FIXED),
    ],
)
def test_pixels_do_not_depend_on_the_batch(tmp_path, batch_dependence, exponent, expected):
    """A row has the same bytes at every position of every batch size."""
    edit = None if exponent is None else batch_dependence(exponent)
    backend = make_backend(tmp_path, edit_model=edit)
    assert backend.batching is expected
    z = draw_latents(5, 0, 70, 8)
    whole = backend.run(Batch(z, CLASSES))
    for size in range(1, 71):
        part = slice(70 - size, 70)
        assert backend.run(Batch(z[part], CLASSES[part])).tobytes() == whole[part].tobytes()


def test_kernel_for_one_row_is_not_used(tmp_path):
    """A runtime may have another kernel for one row.

    Its floats differ, so the backend avoids it.
    """
    backend = make_backend(
        tmp_path, edit_model=_compute_weights_in_graph, z_dim=64, size=(28, 28, 1), weights_seed=3
    )
    z = draw_latents(5, 0, 64, 64)
    whole = backend.run(Batch(z, CLASSES[:64]))
    for row in range(64):
        alone = backend.run(Batch(z[row : row + 1], CLASSES[row : row + 1]))
        assert alone.tobytes() == whole[row : row + 1].tobytes()
    # A processor without such a kernel needs no workaround.
    assert backend.batching in (Batching.NEVER_ALONE, Batching.AS_THEY_COME)


def _show_last_bits_of_the_mean(model):
    """Shows in every pixel the last bits of a sum across the row. The runtime chooses its order."""
    for name, value in (("across", np.int64([1])), ("much", np.float32(4e6))):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    tanh = next(node for node in model.graph.node if node.op_type == "Tanh")
    nodes = [
        helper.make_node("ReduceMean", ["z", "across"], ["mean"], keepdims=1),
        helper.make_node("Mul", ["mean", "much"], ["magnified"]),
        helper.make_node("Sin", ["magnified"], ["last_bits"]),
        helper.make_node("Add", [tanh.input[0], "last_bits"], ["shifted_features"]),
    ]
    tanh.input[0] = "shifted_features"
    place = list(model.graph.node).index(tanh)
    for node in reversed(nodes):
        model.graph.node.insert(place, node)


@pytest.mark.parametrize("z_dim", [3, 7, 13])
def test_sums_across_a_row_do_not_depend_on_the_batch(tmp_path, z_dim):
    """A row has the same last bit at every position of every batch size."""
    backend = make_backend(tmp_path, edit_model=_show_last_bits_of_the_mean, z_dim=z_dim)
    z = draw_latents(5, 0, 150, z_dim)
    classes = np.arange(150) % 10
    whole = backend.run(Batch(z, classes))
    for size in (1, 2, 3, 5, 7, 63, 64, 65, 149):
        for start in (0, 1, 150 - size):
            part = slice(start, start + size)
            assert backend.run(Batch(z[part], classes[part])).tobytes() == whole[part].tobytes()


def _quantize_by_batch(model):
    """Scales the latents by the extremes of their batch, as dynamic quantization does."""
    model.graph.node.insert(0, helper.make_node("DynamicQuantizeLinear", ["z"], ["q", "s", "p"]))
    model.graph.node.insert(1, helper.make_node("DequantizeLinear", ["q", "s", "p"], ["z8"]))
    for node in list(model.graph.node)[2:]:
        for place, name in enumerate(node.input):
            if name == "z":
                node.input[place] = "z8"


def _normalize_by_batch(model):
    """Adds batch normalization in training mode."""
    for name in ("scale", "bias", "mean", "var"):
        ones = numpy_helper.from_array(np.ones(24, np.float32), name)
        model.graph.initializer.append(ones)
    tanh = next(node for node in model.graph.node if node.op_type == "Tanh")
    inputs = [tanh.input[0], "scale", "bias", "mean", "var"]
    outputs = ["normal", "new_mean", "new_var"]
    node = helper.make_node("BatchNormalization", inputs, outputs, training_mode=1)
    model.graph.node.insert(list(model.graph.node).index(tanh), node)
    tanh.input[0] = "normal"


@pytest.mark.parametrize("edit", [_quantize_by_batch, _normalize_by_batch])
def test_rows_that_affect_each_other_run_alone(tmp_path, edit, caplog):
    """A graph that computes statistics of its batch runs one row at a time. The log says why."""
    backend = make_backend(tmp_path, edit_model=edit, conditional=False)
    z = draw_latents(5, 0, 64, 8)
    expected = [backend.run(Batch(z[row : row + 1])).tobytes() for row in range(8)]
    z[8:] *= 100
    whole = backend.run(Batch(z))
    assert [whole[row : row + 1].tobytes() for row in range(8)] == expected
    assert backend.batching is Batching.ALONE
    assert "rows of a batch mix in" in caplog.text


def _add_maximum_times_zero(model):
    """Adds the largest latent of the batch times zero, which changes no output."""
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0), "zero"))
    tanh = next(node for node in model.graph.node if node.op_type == "Tanh")
    nodes = [
        helper.make_node("ReduceMax", ["z"], ["largest"], keepdims=0),
        helper.make_node("Mul", ["largest", "zero"], ["nothing"]),
        helper.make_node("Add", [tanh.input[0], "nothing"], ["as_before"]),
    ]
    place = list(model.graph.node).index(tanh)
    for node in reversed(nodes):
        model.graph.node.insert(place, node)
    tanh.input[0] = "as_before"


def test_operator_over_the_batch_runs_rows_alone(tmp_path):
    """The operator of the graph decides, although the probe measures no difference."""
    backend = make_backend(tmp_path, edit_model=_add_maximum_times_zero, conditional=False)
    assert backend.batching is Batching.ALONE


@pytest.mark.parametrize(
    "statistic",
    [
        lambda z: np.abs(z).max() > 40,  # larger than any ordinary latent
        lambda z: z[: len(z) // 2].max(),
        lambda z: z.mean() * 1e-6,
    ],
)
def test_probe_detects_dependence_on_other_rows(statistic):
    """The probe detects a dependence on other rows, even one that only extreme latents show."""
    feed = {"z": draw_latents(0, 0, 64, 8)}

    def compute(feed):
        z = feed["z"]
        return z + np.float32(statistic(z)) * (len(z) > 1)

    assert find_needed_batching(compute, feed, compute(feed)) is Batching.ALONE


@pytest.mark.parametrize("thorough", [False, True])
@pytest.mark.parametrize("affected", [slice(32, None), slice(None, None, 2), slice(63, None)])
def test_probe_detects_dependence_on_the_place(affected, thorough):
    """The probe detects a last bit that depends on the place of a row within its batch."""
    feed = {"z": draw_latents(0, 0, 64, 8)}

    def compute(feed):
        z = feed["z"].copy()
        z[affected] = np.nextafter(z[affected], np.float32(9))
        return z

    assert find_needed_batching(compute, feed, compute(feed), thorough=thorough) is Batching.ALONE


def test_pixels_do_not_depend_on_other_rows(backend):
    """A row has the same pixels whichever rows share its batch."""
    z, strangers = draw_latents(5, 0, 1, 8), draw_latents(6, 0, 30, 8)
    (alone,) = backend.run(Batch(z, np.int64([7])))
    mixed = np.concatenate([strangers[:11], z, strangers[11:]])
    assert np.array_equal(backend.run(Batch(mixed, np.full(31, 7)))[11], alone)


def test_threads_share_one_backend(backend):
    """Concurrent runs on one session give the images of sequential runs."""
    batches = [draw_latents(seed, 0, 1 + seed % 7, 8) for seed in range(60)]
    expected = [backend.run(Batch(z, CLASSES[: len(z)])).tobytes() for z in batches]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda z: backend.run(Batch(z, CLASSES[: len(z)])).tobytes(), batches)
        assert list(found) == expected


@pytest.mark.parametrize("rows", [0, 1, 2, 8, 9])
def test_run_alone_gives_the_same_bytes(tmp_path, rows):
    """A batch that runs on all cores has the same pixels as on one core."""
    backend = make_backend(tmp_path, alone_threads=2)
    assert backend._alone is not None
    z, classes = draw_latents(1, 0, rows, 8), np.arange(rows) % 10
    instance = backend.open_instance()
    assert np.array_equal(instance.run_alone(Batch(z, classes)), backend.run(Batch(z, classes)))


@pytest.mark.parametrize(("rows", "uses_all_cores"), [(0, False), (1, True), (8, True), (9, False)])
def test_run_alone_uses_all_cores_for_compared_sizes(tmp_path, monkeypatch, rows, uses_all_cores):
    """Batches of 1 to 8 were compared when the model was loaded. Larger ones run on one core."""
    backend = make_backend(tmp_path, alone_threads=2)
    sizes, compute = [], backend._alone.run

    def run(feed):
        sizes.append(len(feed["z"]))
        return compute(feed)

    monkeypatch.setattr(backend._alone, "run", run)
    backend.run_alone(Batch(draw_latents(1, 0, rows, 8), CLASSES[:rows]))
    assert sizes == [rows] * uses_all_cores


def test_findings_of_another_graph_are_not_used(tmp_path):
    """If a trial saw other bytes, this graph is probed again."""
    findings = Findings("00" * 32, Batching.ALONE, False, 1)
    bundle = replace(read_bundle(write_bundle(tmp_path)), findings=findings)
    assert OnnxBackend(bundle, device="cpu").batching is Batching.AS_THEY_COME


def test_run_alone_uses_one_thread_if_bytes_differ(tmp_path, caplog, monkeypatch):
    """A session with more threads that gives other floats is not used, and the log says so."""
    monkeypatch.setattr(onnx_backend, "is_same_everywhere", lambda *_: False)
    backend = make_backend(tmp_path, alone_threads=2)
    assert backend._alone is None
    assert "gives other floats on 2 threads" in caplog.text
    images = backend.run_alone(Batch(draw_latents(1, 0, 3, 8), np.int64([0, 1, 2])))
    assert images.shape == (3, 4, 6, 1)


@pytest.mark.parametrize("odd", [8, 5, 1])
def test_difference_at_one_batch_size_is_detected(odd):
    """Sessions that differ in the last bit at one batch size are not the same."""
    feed = {"z": draw_latents(0, 0, 64, 8)}

    def compute(feed):
        return feed["z"]

    def other(feed):
        z = feed["z"]
        return np.nextafter(z, np.float32(9)) if len(z) == odd else z

    assert is_same_everywhere(compute, compute, feed, feed["z"])
    assert not is_same_everywhere(compute, other, feed, feed["z"])


@pytest.mark.parametrize("count", [9, 10, 11])
def test_every_size_is_tried_in_full(count):
    """In a small largest batch, too, a size that changes rows is found."""
    feed = {"z": draw_latents(0, 0, count, 8)}

    def compute(feed):
        z = feed["z"]
        return np.nextafter(z, np.float32(9)) if len(z) == 8 else z

    assert find_needed_batching(compute, feed, feed["z"], count) is not Batching.AS_THEY_COME


@pytest.mark.parametrize("most_rows", [1, 5, 12, 64])
def test_sessions_are_compared_in_small_batches(most_rows):
    """No batch is larger than those that will be served, and 16 rows are compared."""
    feed = {"z": draw_latents(0, 0, 64, 8)}
    sizes = set()
    seen = set()

    def compute(feed):
        sizes.add(len(feed["z"]))
        return feed["z"]

    def other(feed):
        seen.update(row.tobytes() for row in feed["z"])
        return compute(feed)

    assert is_same_everywhere(compute, other, feed, feed["z"][:most_rows], most_rows)
    assert max(sizes) <= most_rows
    assert len(seen) == 16


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (lambda z: (z.astype(np.float64), np.int64([0, 1])), "input 'z' is float64"),
        (lambda z: (z[:, :7], np.int64([0, 1])), r"not float32 \[2, 8\]"),
        (lambda z: (z[0], np.int64([0, 1])), "input 'z' is float32"),
        (lambda z: (z,), "input 'class_id' is missing, not int64"),
        (lambda z: (z, np.int64([0])), r"is int64 \[1, 1\], not int64 \[2, 1\]"),
        (lambda z: (z, np.int32([0, 1])), "input 'class_id' is int32"),
    ],
)
def test_invalid_arrays_are_refused(backend, arguments, said):
    """The error names the input whose dtype or shape is wrong."""
    with pytest.raises(ValueError, match=said):
        backend.run(Batch(*arguments(draw_latents(1, 0, 2, 8))))


def test_missing_truncation_is_refused(tmp_path):
    """A model with PSI truncation needs a value for every image."""
    backend = make_backend(tmp_path, conditional=False, truncation="psi")
    z = draw_latents(1, 0, 2, 8)
    with pytest.raises(ValueError, match="'truncation' is missing"):
        backend.run(Batch(z))
    with pytest.raises(ValueError, match=r"'truncation' is .*, not float32 \[2, 1\]"):
        backend.run(Batch(z, truncation=np.float32([1])))


def test_closed_backend_fails(backend):
    """After `close`, the session is freed and a run raises BackendFailed.

    Closing twice is allowed.
    """
    session = weakref.ref(backend._session)
    backend.close()
    backend.close()
    gc.collect()
    assert session() is None
    with pytest.raises(BackendFailed, match="closed"):
        backend.run(Batch(draw_latents(1, 0, 1, 8), np.int64([0])))


def test_provider_never_changes(backend):
    """The runtime's own fallback to another provider, which it prints, is off."""
    assert backend._session._session._enable_fallback is False


def test_log_names_the_provider(tmp_path, caplog):
    """The log says which provider runs a model and why."""
    with caplog.at_level(logging.INFO, logger="imagemint.engine.onnx.backend"):
        backend = make_backend(tmp_path)
    assert backend.provider == "CPUExecutionProvider"
    assert backend.description == f"CPUExecutionProvider {onnxruntime.__version__}"
    assert f"tiny@1 runs on {backend.description} (asked for)" in caplog.text


without_cuda = pytest.mark.skipif(
    CUDA in onnxruntime.get_available_providers(), reason="this ONNX Runtime can do CUDA"
)


@without_cuda
def test_missing_cuda_is_an_error(tmp_path):
    """Device `cuda` raises BackendFailed if the runtime has no CUDA."""
    with pytest.raises(BackendFailed, match=r"CUDA does not work: .* is a CPU build"):
        make_backend(tmp_path, device="cuda")


@without_cuda
def test_auto_falls_back_to_the_cpu(tmp_path, caplog):
    """Device `auto` falls back to the CPU, and the log says why."""
    with caplog.at_level(logging.INFO, logger="imagemint.engine.onnx.backend"):
        backend = make_backend(tmp_path, device="auto")
    assert backend.provider == "CPUExecutionProvider"
    assert "CUDA does not work" in caplog.text


def test_unknown_device_is_refused(tmp_path):
    """The error quotes the unknown device."""
    with pytest.raises(ValueError, match="'gpu'"):
        make_backend(tmp_path, device="gpu")


def test_unloadable_model_is_refused(tmp_path):
    """The error has the runtime's reason on one line."""

    def edit(model):
        model.graph.node[-1].domain = "com.microsoft"
        model.graph.node[-1].op_type = "NotYetInvented"
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))

    with pytest.raises(BundleRefused, match=r"ONNX Runtime .* cannot load it: .*NotYetInvented"):
        make_backend(tmp_path, edit_model=edit)


def test_newer_operator_set_is_refused_in_plain_words(tmp_path):
    """The reason is that of ONNX Runtime, without the place in its source that comes before it."""

    def stamp(model):
        model.opset_import[0].version = 99

    bundle = read_bundle(write_bundle(tmp_path, edit_model=stamp))
    with pytest.raises(BundleRefused, match=r"cannot load it: .*Opset 99 is under") as refused:
        OnnxBackend(bundle, device="cpu")
    assert "onnxruntime_src" not in refused.value.why
    assert "::" not in refused.value.why


def test_wrong_output_shape_is_refused(tmp_path):
    """Loading fails if the images have another shape than the graph declares."""

    def edit(model):
        tensor = next(t for t in model.graph.initializer if t.name == "nhwc")
        tensor.CopyFrom(helper.make_tensor("nhwc", TensorProto.INT64, [4], [-1, 6, 4, 1]))

    with pytest.raises(BundleRefused, match=r"its images are uint8 \(64, 6, 4, 1\), not"):
        make_backend(tmp_path, edit_model=edit)


def test_fixed_batch_is_refused(tmp_path):
    """Loading fails if the graph runs at one batch size only."""

    def edit(model):
        tensor = next(t for t in model.graph.initializer if t.name == "nhwc")
        tensor.CopyFrom(helper.make_tensor("nhwc", TensorProto.INT64, [4], [64, 4, 6, 1]))

    with pytest.raises(BundleRefused, match="ONNX Runtime cannot run it: "):
        make_backend(tmp_path, edit_model=edit)


def test_import_sends_no_telemetry(tmp_path):
    """Importing the backend writes nothing to the home directory.

    Telemetry is off from the start.
    """
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", "import imagemint.engine.onnx.backend"]
    subprocess.run(command, env=environment, check=True)
    assert not list(tmp_path.rglob("*"))


def test_sums_of_integers_need_no_thorough_probe():
    """The result of an integer sum does not depend on the order of its terms."""

    def graph(to):
        nodes = [
            helper.make_node("Cast", ["z"], ["cast"], to=to),
            helper.make_node("ReduceSum", ["cast", "axes"], ["sum"]),
        ]
        return helper.make_graph(nodes, "g", [], [])

    assert not probe_hints.reduces(graph(TensorProto.INT64))
    assert probe_hints.reduces(graph(TensorProto.FLOAT))
