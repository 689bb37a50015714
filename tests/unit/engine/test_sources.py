"""Tests of models with a source: manifest, graph and batches."""

import numpy as np
import pytest
from tiny_translators import translator_manifest, write_translator

from imagemint.engine.batch import Batch, draw_batch
from imagemint.engine.bundle import read_bundle
from imagemint.engine.bundle.findings import Batching
from imagemint.engine.errors import BundleRefused
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.sampling import draw_bytes
from imagemint.engine.spec import ANY_SIDE, ModelSpec, Source


@pytest.fixture(scope="module")
def open_translator(tmp_path_factory):
    """Writes a translator and opens it on the CPU."""

    def open_it(**options):
        directory = write_translator(tmp_path_factory.mktemp("models"), **options)
        return OnnxBackend(read_bundle(directory), device="cpu", alone_threads=2)

    return open_it


def test_spec_without_latent():
    """A deterministic translator has the source as its only input."""
    spec = ModelSpec.of(translator_manifest(size=(6, 8), scale=2, frames=4, mask=True))
    assert spec.source == Source(6, 8, 3, frames=4, has_mask=True, scale=2)
    assert {name: input_.row for name, input_ in spec.inputs.items()} == {"source": (6, 8, 13)}
    assert (spec.z_dim, spec.height, spec.width) == (0, 12, 16)


def test_spec_of_free_size():
    """Free sides are dynamic, and limits count with the largest source of one pass."""
    spec = ModelSpec.of(translator_manifest(scale=2, z_dim=4, conditional=True))
    assert list(spec.inputs) == ["z", "source", "class_id"]
    assert spec.inputs["source"].row == (ANY_SIDE, ANY_SIDE, 3)
    assert spec.image_row == (ANY_SIDE, ANY_SIDE, 3)
    assert spec.make_image_shape((8, 12, 3)) == (16, 24, 3)
    assert spec.image_bytes == 64 * 96 * 3


@pytest.mark.parametrize(
    ("size", "change", "told"),
    [
        ((6, 8), {"channels": 2}, "source.channels is 2"),
        ((6, 8), {"frames": 0}, "source.frames is 0"),
        ((6, 8), {"frames": 17}, "source.frames is 17"),
        ((6, 8), {"scale": 0}, "source.scale is 0"),
        ((6, 8), {"height": 7}, "image is 6 x 8; source and scale make it 7 x 8"),
        ((6, 8), {"width": 0}, "source.width is 0"),
        ((6, 8), {"step": 2}, "need a free size"),
        (None, {"step": 0}, "source.step is 0"),
        (None, {"max_height": 30}, "source.max_height is 30, not a multiple of step"),
        (None, {"max_width": 8_196}, "source.max_width is 8196"),
        (None, {"overlap": 13}, "source.overlap 13 leaves nothing"),
        (None, {"tiled": False}, "source.overlap is 2"),
    ],
)
def test_manifest_refused(size, change, told):
    """A manifest whose source breaks a rule is refused, and the message says which."""
    manifest = translator_manifest(size=size)
    for name, value in change.items():
        setattr(manifest.source, name, value)
    with pytest.raises(ValueError, match=told):
        ModelSpec.of(manifest)


def test_tiles_refuse_latents():
    """Tiles with a latent would differ from the whole picture, so the manifest is refused."""
    manifest = translator_manifest()
    manifest.latent.z_dim, manifest.latent.distribution = 4, 1
    with pytest.raises(ValueError, match="takes a latent"):
        ModelSpec.of(manifest)


def test_graph_of_other_size_refused(tmp_path):
    """A graph of fixed size under a manifest of free size is refused."""

    def free(manifest):
        manifest.source.ClearField("height")
        manifest.source.ClearField("width")
        manifest.source.step, manifest.source.max_height, manifest.source.max_width = 2, 6, 8

    directory = write_translator(tmp_path, size=(6, 8), edit_manifest=free)
    with pytest.raises(BundleRefused, match=r"input 'source' is .*, not uint8 \[N, \?, \?, 3\]"):
        read_bundle(directory)


def test_estimate_of_free_size(tmp_path):
    """Memory is estimated for the largest source of one pass."""
    small = read_bundle(write_translator(tmp_path, "small", largest=(12, 12)))
    large = read_bundle(write_translator(tmp_path, "large", largest=(48, 48)))
    assert small.estimate.is_complete
    assert large.estimate.row_bytes == 16 * small.estimate.row_bytes


def test_translation_by_reference(open_translator):
    """The pixels equal those of the two convolutions in NumPy."""
    backend = open_translator(size=(6, 8), scale=2)
    source = draw_bytes(1, 0, 2, 6 * 8 * 3).reshape(2, 6, 8, 3)
    random = np.random.default_rng(0)
    first = random.normal(0, 1.5 / 27**0.5, (8, 3, 3, 3)).astype(np.float32)
    second = random.normal(0, 1.5 / 72**0.5, (12, 8, 3, 3)).astype(np.float32)

    def convolve(x, kernel):
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
        return np.einsum("nchwij,ocij->nohw", windows, kernel)

    x = source.transpose(0, 3, 1, 2) / np.float32(127.5) - 1
    y = convolve(np.tanh(convolve(x, first)), second)
    # DepthToSpace in its order DCR: the block's row, its column, then the channel.
    y = y.reshape(2, 2, 2, 3, 6, 8).transpose(0, 4, 1, 5, 2, 3).reshape(2, 12, 16, 3)
    expected = np.clip(np.round(np.tanh(y) * 127.5 + 127.5), 0, 255)
    images = backend.run(Batch(source=source))
    assert np.abs(images.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("options", [{"size": (6, 8)}, {"scale": 2}, {"z_dim": 4}, {"frames": 3}])
def test_rows_independent_of_batch(open_translator, options):
    """Rows have equal bytes in all batches, for fixed and free sizes."""
    backend = open_translator(**options)
    spec = backend._spec
    assert backend.batching in (Batching.AS_THEY_COME, Batching.NEVER_ALONE)
    sizes = [None] if not spec.source.is_free else [(4, 4), (32, 48), (20, 8)]
    for size in sizes:
        batch = draw_batch(spec, 3, 0, 9, size)
        whole = backend.run(batch)
        for start, stop in ((0, 1), (3, 5), (2, 9)):
            assert backend.run(batch[start:stop]).tobytes() == whole[start:stop].tobytes()
            assert backend.run_alone(batch[start:stop]).tobytes() == whole[start:stop].tobytes()
        assert backend.run(batch[:0]).shape == (0, *whole.shape[1:])


def test_inputs_change_pixels(open_translator):
    """The class, the latent, every frame and the mask reach the pixels."""
    backend = open_translator(size=(6, 8), frames=2, mask=True, z_dim=4, conditional=True)
    batch = draw_batch(backend._spec, 3, 0, 1)
    image = backend.run(batch)
    others = [Batch(batch.z + 1, batch.class_id, source=batch.source)]
    others.append(Batch(batch.z, (batch.class_id + 1) % 10, source=batch.source))
    for channel in range(7):
        source = batch.source.copy()
        source[..., channel] = 255 - source[..., channel]
        others.append(Batch(batch.z, batch.class_id, source=source))
    assert all((backend.run(other) != image).any() for other in others)
    assert set(np.unique(batch.source[..., -1])) == {0, 255}


def test_wrong_source_raises(open_translator):
    """A batch whose source has another type or shape is refused before the runtime gets it."""
    backend = open_translator(size=(6, 8))
    for wrong in (np.zeros((1, 6, 9, 3), np.uint8), np.zeros((1, 6, 8, 3), np.int8)):
        with pytest.raises(ValueError, match="input 'source' is"):
            backend.run(Batch(source=wrong))


def test_drawn_bytes_by_index():
    """The bytes of an image depend on its seed and index alone."""
    whole = draw_bytes(5, 10, 4, 37)
    assert np.array_equal(draw_bytes(5, 12, 1, 37)[0], whole[2])
    assert not np.array_equal(draw_bytes(6, 10, 4, 37), whole)
    assert draw_bytes(5, 0, 0, 37).shape == (0, 37)
