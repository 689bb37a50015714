"""Tests of imagemint.engine.bundle.variants and of bundles with variants."""

import logging
from pathlib import Path

import numpy as np
import pytest
from tiny_bundles import write_bundle, write_sums, write_variant

from imagemint.engine import draw_latents
from imagemint.engine.batch import Batch
from imagemint.engine.bundle import read_bundle, variants
from imagemint.engine.bundle.variants import Variant, choose_variant
from imagemint.engine.errors import BundleRefused
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.v1 import manifest_pb2 as pb


def _make_variant(name, precision, target):
    return Variant(name, Path(f"{name}.onnx"), "00" * 32, 1, precision, target)


EACH = (
    _make_variant("fp32", "fp32", None),
    _make_variant("int8", "int8", "cpu"),
    _make_variant("fp16", "fp16", "cuda"),
)


@pytest.fixture
def dot_products(monkeypatch):
    """A function that sets whether the processor has dot products of bytes."""
    return lambda has: monkeypatch.setattr(variants, "has_dot_products", lambda: has)


@pytest.mark.parametrize(
    ("device", "asked", "name"),
    [
        ("cpu", "auto", "int8"),
        ("cuda", "auto", "fp16"),
        ("cpu", "reference", "fp32"),
        ("cuda", "int8", "int8"),
        ("cpu", "fp32", "fp32"),
    ],
)
def test_variant_for_the_device_is_chosen(dot_products, device, asked, name):
    """The variant for the device is chosen unless the caller names another."""
    dot_products(True)
    assert choose_variant(EACH, device, asked)[0].name == name


def test_auto_avoids_slow_integers(dot_products):
    """A processor without dot products of bytes runs model.onnx, and the reason says so."""
    dot_products(False)
    variant, why = choose_variant(EACH, "cpu", "auto")
    assert (variant.name, why) == ("fp32", "this processor lacks what int8 needs")
    assert choose_variant(EACH, "cpu", "int8")[0].name == "int8"


def test_bundle_without_variants_runs_model_onnx():
    """A bundle without a variant for the device runs model.onnx."""
    assert choose_variant(EACH[:1], "cpu", "auto") == (EACH[0], "none was made for cpu")


@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("flags\t\t: fpu avx512f avx512_vnni\n", True),
        ("flags\t\t: fpu avx2 avx_vnni\n", True),
        ("Features\t: fp asimd asimddp\n", True),
        ("flags\t\t: fpu avx2\n", False),
        (None, False),
    ],
)
def test_processor_flags_are_read(monkeypatch, tmp_path, text, has):
    """The flags of the processor decide. A system without them counts as unsupported."""
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(variants, "_CPU_INFO", path)
    variants.has_dot_products.cache_clear()
    assert variants.has_dot_products() is has
    variants.has_dot_products.cache_clear()


def test_backend_runs_the_variant(tmp_path, dot_products, caplog):
    """The pixels are those of the variant's graph, and the log names the variant."""
    dot_products(True)
    bundle_directory = write_bundle(tmp_path / "both")
    write_variant(bundle_directory, weights_seed=7)
    same = read_bundle(write_bundle(tmp_path / "alone", weights_seed=7))
    z, classes = draw_latents(1, 0, 5, 8), np.arange(5)
    with caplog.at_level(logging.INFO, logger="imagemint.engine.onnx.backend"):
        backend = OnnxBackend(read_bundle(bundle_directory), device="auto", variant="auto")
    assert backend.variant.name == "int8"
    assert "tiny@1 runs its variant int8 (made for cpu)" in caplog.text
    expected = OnnxBackend(same, device="cpu").run(Batch(z, classes))
    assert np.array_equal(backend.run(Batch(z, classes)), expected)
    reference = OnnxBackend(read_bundle(bundle_directory), device="cpu")
    assert reference.variant.name == "fp32"
    assert not np.array_equal(reference.run(Batch(z, classes)), expected)


def test_run_alone_runs_the_variant(tmp_path):
    """The session with more threads also runs the graph of the variant."""
    directory = write_bundle(tmp_path)
    write_variant(directory, weights_seed=7)
    backend = OnnxBackend(read_bundle(directory), device="cpu", variant="int8", alone_threads=2)
    assert backend._alone is not None
    z, classes = draw_latents(1, 0, 1, 8), np.arange(1)
    feed = {"z": z, "class_id": classes[:, np.newaxis]}
    assert np.array_equal(backend._alone.run(feed), backend.run(Batch(z, classes)))


def test_unknown_variant_is_refused(tiny_bundle):
    """The error lists the variants of the bundle."""
    with pytest.raises(BundleRefused, match="no variant 'int8'; there is fp32"):
        OnnxBackend(read_bundle(tiny_bundle), device="cpu", variant="int8")


def test_digest_covers_the_variants(tiny_bundle):
    """Other bytes of a variant change the digest, so a version cannot change unnoticed."""
    before = read_bundle(tiny_bundle).sha256
    write_variant(tiny_bundle, weights_seed=3)
    after = read_bundle(tiny_bundle)
    assert after.sha256 != before
    assert [variant.name for variant in after.variants] == ["fp32", "int8"]
    assert after.others[0].target == "cpu"


def _declare(**fields):
    def edit(manifest):
        for name, value in fields.items():
            setattr(manifest.variants[-1], name, value)

    return edit


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "fp32"}, "name 'fp32' is taken"),
        ({"name": "auto"}, "name 'auto' is taken"),
        ({"name": "Int8"}, "lower-case"),
        ({"file": "../int8.onnx"}, "plain name"),
        ({"file": "other.onnx"}, "does not list the variant other.onnx"),
        ({"file": "model.onnx"}, "does not list the variant model.onnx"),
        ({"sha256": "00" * 32}, "not the file that model.onnx declares"),
        ({"sha256": "x"}, "sha256 is not"),
        ({"precision": pb.PRECISION_FP16}, "describe different models"),
        ({"precision": 0}, "precision is missing"),
        ({"target": 0}, "target is missing"),
    ],
)
def test_invalid_variant_declaration_is_refused(tiny_bundle, fields, said):
    """A bundle whose variant has an invalid declaration in model.onnx is refused."""
    write_variant(tiny_bundle, edit=_declare(**fields))
    with pytest.raises(BundleRefused, match=said):
        read_bundle(tiny_bundle)


def test_variant_measurements_out_of_range_are_refused(tiny_bundle):
    """Shares above 1 and measurements without a name are refused."""

    def edit(manifest):
        manifest.variants[-1].difference.over_one_share = 1.5
        manifest.variants[-1].quality.add(metric="", value=1.0)

    write_variant(tiny_bundle, edit=edit)
    with pytest.raises(BundleRefused, match=r"share outside 0 to 1.*figure without name"):
        read_bundle(tiny_bundle)


def test_changed_variant_is_refused(tiny_bundle):
    """A variant must have the declared digest, even if the checksums match the changed file."""
    path = write_variant(tiny_bundle)
    path.write_bytes(path.read_bytes() + b"\x00")
    write_sums(tiny_bundle)
    with pytest.raises(BundleRefused, match="not the file that"):
        read_bundle(tiny_bundle)
