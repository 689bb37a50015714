"""Tests of imagemint.engine.bundle: what it reads, and what it refuses and why."""

import errno
import hashlib
import os

import onnx
import pytest
from hostile_graphs import leaking
from onnx import TensorProto, helper
from tiny_bundles import MANIFEST_KEY, write_bundle, write_sums

from imagemint.engine.bundle import read_bundle
from imagemint.engine.errors import BundleRefused


def read_refusal(directory, **options):
    """Returns the reason why a bundle is refused."""
    with pytest.raises(BundleRefused) as caught:
        read_bundle(directory, **options)
    assert "\n" not in caught.value.why
    return caught.value.why


def test_bundle_is_read(tmp_path):
    """A valid bundle gives its manifest, spec, digest and version."""
    directory = write_bundle(tmp_path, "digits", 12)
    bundle = read_bundle(directory)
    content = (directory / "model.onnx").read_bytes()
    assert bundle.directory == directory
    assert bundle.model_path == directory / "model.onnx"
    assert bundle.manifest.title == "Tiny test model digits"
    assert (bundle.spec.name, bundle.spec.z_dim, bundle.version) == ("digits", 8, 12)
    assert bundle.sha256 == hashlib.sha256(content).hexdigest()
    assert bundle.read_model() == content


@pytest.mark.parametrize(
    "options",
    [
        {"conditional": False},
        {"truncation": "psi"},
        {"truncation": "threshold", "size": (8, 8, 3)},
        {"num_classes": 3, "z_dim": 5},
    ],
)
def test_every_kind_of_bundle_is_read(tmp_path, options):
    """Models with and without classes, each kind of truncation, gray and colour images are read."""
    spec = read_bundle(write_bundle(tmp_path, **options)).spec
    assert spec.conditional == options.get("conditional", True)
    assert (spec.truncation.kind if spec.truncation else None) == options.get("truncation")


def test_relative_path_is_read(tmp_path, monkeypatch):
    """A bundle at a relative path has the names of the absolute path."""
    directory = write_bundle(tmp_path)
    monkeypatch.chdir(directory)
    assert read_bundle(type(directory)()).version == 1


def test_truncated_model_is_refused(tiny_bundle):
    """A truncated file fails its checksum."""
    model = tiny_bundle / "model.onnx"
    model.write_bytes(model.read_bytes()[:-100])
    assert read_refusal(tiny_bundle) == "checksum mismatch: model.onnx is truncated or altered"


@pytest.mark.parametrize("keep", [0, 1, 500, -1])
def test_truncated_model_with_matching_sum_is_refused(tiny_bundle, keep):
    """A truncated file is refused even if its checksum was computed afterwards."""
    model = tiny_bundle / "model.onnx"
    model.write_bytes(model.read_bytes()[:keep])
    write_sums(tiny_bundle)
    read_refusal(tiny_bundle)


def test_file_of_another_format_is_refused(tiny_bundle):
    """The error says that the file is not ONNX."""
    (tiny_bundle / "model.onnx").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    write_sums(tiny_bundle)
    assert "not ONNX" in read_refusal(tiny_bundle)


def test_name_that_is_not_utf8_is_refused(tiny_bundle):
    """The parser accepts such a name, but reading it fails later. The fuzzer found this case."""
    path = tiny_bundle / "model.onnx"
    path.write_bytes(path.read_bytes().replace(b"Squeeze", b"Sque\xffze"))
    write_sums(tiny_bundle)
    assert "not UTF-8" in read_refusal(tiny_bundle)


def test_one_flipped_bit_is_refused(tiny_bundle):
    """Changed weights fail the checksum."""
    model = tiny_bundle / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    assert "checksum mismatch: model.onnx" in read_refusal(tiny_bundle)


def test_changed_card_is_refused(tiny_bundle):
    """The card is part of the immutable bundle and has a checksum."""
    (tiny_bundle / "card.md").write_text("# Better than it is\n")
    assert "checksum mismatch: card.md" in read_refusal(tiny_bundle)


def test_listed_documents_are_kept(tiny_bundle):
    """The bundle has the checked bytes of the card and the samples, after its graphs are loaded."""
    card = (tiny_bundle / "card.md").read_bytes()
    (tiny_bundle / "samples.png").write_bytes(b"not listed")
    (tiny_bundle / "notes.md").write_bytes(b"for nobody")
    bundle = read_bundle(tiny_bundle).without_contents()
    assert bundle.documents == {"card.md": (card, hashlib.sha256(card).hexdigest())}
    write_sums(tiny_bundle)
    assert list(read_bundle(tiny_bundle).documents) == ["card.md", "samples.png"]


def test_large_document_is_checked_and_not_kept(tiny_bundle):
    """Samples of more than 8 MiB stay on the disk."""
    samples = tiny_bundle / "samples.png"
    for size, kept in ((2**23, True), (2**23 + 1, False)):
        samples.write_bytes(bytes(size))
        write_sums(tiny_bundle)
        assert ("samples.png" in read_bundle(tiny_bundle).documents) == kept
    samples.write_bytes(bytes(size - 1))
    assert "checksum mismatch: samples.png" in read_refusal(tiny_bundle)


def test_bundle_without_documents_is_read(tiny_bundle):
    """Neither a card nor samples are required."""
    (tiny_bundle / "card.md").unlink()
    write_sums(tiny_bundle)
    assert not read_bundle(tiny_bundle).documents


@pytest.mark.parametrize("name", ["SHA256SUMS", "model.onnx", "card.md"])
def test_missing_file_is_refused(tiny_bundle, name):
    """The error names the missing file."""
    (tiny_bundle / name).unlink()
    assert read_refusal(tiny_bundle) == f"{name} is missing"


def test_missing_directory_is_refused(tmp_path):
    """A missing directory is refused like any other bundle."""
    assert "missing" in read_refusal(tmp_path / "tiny" / "1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "does not list model.onnx"),
        (f"{'0' * 64}  card.md\n", "does not list model.onnx"),
        ("what is this\n", "not `digest  name`: line 1"),
        (f"{'0' * 64}  card.md\n" * 2, "lists card.md twice"),
        (f"{'0' * 64}  ../../secret\n", "not `digest  name`"),
        (f"{'0' * 64}  /etc/hostname\n", "not `digest  name`"),
        ("\u0661\n", "not text"),
    ],
)
def test_bad_sums_are_refused(tiny_bundle, text, said):
    """SHA256SUMS has the format of sha256sum and lists the model. Names stay in the directory."""
    (tiny_bundle / "SHA256SUMS").write_text(text)
    assert said in read_refusal(tiny_bundle)


def test_large_model_is_refused_without_reading_it(tiny_bundle):
    """The reader checks the size before the content: a sparse file of 1 TB is refused at once."""
    os.truncate(tiny_bundle / "model.onnx", 2**40)
    assert "model.onnx is larger than the limit" in read_refusal(tiny_bundle)


def test_size_limit_is_inclusive(tiny_bundle):
    """A model of exactly the limit is read, and a limit one byte smaller refuses it."""
    size = (tiny_bundle / "model.onnx").stat().st_size
    assert read_bundle(tiny_bundle, max_bytes=size).version == 1
    assert "limit" in read_refusal(tiny_bundle, max_bytes=size - 1)


def test_pipe_is_refused_without_waiting(tiny_bundle):
    """A named pipe in place of the model does not block the reader."""
    (tiny_bundle / "model.onnx").unlink()
    os.mkfifo(tiny_bundle / "model.onnx")
    assert "not a regular file" in read_refusal(tiny_bundle)


def test_lack_of_descriptors_is_transient(tiny_bundle, monkeypatch):
    """A bundle that cannot be opened because of the machine may be tried again."""

    def refuse(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        with pytest.raises(BundleRefused, match="Too many open files") as caught:
            read_bundle(tiny_bundle)
    assert caught.value.passing


@pytest.mark.parametrize("version", ["0", "01", "-1", "latest", "1.5", "\u0661"])
def test_bad_version_is_refused(tmp_path, version):
    """A version is a positive decimal integer in its canonical spelling."""
    assert "the version must be a positive integer" in read_refusal(
        write_bundle(tmp_path, version=version)
    )


def test_name_must_match_its_folder(tiny_bundle):
    """A bundle that is moved to the folder of another model is refused."""
    moved = tiny_bundle.parent.rename(tiny_bundle.parent.with_name("other")) / "1"
    assert "names the model 'tiny', but its folder is 'other'" in read_refusal(moved)


def test_model_changed_after_the_check_is_refused(tiny_bundle):
    """The reader loads only the bytes that it has verified."""
    kept = read_bundle(tiny_bundle)
    checked, bundle = kept.read_model(), kept.without_contents()
    model = bytearray(bundle.model_path.read_bytes())
    model[-1] ^= 1
    bundle.model_path.write_bytes(model)
    with pytest.raises(BundleRefused, match="changed while it was being loaded"):
        bundle.read_model()
    assert kept.read_model() == checked
    bundle.model_path.unlink()
    with pytest.raises(BundleRefused, match="missing"):
        bundle.read_model()


def _set_manifest(text):
    def edit(model):
        del model.metadata_props[:]
        if text is not None:
            helper.set_model_props(model, {MANIFEST_KEY: text})

    return edit


def _duplicate_manifest(model):
    model.metadata_props.append(model.metadata_props[0])


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (_set_manifest(None), "has 0 entries"),
        (_duplicate_manifest, "has 2 entries"),
        (_set_manifest(""), "manifest is not readable"),
        (_set_manifest("[1]"), "manifest is not readable"),
        (_set_manifest('{"name": 3}'), "manifest is not readable"),
        (_set_manifest('{"formatVersion": 1, "formatVersion": 1}'), "manifest is not readable"),
        (_set_manifest("[" * 100_000), ""),
        (_set_manifest("{}"), "name"),
        (_set_manifest('{"formatVersion": 2, "wings": true}'), "format 2 is newer than 1"),
    ],
)
def test_bad_manifest_is_refused(tmp_path, edit, said):
    """A manifest that is missing, duplicate, unreadable, incomplete or too new is refused."""
    assert said in read_refusal(write_bundle(tmp_path, edit_model=edit))


def test_unknown_manifest_field_is_ignored(tmp_path):
    """The reader ignores fields that a later release of format 1 adds."""
    directory = write_bundle(
        tmp_path,
        edit_model=lambda m: _set_manifest(m.metadata_props[0].value.replace("{", '{"new": 1,', 1))(
            m
        ),
    )
    assert read_bundle(directory).version == 1


def _make_external(tensor):
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value="../../../etc/hostname")


def _make_constant(tensor):
    node = helper.make_node("Constant", [], ["k"], value=helper.make_tensor("k", 1, [1], [0.0]))
    _make_external(node.attribute[0].t)
    return node


def _make_tensor():
    return helper.make_tensor("k", TensorProto.FLOAT, [1], [0.0])


def _make_branch(*nodes, initializers=()):
    value = helper.make_tensor_value_info("k", TensorProto.FLOAT, [1])
    return helper.make_graph(list(nodes), "branch", [], [value], list(initializers))


def _make_if(branch):
    return helper.make_node("If", ["z"], ["w"], then_branch=branch, else_branch=_make_branch())


def _make_initializer_external(model):
    _make_external(model.graph.initializer[0])


def _add_location_to_initializer(model):
    model.graph.initializer[0].external_data.add(key="location", value="weights.bin")


def _add_external_attribute(model):
    model.graph.node.insert(0, _make_constant(_make_tensor()))


def _add_external_subgraph(model):
    branch = _make_branch(initializers=[_make_external_tensor()])
    model.graph.node.insert(0, _make_if(branch))


def _add_external_two_levels_down(model):
    model.graph.node.insert(
        0, _make_if(_make_branch(_make_if(_make_branch(_make_constant(_make_tensor())))))
    )


def _add_function(*nodes):
    def edit(model):
        opsets = [helper.make_opsetid("", 18)]
        model.functions.append(
            helper.make_function("com.microsoft", "Mine", ["x"], ["k"], list(nodes), opsets)
        )

    return edit


def _make_external_tensor():
    tensor = _make_tensor()
    _make_external(tensor)
    return tensor


def _make_external_sparse():
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    sparse = helper.make_sparse_tensor(_make_tensor(), indices, [4])
    _make_external(sparse.values)
    return sparse


def _add_external_sparse(model):
    model.graph.sparse_initializer.append(_make_external_sparse())


def _add_default(value):
    """Returns an edit with a function whose attribute has a default."""

    def edit(model):
        _add_function()(model)
        model.functions[0].attribute_proto.append(helper.make_attribute("default", value))

    return edit


def _add_node(op, domain=""):
    return lambda model: model.graph.node.append(helper.make_node(op, ["z"], ["w"], domain=domain))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (_make_initializer_external, "external data"),
        (_add_location_to_initializer, "external data"),
        (_add_external_attribute, "external data"),
        (_add_external_subgraph, "external data"),
        (_add_external_two_levels_down, "external data"),
        (_add_external_sparse, "external data"),
        (_add_function(_make_constant(_make_tensor())), "external data"),
        (_add_function(_make_if(_make_branch(_make_constant(_make_tensor())))), "external data"),
        (_add_default(_make_external_tensor()), "external data"),
        (_add_default([_make_external_tensor()]), "external data"),
        (_add_default(_make_external_sparse()), "external data"),
        (_add_default(_make_branch(initializers=[_make_external_tensor()])), "external data"),
        (_add_default([_make_branch(_make_constant(_make_tensor()))]), "external data"),
        (_add_default(_make_branch()), "control flow: Mine"),
        (_add_function(helper.make_node("Evil", ["x"], ["k"], domain="evil")), "domain 'evil'"),
        (_add_node("Evil", "evil.domain"), "operator 'Evil' of domain 'evil.domain'"),
        (_add_node("TreeEnsemble", "ai.onnx.ml"), "domain 'ai.onnx.ml'"),
        (
            _add_node("EPContext", "com.microsoft"),
            "uses files or code outside of the bundle: EPContext",
        ),
        (_add_node("RandomNormalLike"), "random node: RandomNormalLike"),
        (_add_node("Dropout"), "random node: Dropout"),
        (_add_node("Multinomial"), "random node: Multinomial"),
        (lambda m: m.graph.node.insert(0, _make_if(_make_branch())), "control flow: If"),
    ],
)
def test_unsupported_graph_is_refused(tmp_path, edit, said):
    """External data at any depth, foreign domains, randomness and control flow are refused."""
    assert said in read_refusal(write_bundle(tmp_path, edit_model=edit))


def test_graph_that_reads_another_file_is_refused(tmp_path, monkeypatch):
    """ONNX Runtime would read the file, and its first byte would be visible in every image."""
    (tmp_path / "secret").write_bytes(b"\1")
    monkeypatch.chdir(tmp_path)
    directory = write_bundle(tmp_path / "models", edit_model=leaking("secret"))
    assert read_refusal(directory) == "external data: tensor 'byte' is stored outside the file"


def _find_input(model, name):
    return next(value for value in model.graph.input if value.name == name)


def _change_type(name, dtype):
    def edit(model):
        _find_input(model, name).type.tensor_type.elem_type = dtype

    return edit


def _change_dimension(which, axis, size):
    def edit(model):
        value = model.graph.output[0] if which == "image" else _find_input(model, which)
        value.type.tensor_type.shape.dim[axis].dim_value = size

    return edit


def _drop_axis(model):
    del _find_input(model, "class_id").type.tensor_type.shape.dim[1]


def _drop_shape(model):
    model.graph.output[0].type.tensor_type.ClearField("shape")


def _add_second_output(model):
    model.graph.output.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, None))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda m: setattr(m.graph.input[0], "name", "noise"), "inputs are class_id, noise"),
        (lambda m: m.graph.input.pop(), "inputs are z; the manifest requires class_id, z"),
        (_add_second_output, "outputs are image, x"),
        (_change_type("z", TensorProto.DOUBLE), "input 'z' is double [N, 8], not float [N, 8]"),
        (
            _change_type("class_id", TensorProto.INT32),
            "'class_id' is int32 [N, 1], not int64 [N, 1]",
        ),
        (_change_dimension("z", 1, 9), "input 'z'"),
        (_change_dimension("z", 0, 64), "is float [64, 8], not float [N, 8], N dynamic"),
        (_change_dimension("image", 3, 3), "'image' is uint8 [N, 4, 6, 3], not uint8 [N, 4, 6, 1]"),
        (_drop_axis, "input 'class_id'"),
        (_drop_shape, "output 'image'"),
    ],
)
def test_graph_must_match_its_manifest(tmp_path, edit, said):
    """Names, types, ranks and sizes of inputs and output must be those of the manifest."""
    assert said in read_refusal(write_bundle(tmp_path, edit_model=edit))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda m: setattr(m.latent, "z_dim", 9), "input 'z' is float [N, 8], not float [N, 9]"),
        (lambda m: m.ClearField("class_labels"), "the manifest requires z"),
        (
            lambda m: setattr(m.image, "height", 5),
            "'image' is uint8 [N, 4, 6, 1], not uint8 [N, 5, 6, 1]",
        ),
    ],
)
def test_manifest_must_match_its_graph(tmp_path, edit, said):
    """A manifest that describes another graph is refused."""
    assert said in read_refusal(write_bundle(tmp_path, edit_manifest=edit))


def test_invalid_graph_is_refused(tmp_path):
    """A node without its inputs fails the ONNX checker."""

    def edit(model):
        model.graph.node[-2].input[0] = "nowhere"

    assert "not valid ONNX" in read_refusal(write_bundle(tmp_path, edit_model=edit))


def test_all_faults_are_listed(tmp_path):
    """The error lists all faults of a bundle."""

    def edit(model):
        _make_initializer_external(model)
        _add_node("Evil", "evil")(model)
        _change_dimension("z", 1, 9)(model)

    why = read_refusal(write_bundle(tmp_path, edit_model=edit))
    assert all(said in why for said in ("external data", "domain 'evil'", "input 'z'"))


def test_initializers_may_be_listed_as_inputs(tmp_path):
    """Models before IR version 4 list their weights as inputs. The reader accepts them."""

    def edit(model):
        for tensor in model.graph.initializer:
            info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            model.graph.input.append(info)

    assert isinstance(read_bundle(write_bundle(tmp_path, edit_model=edit)).sha256, str)
    assert onnx.load(tmp_path / "tiny" / "1" / "model.onnx").graph.input[2].name == "weight"
