"""Tests that a data set has no gaps: each image arrives once, and each shard is listed."""

import numpy as np
import pytest

from imagemint.client.cli import main
from imagemint.dataset.errors import DatasetError
from imagemint.dataset.plan import Shard
from imagemint.dataset.shards import _watch


class Batch:
    """A batch of images with these indices."""

    def __init__(self, indices):
        self.index = np.array(indices, np.uint64)

    def __len__(self):
        return len(self.index)


@pytest.mark.parametrize(
    "indices", [[[5, 6], [6, 7]], [[5, 6], [8]], [[5, 6], []], [[5, 6]], [[5, 6], [7, 8, 9]], []]
)
def test_missing_and_repeated_images_are_refused(indices):
    """A source that skips, repeats or adds an image makes no shard."""
    with pytest.raises(DatasetError, match=r"near index|before index 8"):
        list(_watch(map(Batch, indices), Shard(1, 5, 4), lambda _: None))


@pytest.mark.parametrize("left", [2, 4])
def test_sums_without_a_shard_are_refused(make, refusal, tmp_path, left):
    """A data set whose SHA256SUMS does not list every shard is incomplete."""
    assert make(tmp_path) == 0
    sums = tmp_path / "SHA256SUMS"
    sums.write_text("".join(sums.read_text().splitlines(keepends=True)[:left]))
    assert f"it lists {left - 2} shards, and the plan has 3" in refusal(tmp_path)


def test_joined_file_is_verified_at_any_first_index(make, models, tmp_path):
    """The lines of a shard in a joined file are found if the first index is not 0."""
    settings = {"model": "judged", "scores": True, "format": "imagefolder", "first_index": 7}
    assert make(tmp_path / "set", **settings) == 0
    words = [f"--repository={models}", f"--verify={tmp_path / 'set'}", "--all"]
    assert main(["dataset", "--local", *words]) == 0
