"""Tests of imagemint.exporter.parity."""

import numpy as np
import pytest

from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.exporter.errors import ExportError
from imagemint.exporter.parity import Tolerance, measure_parity, pytorch_original


class _Disturbed:
    """The real backend with a fault in it."""

    def __init__(self, backend, fault):
        self._backend, self._fault = backend, fault
        self.provider, self.description = backend.provider, backend.description

    def run(self, batch):
        return self._fault(self._backend.run(batch).copy())

    def close(self):
        self._backend.close()


@pytest.fixture(scope="module")
def backend(exported):
    """The exported bundle, loaded."""
    return OnnxBackend(exported, device="cpu")


@pytest.fixture
def measured(trained, exported, backend):
    """Measures the parity of the bundle, with a fault in its images."""

    def measure(tolerance, fault=lambda images: images):
        disturbed = _Disturbed(backend, fault)
        return measure_parity(pytorch_original(trained), exported.spec, disturbed, tolerance)

    return measure


def test_parity_holds(measured, backend):
    """The served pixels agree with PyTorch's, and the figures say how well."""
    parity = measured(Tolerance())
    assert (parity.samples, list(parity.batch_sizes)) == (1000, [1, 3, 64])
    assert parity.max_difference <= 1
    assert 0 <= parity.differing_share <= 0.001
    assert (parity.tolerance_difference, parity.tolerance_share) == (1, 0.001)
    assert parity.backend == backend.description


def _two_levels_off(images):
    images[:, 3, 3, 0] = np.where(images[:, 3, 3, 0] < 128, images[:, 3, 3, 0] + 2, 0)
    return images


def _a_level_off_everywhere(images):
    return np.where(images < 128, images + 1, images - 1).astype(np.uint8)


@pytest.mark.parametrize(
    ("fault", "tolerance", "said"),
    [
        (
            _two_levels_off,
            Tolerance(share=1.0),
            r"by up to \d+ levels .*allowed are 1 and 100",
        ),
        (
            _a_level_off_everywhere,
            Tolerance(levels=3),
            r"by up to \d levels and in (9|100)",
        ),
    ],
)
def test_difference_over_the_tolerance_is_refused(measured, fault, tolerance, said):
    """Too large a difference, or too many, are refused with the figures."""
    with pytest.raises(ExportError, match=said):
        measured(tolerance, fault)


def test_dependence_on_the_batch_is_refused(measured):
    """A backend whose lone images differ by one level in one pixel is refused."""

    def fault(images):
        images[0, 0, 0, 0] ^= len(images) == 1
        return images

    with pytest.raises(
        ExportError, match="1,000 pixel values differ between batches of 1 and of 64"
    ):
        measured(Tolerance(), fault)
