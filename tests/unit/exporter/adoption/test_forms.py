"""Tests of imagemint.exporter.adoption: the forms in which other programs export generators."""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError

from imagemint.engine import latents
from imagemint.engine.batch import Batch
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.exporter.adoption import ForeignModel, adopt
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
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info("out", *output)],
        [numpy_helper.from_array(each, name) for name, each in tensors.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path, **options)
    return path


def node(kind, *names, **attributes):
    """A node of `kind` whose last name is its output."""
    return helper.make_node(kind, list(names[:-1]), list(names[-1:]), **attributes)


def plain_file(path, *, batch="n", shape=(-1, 1, SIDE, SIDE), z=TensorProto.FLOAT, **options):
    """A generator tanh(z @ w), reshaped to `shape`; None leaves its output flat."""
    nodes = [node("Cast", "z", "f", to=TensorProto.FLOAT), node("MatMul", "f", "w", "x")]
    nodes.append(node("Tanh", "x", "out" if shape is None else "t"))
    if shape is not None:
        nodes.append(node("Reshape", "t", "s", "out"))
    sides = [SIDE * SIDE] if shape is None else list(shape[1:])
    return save_generator(
        path,
        nodes=nodes,
        inputs=[("z", z, [batch, Z_DIM])],
        output=(TensorProto.FLOAT, [batch, *sides]),
        constants={"s": np.array(shape or [0], np.int64)},
        **options,
    )


def serve(path, repository, **told):
    """Adopts a file and returns its bundle and backend."""
    foreign = ForeignModel(path, told.pop("value_range", (-1, 1)), **told)
    bundle = adopt_generator(foreign, name="g", repository=repository, license="CC0-1.0")
    return bundle, OnnxBackend(bundle, device="cpu")


def expected_images(z, dtype=np.float32, styles=0.0):
    """Images uint8 [N, 8, 8, 1] of tanh(z @ w + styles)."""
    values = np.tanh(z.astype(dtype).astype(np.float32) @ WEIGHTS + styles)
    return np.rint((values + 1) * 127.5).reshape(-1, SIDE, SIDE, 1)


@pytest.mark.parametrize("where", ["elsewhere", "folder"])
def test_weights_in_second_file_are_adopted(tmp_path, monkeypatch, where):
    """The second file is found beside the model, from whatever directory the command runs."""
    folder = tmp_path / "folder"
    folder.mkdir()
    plain_file(
        folder / "g.onnx", save_as_external_data=True, location="g.onnx.data", size_threshold=100
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / where)
    bundle, backend = serve(
        (folder / "g.onnx") if where == "elsewhere" else type(folder)("g.onnx"), tmp_path / "r"
    )
    z = latents(1, 0, 5, Z_DIM)
    assert np.abs(backend.run(Batch(z)) - expected_images(z)).max() <= 1
    assert bundle.manifest.training.checkpoint_sha256 not in ("", "0" * 64)


def test_digest_covers_second_file(tmp_path):
    """Two models that differ in their weights alone have different digests."""
    path = plain_file(
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
def test_missing_weights_are_named(tmp_path, monkeypatch, change, said):
    """Without its second file a model is refused, even where the current directory has one."""
    path = plain_file(
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
    """A path in place of a plain name is not followed."""
    path = plain_file(
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


@pytest.mark.parametrize(("declared", "batch"), [(1, 1), (4, 4), ("n", 1)])
def test_fixed_batch_becomes_dynamic(tmp_path, declared, batch):
    """A Reshape that holds the batch size is freed, even where the inputs declare any size."""
    path = plain_file(tmp_path / "g.onnx", batch=declared, shape=(batch, 1, SIDE, SIDE))
    _, backend = serve(path, tmp_path / "r")
    z = latents(1, 0, 7, Z_DIM)
    assert np.abs(backend.run(Batch(z)) - expected_images(z)).max() <= 1


def test_graph_of_one_batch_size_is_refused(tmp_path):
    """Where the batch size cannot be freed, the message says what to change in the export."""
    nodes = [
        node("MatMul", "z", "w", "x"),
        node("Tanh", "x", "t"),
        node("Reshape", "t", "flat", "f"),  # into [64]: no axis is the batch
        node("Reshape", "f", "s", "out"),
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
def test_latents_of_other_precision(tmp_path, dtype):
    """Latents are cast to the type that the file takes."""
    _, backend = serve(plain_file(tmp_path / "g.onnx", z=dtype), tmp_path / "r")
    z = latents(1, 0, 5, Z_DIM)
    expected = expected_images(z, helper.tensor_dtype_to_np_dtype(dtype))
    assert np.abs(backend.run(Batch(z)) - expected).max() <= 1


@pytest.mark.parametrize("shape", [None, (-1, SIDE, SIDE)])
def test_output_without_channels(tmp_path, shape):
    """A flat output with its shape, and gray images [N, H, W], are images of one channel."""
    path = plain_file(tmp_path / "g.onnx", shape=shape)
    told = {"image_shape": (SIDE, SIDE, 1)} if shape is None else {}
    bundle, backend = serve(path, tmp_path / "r", **told)
    z = latents(1, 0, 5, Z_DIM)
    assert bundle.spec.channels == 1
    assert np.abs(backend.run(Batch(z)) - expected_images(z)).max() <= 1


@pytest.mark.parametrize(
    ("shape", "told", "said"),
    [
        (None, {}, "flat: 64 values for each image. Use --image-shape"),
        (None, {"image_shape": (28, 28, 1)}, "--image-shape says"),
        ((-1, SIDE, SIDE, 1), {"layout": "nchw"}, "Use --layout nhwc"),
        ((-1, 2, 4, SIDE), {}, "no axis of 1 or 3 channels"),
        ((-1, 1, 64, 1), {}, "may be NCHW or NHWC. Use --layout"),
        ((-1, 2, 2, 2, 8), {}, "no batch of images"),
        ((-1, 1, SIDE, SIDE), {"value_range": (0, 255)}, r"they use 0.4% of it. Did .*=-1,1"),
        ((-1, 1, SIDE, SIDE), {"value_range": (0, 1)}, r"% of them are outside. Did .*=-1,1"),
    ],
)
def test_wrong_description_names_the_option(tmp_path, shape, told, said):
    """The message says what was found and which option helps."""
    path = plain_file(tmp_path / "g.onnx", shape=shape)
    with pytest.raises(ExportError, match=said):
        adopt(ForeignModel(path, **{"value_range": (-1, 1), **told}))


def test_odd_value_range_is_possible(tmp_path):
    """A range that the values contradict is taken when the user insists."""
    path = plain_file(tmp_path / "g.onnx")
    adopted = adopt(ForeignModel(path, (0, 1), check_value_range=False))
    assert adopted.warnings == ()


def test_low_contrast_is_a_warning(tmp_path):
    """A range of which half is used is adopted with a warning."""
    path = plain_file(tmp_path / "g.onnx")
    (warning,) = adopt(ForeignModel(path, (-1, 3))).warnings
    assert "they use 50% of it" in warning
    assert "Did you mean --value-range=-1,1?" in warning


def stylegan_file(path, *, c=("c", TensorProto.FLOAT, ["n", 3]), psi=("n", 1)):
    """A generator of z, one-hot c and truncation_psi, as StyleGAN's exports have them."""
    nodes = [node("MatMul", "z", "w", "x0"), node("Mul", "x0", "truncation_psi", "x")]
    value = "x"
    if c[2][-1]:
        nodes += [node("MatMul", "c", "styles", "e"), node("Add", "x", "e", "y")]
        value = "y"
    nodes += [node("Reshape", value, "s", "r"), node("Tanh", "r", "out")]
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


def test_stylegan_inputs(tmp_path):
    """One-hot classes are found by their width, psi by its name."""
    path = stylegan_file(tmp_path / "g.onnx")
    bundle, backend = serve(path, tmp_path / "r", class_labels=("a", "b", "c"))
    z, classes = latents(1, 0, 5, Z_DIM), np.array([0, 1, 2, 1, 0])
    psi = np.linspace(0, 1, 5, dtype=np.float32)
    expected = expected_images(z * psi[:, None], styles=STYLES[classes])
    assert bundle.spec.truncation is not None
    assert np.abs(backend.run(Batch(z, classes, truncation=psi)) - expected).max() <= 1


def test_stylegan_without_classes(tmp_path):
    """Labels [N, 0] take nothing, and a psi for the whole batch is fixed to a number."""
    path = stylegan_file(tmp_path / "g.onnx", c=("c", TensorProto.FLOAT, ["n", 0]), psi=())
    _, backend = serve(path, tmp_path / "r", fixed_inputs={"truncation_psi": 0.5})
    z = latents(1, 0, 5, Z_DIM)
    assert np.abs(backend.run(Batch(z)) - expected_images(z * 0.5)).max() <= 1


@pytest.mark.parametrize(
    ("made", "told", "said"),
    [
        ({"psi": ()}, {"class_labels": ("a", "b", "c")}, "--fix-input truncation_psi=1"),
        ({"psi": (1,)}, {"class_labels": ("a", "b", "c")}, "--fix-input truncation_psi=1"),
        ({}, {}, r"Input 'c' .*Use --class-input c and --labels, or --ignore-input c"),
        ({}, {"class_input": "c"}, "Use --labels or --labels-file"),
        ({}, {"class_labels": ("a", "b")}, "Which is the class input"),
        ({}, {"fixed_inputs": {"w": 1.0}}, "There is no input 'w'"),
    ],
)
def test_unmapped_input_names_the_option(tmp_path, made, told, said):
    """Every input that nothing maps is named with the options that map it."""
    with pytest.raises(ExportError, match=said):
        adopt(ForeignModel(stylegan_file(tmp_path / "g.onnx", **made), (-1, 1), **told))


def test_ignored_input_is_zero(tmp_path):
    """--ignore-input fills an input with zeros."""
    path = stylegan_file(tmp_path / "g.onnx")
    _, backend = serve(path, tmp_path / "r", fixed_inputs={"c": 0.0})
    z = latents(1, 0, 5, Z_DIM)
    full = np.ones(5, np.float32)
    assert np.abs(backend.run(Batch(z, truncation=full)) - expected_images(z)).max() <= 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\r\nb\n\xe9 and f\n\n", None),
        ("\ufeffa\nb\nc", None),
        ("a\n\nc\n", "line 2 is empty"),
        ("", "it is empty"),
    ],
)
def test_labels_file(tmp_path, capsys, text, said):
    """A file of labels holds one text a line."""
    labels = tmp_path / "labels.txt"
    labels.write_bytes(text.encode())
    export = Export(
        from_onnx=stylegan_file(tmp_path / "g.onnx"),
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


def test_labels_come_from_one_place():
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
