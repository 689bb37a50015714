"""Tests of imagemint.exporter.adoption: the forms in which other programs export generators."""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError

from imagemint.engine import draw_latents
from imagemint.engine.batch import Batch
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.onnx.session import Session
from imagemint.exporter.adoption import ForeignModel, adopt
from imagemint.exporter.adoption.value_range import check_value_range
from imagemint.exporter.command import Export
from imagemint.exporter.errors import ExportError
from imagemint.exporter.export import adopt_generator

Z_DIM = 16
SIDE = 8
RNG = np.random.default_rng(0)
WEIGHTS = (RNG.standard_normal((Z_DIM, SIDE * SIDE)) / 4).astype(np.float32)
STYLES = RNG.standard_normal((3, SIDE * SIDE)).astype(np.float32)


def save_generator(path, *, nodes, inputs, output, constants=(), **options):
    """Writes a graph of `nodes` between `inputs` and the value `out` of shape `output`."""
    tensors = {"w": WEIGHTS, "styles": STYLES, **dict(constants)}
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*input_) for input_ in inputs],
        [helper.make_tensor_value_info("out", *output)],
        [numpy_helper.from_array(tensor, name) for name, tensor in tensors.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path, **options)
    return path


def make_node(kind, *names, **attributes):
    """Returns a node of `kind` whose last name is its output."""
    return helper.make_node(kind, list(names[:-1]), list(names[-1:]), **attributes)


def write_plain_file(
    path,
    *,
    batch="n",
    shape=(-1, 1, SIDE, SIDE),
    z=TensorProto.FLOAT,
    width=SIDE * SIDE,
    **options,
):
    """Writes a generator tanh(z @ w) that is reshaped to `shape`.

    A shape of None keeps the output flat. The first `width` columns of w are used.
    """
    nodes = [make_node("Cast", "z", "f", to=TensorProto.FLOAT), make_node("MatMul", "f", "v", "x")]
    nodes.append(make_node("Tanh", "x", "out" if shape is None else "t"))
    if shape is not None:
        nodes.append(make_node("Reshape", "t", "s", "out"))
    sides = [SIDE * SIDE] if shape is None else list(shape[1:])
    return save_generator(
        path,
        nodes=nodes,
        inputs=[("z", z, [batch, Z_DIM])],
        output=(TensorProto.FLOAT, [batch, *sides]),
        constants={"s": np.array(shape or [0], np.int64), "v": WEIGHTS[:, :width]},
        **options,
    )


def serve(path, repository, **told):
    """Adopts a file and returns its bundle and backend."""
    foreign = ForeignModel(path, told.pop("value_range", (-1, 1)), **told)
    bundle = adopt_generator(foreign, name="g", repository=repository, license="CC0-1.0")
    return bundle, OnnxBackend(bundle, device="cpu")


def compute_expected_images(z, dtype=np.float32, styles=0.0, width=SIDE * SIDE):
    """Returns the images uint8 of tanh(z @ w + styles), [N, 8, 8, 1], or flat if less wide."""
    values = np.tanh(z.astype(dtype).astype(np.float32) @ WEIGHTS[:, :width] + styles)
    levels = np.rint((values + 1) * 127.5)
    return levels.reshape(-1, SIDE, SIDE, 1) if width == SIDE * SIDE else levels


@pytest.mark.parametrize("where", ["elsewhere", "folder"])
def test_weights_in_second_file_are_adopted(tmp_path, monkeypatch, where):
    """The second file is found next to the model, whatever the current directory is."""
    folder = tmp_path / "folder"
    folder.mkdir()
    write_plain_file(
        folder / "g.onnx", save_as_external_data=True, location="g.onnx.data", size_threshold=100
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / where)
    bundle, backend = serve(
        (folder / "g.onnx") if where == "elsewhere" else type(folder)("g.onnx"), tmp_path / "r"
    )
    z = draw_latents(1, 0, 5, Z_DIM)
    assert np.abs(backend.run(Batch(z)) - compute_expected_images(z)).max() <= 1
    assert bundle.manifest.training.checkpoint_sha256 not in ("", "0" * 64)


def test_digest_covers_second_file(tmp_path):
    """Two models that differ only in their weights have different digests."""
    path = write_plain_file(
        tmp_path / "g.onnx", save_as_external_data=True, location="g.data", size_threshold=100
    )
    first = adopt(ForeignModel(path, (-1, 1))).sha256
    data = bytearray((tmp_path / "g.data").read_bytes())
    data[2] ^= 1
    (tmp_path / "g.data").write_bytes(data)
    assert adopt(ForeignModel(path, (-1, 1))).sha256 != first


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.unlink(), "second file, and g.data is not beside it"),
        (lambda data: data.rename(data.with_suffix(".moved")), "external_data=False"),
        (lambda data: (data.unlink(), data.mkdir()), "is no regular file"),
        (lambda data: (data.unlink(), os.mkfifo(data)), "is no regular file"),
        (lambda data: data.write_bytes(b"short"), "its weights cannot be read"),
    ],
)
def test_missing_weights_are_an_error(tmp_path, monkeypatch, change, said):
    """A model without its second file is refused, even if the current directory has one."""
    path = write_plain_file(
        tmp_path / "g.onnx", save_as_external_data=True, location="g.data", size_threshold=100
    )
    other = tmp_path / "other"
    other.mkdir()
    (other / "g.data").write_bytes((tmp_path / "g.data").read_bytes())
    monkeypatch.chdir(other)
    change(tmp_path / "g.data")
    with pytest.raises(ExportError, match=said):
        adopt(ForeignModel(path, (-1, 1)))


def test_weights_outside_directory_are_refused(tmp_path):
    """The location of weights must be a plain file name."""
    path = write_plain_file(
        tmp_path / "g.onnx", save_as_external_data=True, location="g.data", size_threshold=100
    )
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../g.data"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="no plain file name"):
        adopt(ForeignModel(path, (-1, 1)))


def test_file_runs_few_images_at_once(tmp_path, monkeypatch):
    """Activations of many large images do not fit into memory, so the file gets seven at once."""
    rows = []
    run = Session.run

    def record(self, feed, output=None):
        rows.append(len(feed.get("z.as_float32", [])))
        return run(self, feed, output)

    monkeypatch.setattr(Session, "run", record)
    serve(write_plain_file(tmp_path / "g.onnx"), tmp_path / "r")
    assert max(rows) == 7


@pytest.mark.parametrize(("declared", "batch"), [(1, 1), (4, 4), ("n", 1)])
def test_fixed_batch_becomes_dynamic(tmp_path, declared, batch):
    """A Reshape to a fixed batch size is made dynamic, even if the inputs declare any size."""
    path = write_plain_file(tmp_path / "g.onnx", batch=declared, shape=(batch, 1, SIDE, SIDE))
    _, backend = serve(path, tmp_path / "r")
    z = draw_latents(1, 0, 7, Z_DIM)
    assert np.abs(backend.run(Batch(z)) - compute_expected_images(z)).max() <= 1


def test_graph_of_one_batch_size_is_refused(tmp_path):
    """If the batch size cannot be made dynamic, the error says what to change in the export."""
    nodes = [
        make_node("MatMul", "z", "w", "x"),
        make_node("Tanh", "x", "t"),
        make_node("Reshape", "t", "flat", "f"),  # into [64]: no axis is the batch
        make_node("Reshape", "f", "s", "out"),
    ]
    path = save_generator(
        tmp_path / "g.onnx",
        nodes=nodes,
        inputs=[("z", TensorProto.FLOAT, [1, Z_DIM])],
        output=(TensorProto.FLOAT, [1, 1, SIDE, SIDE]),
        constants={"flat": np.array([64]), "s": np.array([1, 1, SIDE, SIDE])},
    )
    with pytest.raises(ExportError, match=r"batches of 1\. Export it with a dynamic first axis"):
        adopt(ForeignModel(path, (-1, 1)))


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_latents_are_cast(tmp_path, dtype):
    """Latents are cast to the type of the input."""
    _, backend = serve(write_plain_file(tmp_path / "g.onnx", z=dtype), tmp_path / "r")
    z = draw_latents(1, 0, 5, Z_DIM)
    expected = compute_expected_images(z, helper.tensor_dtype_to_np_dtype(dtype))
    assert np.abs(backend.run(Batch(z)) - expected).max() <= 1


def test_float16_generator_is_adopted(tmp_path):
    """A generator that computes in float16 agrees with its bundle within the default tolerance."""
    path = save_generator(
        tmp_path / "g.onnx",
        nodes=[
            make_node("MatMul", "z", "half", "x"),
            make_node("Tanh", "x", "t"),
            make_node("Reshape", "t", "s", "out"),
        ],
        inputs=[("z", TensorProto.FLOAT16, ["n", Z_DIM])],
        output=(TensorProto.FLOAT16, ["n", 1, SIDE, SIDE]),
        constants={"half": WEIGHTS.astype(np.float16), "s": np.array([-1, 1, SIDE, SIDE])},
    )
    _, backend = serve(path, tmp_path / "r")
    z = draw_latents(1, 0, 5, Z_DIM)
    assert np.abs(backend.run(Batch(z)) - compute_expected_images(z)).max() <= 1


def test_float16_dcgan_is_adopted(tmp_path):
    """Nodes that are replaced or folded in float32 stay as they are in float16."""
    half = {
        "w": WEIGHTS[:, :32],
        "statistics": np.float16([0.5, 1]),
        "kernel": np.random.default_rng(1).standard_normal((2, 1, 4, 4)) / 2,
    }
    statistics = ["statistics"] * 4
    path = save_generator(
        tmp_path / "g.onnx",
        nodes=[
            make_node("Gemm", "z", "w", "h"),
            make_node("Reshape", "h", "s", "r"),
            make_node("BatchNormalization", "r", *statistics, "b"),
            make_node("Relu", "b", "x"),
            make_node(
                "ConvTranspose",
                *("x", "kernel", "u"),
                kernel_shape=[4, 4],
                strides=[2, 2],
                pads=[1, 1, 1, 1],
            ),
            make_node("Tanh", "u", "out"),
        ],
        inputs=[("z", TensorProto.FLOAT16, ["n", Z_DIM])],
        output=(TensorProto.FLOAT16, ["n", 1, SIDE, SIDE]),
        constants={name: value.astype(np.float16) for name, value in half.items()}
        | {"s": np.array([-1, 2, 4, 4])},
    )
    bundle, _ = serve(path, tmp_path / "r")
    operators = {node.op_type for node in onnx.load(bundle.model_path).graph.node}
    assert {"BatchNormalization", "ConvTranspose"} <= operators


def test_resize_by_scales_becomes_dynamic(tmp_path):
    """A file for one image that enlarges by scales is adopted: its scales have no batch size."""
    path = save_generator(
        tmp_path / "g.onnx",
        nodes=[
            make_node("MatMul", "z", "v", "x"),
            make_node("Reshape", "x", "s", "small"),
            helper.make_node("Resize", ["small", "", "scales"], ["large"], mode="nearest"),
            make_node("Tanh", "large", "out"),
        ],
        inputs=[("z", TensorProto.FLOAT, [1, Z_DIM])],
        output=(TensorProto.FLOAT, [1, 1, SIDE, SIDE]),
        constants={
            "v": WEIGHTS[:, :16],
            "s": np.array([1, 1, 4, 4]),
            "scales": np.array([1, 1, 2, 2], np.float32),
        },
    )
    _, backend = serve(path, tmp_path / "r")
    z = draw_latents(1, 0, 5, Z_DIM)
    small = compute_expected_images(z, width=16).reshape(-1, 4, 4, 1)
    assert np.abs(backend.run(Batch(z)) - small.repeat(2, 1).repeat(2, 2)).max() <= 1


def test_constant_of_the_whole_batch_keeps_its_shape(tmp_path):
    """An input [1] beside latents [N, z] gets one number, not one for each image."""
    path = write_stylegan_file(tmp_path / "g.onnx", psi=(1,))
    told = {"fixed_inputs": {"truncation_psi": 0.5, "c": 0.0}}
    _, backend = serve(path, tmp_path / "r", **told)
    z = draw_latents(1, 0, 5, Z_DIM)
    assert np.abs(backend.run(Batch(z)) - compute_expected_images(z * 0.5)).max() <= 1


@pytest.mark.parametrize("shape", [["n"], ["n", 1]])
def test_float_classes_are_recognized_by_name(tmp_path, shape):
    """One float for each image, in an input with a common name for classes, takes the classes."""
    nodes = [
        make_node("Cast", "label", "i", to=TensorProto.INT64),
        make_node("Reshape", "i", "flat", "y"),
        make_node("Gather", "styles", "y", "e"),
        make_node("MatMul", "z", "w", "x"),
        make_node("Add", "x", "e", "a"),
        make_node("Reshape", "a", "s", "r"),
        make_node("Tanh", "r", "out"),
    ]
    path = save_generator(
        tmp_path / "g.onnx",
        nodes=nodes,
        inputs=[("z", TensorProto.FLOAT, ["n", Z_DIM]), ("label", TensorProto.FLOAT, shape)],
        output=(TensorProto.FLOAT, ["n", 1, SIDE, SIDE]),
        constants={"s": np.array([-1, 1, SIDE, SIDE]), "flat": np.array([-1])},
    )
    _, backend = serve(path, tmp_path / "r", class_labels=("a", "b", "c"))
    z, classes = draw_latents(1, 0, 3, Z_DIM), np.array([2, 0, 1])
    expected = compute_expected_images(z, styles=STYLES[classes])
    assert np.abs(backend.run(Batch(z, classes)) - expected).max() <= 1
    with pytest.raises(ExportError, match="takes class 2 but not 3, 'd': it has fewer than 4"):
        adopt(ForeignModel(path, (-1, 1), class_labels=("a", "b", "c", "d")))


@pytest.mark.parametrize("shape", [None, (-1, SIDE, SIDE)])
def test_output_without_channels_is_gray(tmp_path, shape):
    """A flat output with its shape, and images [N, H, W], are images of one channel."""
    path = write_plain_file(tmp_path / "g.onnx", shape=shape)
    told = {"image_shape": (SIDE, SIDE, 1)} if shape is None else {}
    bundle, backend = serve(path, tmp_path / "r", **told)
    z = draw_latents(1, 0, 5, Z_DIM)
    assert bundle.spec.channels == 1
    assert np.abs(backend.run(Batch(z)) - compute_expected_images(z)).max() <= 1


@pytest.mark.parametrize(
    ("shape", "told", "said"),
    [
        (None, {}, "flat: 64 values for each image. Use --image-shape"),
        (None, {"image_shape": (28, 28, 1)}, "--image-shape says"),
        (None, {"image_shape": (-8, -8, 1)}, "--image-shape says"),
        (None, {"image_shape": (4, 4, 4)}, "its 4 channels may come first or last. Use --layout"),
        ((-1, 1, SIDE, SIDE), {"image_shape": (4, 16, 1)}, "only a flat output needs it"),
        ((-1, 4, 4, 4), {"layout": "nchw"}, "no axis of 1 or 3 channels"),
        ((SIDE, SIDE, 1, -1), {}, "Export it with the batch as the first axis"),
        ((-1, 1, SIDE, SIDE), {"value_range": (1, -1)}, "Did you mean --value-range=-1,1"),
        ((-1, 1, SIDE, SIDE), {"value_range": (0, 1e-45)}, "must be a float32"),
        ((-1, SIDE, SIDE, 1), {"layout": "nchw"}, "Use --layout nhwc"),
        ((-1, 2, 4, SIDE), {}, "no axis of 1 or 3 channels"),
        ((-1, 1, 64, 1), {}, "may be NCHW or NHWC. Use --layout"),
        ((-1, 2, 2, 2, 8), {}, "no batch of images"),
        ((-1, 1, SIDE, SIDE), {"value_range": (0, 255)}, r"they use 0.4% of it. Did .*=-1,1"),
        ((-1, 1, SIDE, SIDE), {"value_range": (0, 1)}, r"% of them are outside. Did .*=-1,1"),
    ],
)
def test_wrong_description_names_the_option(tmp_path, shape, told, said):
    """The error says what was found and which option helps."""
    path = write_plain_file(tmp_path / "g.onnx", shape=shape)
    with pytest.raises(ExportError, match=said):
        adopt(ForeignModel(path, **{"value_range": (-1, 1), **told}))


def test_value_range_check_can_be_disabled(tmp_path):
    """A value range that contradicts the values is accepted if the check is off."""
    path = write_plain_file(tmp_path / "g.onnx")
    adopted = adopt(ForeignModel(path, (0, 1), check_value_range=False))
    assert adopted.warnings == ()


def test_low_contrast_is_a_warning(tmp_path):
    """A range of which the values use half is adopted with a warning."""
    path = write_plain_file(tmp_path / "g.onnx")
    (warning,) = adopt(ForeignModel(path, (-1, 3))).warnings
    assert "they use 50% of it" in warning
    assert "Did you mean --value-range=-1,1?" in warning


def test_values_without_level_are_refused(tmp_path):
    """A file that gives NaN for some latents only is refused, also where any range is accepted."""
    path = save_generator(
        tmp_path / "g.onnx",
        nodes=[
            make_node("MatMul", "z", "w", "x"),
            make_node("Sub", "x", "limit", "d"),
            make_node("Sqrt", "d", "r"),
            make_node("Reshape", "r", "s", "out"),
        ],
        inputs=[("z", TensorProto.FLOAT, ["n", Z_DIM])],
        output=(TensorProto.FLOAT, ["n", 1, SIDE, SIDE]),
        # The first 32 latents, which the adoption looks at, are above it.
        constants={"limit": np.float32(-4), "s": np.array([-1, 1, SIDE, SIDE])},
    )
    with pytest.raises(ExportError, match=r"are NaN in g\.onnx"):
        serve(path, tmp_path / "r", check_value_range=False)


def test_low_contrast_suggests_no_wider_range(tmp_path):
    """A wider range of which the values would use even less is not suggested."""
    quiet = np.linspace(-0.2, 0.2, 1000, dtype=np.float32)
    (warning,) = check_value_range(quiet, (-1, 1))
    assert "they use 20% of it" in warning
    assert "Did you mean" not in warning


def test_image_shape_keeps_layout_of_output(tmp_path):
    """The shape of an image does not rearrange an output NHWC."""
    path = write_plain_file(tmp_path / "g.onnx", shape=(-1, 4, 4, 3), width=48)
    bundle, backend = serve(path, tmp_path / "r", image_shape=(4, 4, 3))
    z = draw_latents(1, 0, 5, Z_DIM)
    expected = compute_expected_images(z, width=48).reshape(-1, 4, 4, 3)
    assert bundle.spec.channels == 3
    assert np.abs(backend.run(Batch(z)) - expected).max() <= 1


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_flat_colours_take_the_declared_layout(tmp_path, layout):
    """A flat output with 3 channels is arranged as declared."""
    path = write_plain_file(tmp_path / "g.onnx", shape=(-1, 48), width=48)
    _, backend = serve(path, tmp_path / "r", image_shape=(4, 4, 3), layout=layout)
    z = draw_latents(1, 0, 5, Z_DIM)
    flat = compute_expected_images(z, width=48)
    expected = flat.reshape(-1, 4, 4, 3)
    if layout == "nchw":
        expected = flat.reshape(-1, 3, 4, 4).transpose(0, 2, 3, 1)
    assert np.abs(backend.run(Batch(z)) - expected).max() <= 1


def write_stylegan_file(path, *, c=("c", TensorProto.FLOAT, ["n", 3]), psi=("n", 1)):
    """Writes a generator of z, one-hot c and truncation_psi, as StyleGAN exports it."""
    nodes = [make_node("MatMul", "z", "w", "x0"), make_node("Mul", "x0", "truncation_psi", "x")]
    value = "x"
    if c[2][-1]:
        nodes += [make_node("MatMul", "c", "styles", "e"), make_node("Add", "x", "e", "y")]
        value = "y"
    nodes += [make_node("Reshape", value, "s", "r"), make_node("Tanh", "r", "out")]
    return save_generator(
        path,
        nodes=nodes,
        inputs=[
            ("z", TensorProto.FLOAT, ["n", Z_DIM]),
            c,
            ("truncation_psi", TensorProto.FLOAT, list(psi)),
        ],
        output=(TensorProto.FLOAT, ["n", 1, SIDE, SIDE]),
        constants={"s": np.array([-1, 1, SIDE, SIDE])},
    )


def test_stylegan_inputs_are_recognized(tmp_path):
    """One-hot classes are recognized by their width, and psi by its name."""
    path = write_stylegan_file(tmp_path / "g.onnx")
    bundle, backend = serve(path, tmp_path / "r", class_labels=("a", "b", "c"))
    z, classes = draw_latents(1, 0, 5, Z_DIM), np.array([0, 1, 2, 1, 0])
    psi = np.linspace(0, 1, 5, dtype=np.float32)
    expected = compute_expected_images(z * psi[:, None], styles=STYLES[classes])
    assert bundle.spec.truncation is not None
    assert np.abs(backend.run(Batch(z, classes, truncation=psi)) - expected).max() <= 1


def test_stylegan_without_classes_is_adopted(tmp_path):
    """Labels [N, 0] are ignored, and a psi of the whole batch is fixed to a number."""
    path = write_stylegan_file(tmp_path / "g.onnx", c=("c", TensorProto.FLOAT, ["n", 0]), psi=())
    _, backend = serve(path, tmp_path / "r", fixed_inputs={"truncation_psi": 0.5})
    z = draw_latents(1, 0, 5, Z_DIM)
    assert np.abs(backend.run(Batch(z)) - compute_expected_images(z * 0.5)).max() <= 1


@pytest.mark.parametrize(
    ("made", "told", "said"),
    [
        ({"psi": ()}, {"class_labels": ("a", "b", "c")}, "--fix-input truncation_psi=1"),
        ({"psi": (1,)}, {"class_labels": ("a", "b", "c")}, "--fix-input truncation_psi=1"),
        ({}, {}, r"Input 'c' .*Use --class-input c and --labels, or .* --ignore-input c"),
        ({}, {"class_input": "c"}, "Use --labels or --labels-file"),
        ({}, {"class_labels": ("a", "b")}, r"2 labels are given.*Input 'c' .* may take 3 classes"),
        ({}, {"fixed_inputs": {"w": 1.0}}, "There is no input 'w'"),
        (
            {"c": ("c", TensorProto.INT8, ["n", 3])},
            {"fixed_inputs": {"c": 300.0}},
            r"Input 'c' \(int8 \[\?, 3\]\) cannot take 300\. Correct --fix-input c",
        ),
        ({"c": ("c", TensorProto.INT8, ["n", 3])}, {"fixed_inputs": {"c": 1.5}}, "cannot take 1.5"),
        ({"c": ("c", TensorProto.FLOAT16, ["n", 3])}, {"fixed_inputs": {"c": 1e6}}, "cannot take"),
        ({"c": ("c", TensorProto.STRING, ["n", 3])}, {"fixed_inputs": {"c": 0.0}}, "no bundle can"),
        ({}, {"fixed_inputs": {"c": 0.0, "z": 0.0}}, "No input is left for the latents"),
        (
            {},
            {"fixed_inputs": {"c": 0.0}, "truncation_input": "c"},
            r"Input 'c' .* cannot take psi and a constant",
        ),
    ],
)
def test_unmapped_input_names_the_option(tmp_path, made, told, said):
    """The error names every unmapped input with the options that map it."""
    with pytest.raises(ExportError, match=said):
        adopt(ForeignModel(write_stylegan_file(tmp_path / "g.onnx", **made), (-1, 1), **told))


def test_ignored_input_is_zero(tmp_path):
    """--ignore-input sets an input to zeros."""
    path = write_stylegan_file(tmp_path / "g.onnx")
    _, backend = serve(path, tmp_path / "r", fixed_inputs={"c": 0.0})
    z = draw_latents(1, 0, 5, Z_DIM)
    full = np.ones(5, np.float32)
    assert np.abs(backend.run(Batch(z, truncation=full)) - compute_expected_images(z)).max() <= 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\r\nb\n\xe9 and f\n\n", None),
        ("\ufeffa\nb\nc", None),
        ("a\n\nc\n", "line 2 is empty"),
        ("", "it is empty"),
    ],
)
def test_labels_file_is_read(tmp_path, capsys, text, said):
    """A labels file has one label per line."""
    labels = tmp_path / "labels.txt"
    labels.write_bytes(text.encode())
    export = Export(
        from_onnx=write_stylegan_file(tmp_path / "g.onnx"),
        name="g",
        repository=tmp_path / "r",
        license="CC0-1.0",
        value_range=(-1, 1),
        labels_file=labels,
    )
    if said is not None:
        with pytest.raises(ExportError, match=said):
            export.run()
        return
    assert export.run() == 0
    card = (tmp_path / "r" / "g" / "1" / "card.md").read_text()
    assert "Classes by index: a, b, " in card
    assert "how it was trained is not recorded" in card
    assert "seed: 0" not in card
    assert "real images seen" not in card
    assert f"imagemint serve --repository {tmp_path / 'r'}" in capsys.readouterr().out


def test_labels_have_one_source():
    """--labels and --labels-file exclude each other."""
    with pytest.raises(ValidationError, match="--labels or --labels-file"):
        Export(
            from_onnx="g.onnx",
            name="g",
            license="CC0-1.0",
            value_range=(-1, 1),
            labels=["a"],
            labels_file="x",
        )
