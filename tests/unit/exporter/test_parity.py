"""Tests of imagemint.exporter.parity."""

import sys
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from tiny_bundles import tiny_manifest

from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.spec import ModelSpec
from imagemint.exporter import parity
from imagemint.exporter.errors import ExportError
from imagemint.exporter.parity import (
    Original,
    Tolerance,
    check_batch_independence,
    make_inputs,
    make_pytorch_original,
    measure_parity,
)


class _Disturbed:
    """The real backend with a fault in its images."""

    def __init__(self, backend, fault):
        self._backend, self._fault = backend, fault
        self.provider, self.description = backend.provider, backend.description

    def run(self, batch):
        return self._fault(self._backend.run(batch).copy())

    def close(self):
        self._backend.close()


@pytest.fixture(scope="module")
def backend(exported):
    """The backend of the exported bundle."""
    return OnnxBackend(exported, device="cpu")


@pytest.fixture
def measure_with_fault(trained, exported, backend):
    """A function that measures the parity of the bundle with a fault in its images."""

    def measure(tolerance, fault=lambda images: images):
        disturbed = _Disturbed(backend, fault)
        return measure_parity(make_pytorch_original(trained), exported.spec, disturbed, tolerance)

    return measure


def test_parity_is_measured(measure_with_fault, backend):
    """The served pixels agree with PyTorch's, and the result has the measurements."""
    found = measure_with_fault(Tolerance())
    assert (found.samples, list(found.batch_sizes)) == (1000, [1, 3, 64])
    assert found.max_difference <= 1
    assert 0 <= found.differing_share <= 0.001
    assert (found.tolerance_difference, found.tolerance_share) == (1, 0.001)
    assert found.backend == backend.description


@pytest.mark.parametrize("on_terminal", [False, True])
def test_terminal_shows_progress(measure_with_fault, monkeypatch, capsys, on_terminal):
    """A terminal shows how many of the 1,000 images are computed, four times each."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: on_terminal)
    measure_with_fault(Tolerance())
    said = capsys.readouterr().err
    assert ("comparing:" in said) == ("/4000" in said) == on_terminal


def test_few_images_are_in_memory_at_once(trained, exported, backend):
    """The comparison is made in parts, so that large images fit into memory."""
    asked = []
    pytorch = make_pytorch_original(trained)

    def compute(batch):
        asked.append(len(batch))
        return pytorch.pixels(batch)

    measure_parity(Original("PyTorch", compute), exported.spec, backend, Tolerance())
    assert asked == [192] * 5 + [40]


def test_every_part_counts(trained, exported, backend, monkeypatch):
    """A difference in one of the first images is neither forgotten nor diluted."""
    monkeypatch.setattr(parity, "SAMPLES", 200)  # 192 and 8
    pytorch, parts = make_pytorch_original(trained), []

    def compute(batch):
        pixels = pytorch.pixels(batch).copy()
        if not parts:
            pixels[0, 3, 3, 0] ^= 64
        parts.append(batch)
        return pixels

    original = Original("PyTorch", compute)
    found = measure_parity(original, exported.spec, backend, Tolerance(levels=255))
    assert found.max_difference >= 63
    assert found.differing_share >= 1 / (200 * 28 * 28)
    parts.clear()
    with pytest.raises(ExportError, match=r"by up to 6\d levels and in 0\.0"):
        measure_parity(original, exported.spec, backend, Tolerance())


def test_psi_is_compared_from_0_to_1():
    """Images without truncation alone would not tell that a graph ignores psi."""
    spec = ModelSpec.of(tiny_manifest(truncation="psi"))
    psi = make_inputs(spec).truncation
    assert (psi[0], psi[-1], len({*psi.tolist()})) == (0, 1, 1_000)
    assert make_inputs(ModelSpec.of(tiny_manifest())).truncation is None


def test_captions_are_compared_in_all_words_and_lengths():
    """The examples alone would not show a graph that is wrong for another word or length."""
    captions = ModelSpec.of(tiny_manifest(captions=True)).captions
    tokens = make_inputs(ModelSpec.of(tiny_manifest(captions=True))).tokens
    texts = captions.decode(tokens)
    assert {*texts[::2]} == {*captions.examples}
    assert {len(text.split()) for text in texts[1::2]} == {*range(1, captions.max_words + 1)}
    assert {word for text in texts[1::2] for word in text.split()} == {*captions.vocabulary}


def _add_two_levels_to_one_pixel(images):
    images[:, 3, 3, 0] = np.where(images[:, 3, 3, 0] < 128, images[:, 3, 3, 0] + 2, 0)
    return images


def _add_one_level_to_all_pixels(images):
    return np.where(images < 128, images + 1, images - 1).astype(np.uint8)


@pytest.mark.parametrize(
    ("fault", "tolerance", "said"),
    [
        (
            _add_two_levels_to_one_pixel,
            Tolerance(share=1.0),
            r"by up to \d+ levels .*allowed are 1 and 100",
        ),
        (
            _add_one_level_to_all_pixels,
            Tolerance(levels=3),
            r"by up to \d levels and in (9|100)",
        ),
    ],
)
def test_difference_over_the_tolerance_is_refused(measure_with_fault, fault, tolerance, said):
    """The error has the measurements if a difference is too large or too frequent."""
    with pytest.raises(ExportError, match=said):
        measure_with_fault(tolerance, fault)


def test_value_without_level_is_refused(trained, exported, backend):
    """NaN is no pixel: processors convert it to different levels, and none of them is wrong."""
    module = deepcopy(trained.module)
    next(module.parameters()).fill_(float("nan"))
    diverged = make_pytorch_original(replace(trained, module=module))
    with pytest.raises(ExportError, match=r"100.00% of the values .* are NaN in PyTorch"):
        measure_parity(diverged, exported.spec, backend, Tolerance(levels=255, share=1))


def test_dependence_on_the_batch_is_refused(measure_with_fault, exported, backend, monkeypatch):
    """A backend whose single images differ in one pixel by one level is refused."""
    monkeypatch.setattr(parity, "SAMPLES", 200)

    def fault(images):
        images[0, 0, 0, 0] ^= len(images) == 1
        return images

    with pytest.raises(
        ExportError, match="192 pixel values of 192 images differ between batches of 1 and of 64"
    ):
        measure_with_fault(Tolerance(), fault)
    check_batch_independence(exported.spec, backend)
    with pytest.raises(ExportError, match="differ between batches of 1 and of 64"):
        check_batch_independence(exported.spec, _Disturbed(backend, fault))
