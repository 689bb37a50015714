"""Tests of imagemint.training.datasets.subsets."""

from dataclasses import replace

import numpy as np
import pytest

from imagemint.training.datasets import select_per_class
from imagemint.training.errors import DatasetError


def test_images_per_class_are_selected(digits):
    """The selection has this many images of each class, in the order of the data."""
    told = replace(digits, texts=tuple(f"{row}" for row in range(len(digits))))
    few = select_per_class(told, 2, seed=3)
    rows = [int(text) for text in few.texts]
    assert np.bincount(few.labels).tolist() == [2] * 10
    assert rows == sorted(rows)
    assert np.array_equal(few.images, digits.images[rows])
    assert np.array_equal(few.labels, digits.labels[rows])


def test_selection_depends_on_the_seed(digits):
    """One seed always selects the same images, and a smaller selection is part of a larger one."""
    first, again, other = (select_per_class(digits, 2, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.images, again.images)
    assert first.sha256 == again.sha256
    assert len({first.sha256, other.sha256, digits.sha256}) == 3
    assert not np.array_equal(first.images, other.images)
    one = {image.tobytes() for image in select_per_class(digits, 1, seed=3).images}
    assert one < {image.tobytes() for image in first.images}


@pytest.mark.parametrize("count", [0, 5])
def test_impossible_count_is_refused(digits, count):
    """The error names a class with fewer images. A count of 0 is refused."""
    with pytest.raises(DatasetError, match=r"class '0' has 4 images|must be 1 or more"):
        select_per_class(digits, count)
