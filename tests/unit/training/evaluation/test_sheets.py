"""Tests of imagemint.training.evaluation.sheets."""

import numpy as np
import pytest

from imagemint.engine.sampling import Distribution, draw_latents
from imagemint.training.evaluation.sheets import make_code_sheets, make_truncation_sheet
from imagemint.training.evaluation.sources import LatentSource


class Echo(LatentSource):
    """A source whose images are the inputs: [z..., class, 100 psi] as levels."""

    z_dim, num_classes, continuous_codes = 3, 4, 2
    distribution = Distribution.NORMAL
    takes_psi = False

    def generate(self, z, classes, psi=None):
        """Returns a row of pixels for each latent."""
        classes = np.full(len(z), 255) if classes is None else classes
        psi = np.ones(len(z)) if psi is None else psi
        columns = [*(128 + 20 * z).round().T, classes, (100 * psi).round()]
        return np.stack(columns, axis=1).astype(np.uint8)[:, np.newaxis, :, np.newaxis]


def read_rows(images, columns):
    """Returns the inputs of the images [rows, columns, elements]."""
    return images[:, 0, :, 0].reshape(-1, columns, images.shape[2])


def test_psi_decreases_by_rows():
    """Each row has the same ten latents and classes and a smaller psi."""
    source = Echo()
    source.takes_psi = True
    rows = read_rows(make_truncation_sheet(source, 5), 10)
    assert rows[:, :, 4].tolist() == [[psi] * 10 for psi in (100, 80, 60, 40, 20, 0)]
    assert (rows[:, :, :4] == rows[0, :, :4]).all()
    assert rows[0, :6, 3].tolist() == [0, 1, 2, 3, 0, 1]


def test_thresholds_decrease_by_rows():
    """Each row has the same serials and a smaller threshold. Uniform latents have no threshold."""
    source = Echo()
    rows = read_rows(make_truncation_sheet(source, 5), 10)[:, :, :3].astype(int) - 128
    expected = draw_latents(5, 0, 10, 3, threshold=0.5)
    assert rows[4] == pytest.approx(20 * expected, abs=0.5)
    assert (np.diff(np.abs(rows).max(axis=(1, 2))) < 0).all()
    source.distribution = Distribution.UNIFORM
    assert make_truncation_sheet(source, 5) is None


def test_rows_vary_one_code():
    """The categorical code takes each value, and one continuous code goes from -2 to 2."""
    sheets = {
        name: read_rows(images, columns) for name, images, columns in make_code_sheets(Echo(), 5)
    }
    assert list(sheets) == ["code", "code-1", "code-2"]
    assert sheets["code"][:, :, 3].tolist() == [[0, 1, 2, 3]] * 5
    assert (sheets["code"][:, :, :3] == sheets["code"][:, :1, :3]).all()
    for number, name in enumerate(("code-1", "code-2")):
        moved = sheets[name][:, :, number]
        assert moved[:, 0].tolist() == [88] * 5
        assert moved[:, -1].tolist() == [168] * 5
        rest = np.delete(sheets[name], number, axis=2)
        assert (rest == rest[:, :1]).all()
