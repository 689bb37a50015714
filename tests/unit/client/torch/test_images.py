"""Tests of imagemint.client.torch.images."""

import pytest
import torch
from torch.utils.data import DataLoader

from imagemint.client.torch import SyntheticImages


def get_index(item):
    """Returns the index of an item of a ComputedSource."""
    return int(item[0].flatten()[0])


def test_position_gives_an_index(computed):
    """Positions start at the first index, and negative ones count from the end."""
    images = SyntheticImages(computed(), 10, first_index=100)
    assert [get_index(images[at]) for at in (0, 9, -1)] == [100, 109, 109]
    assert len(images) == 10
    for at in (10, -11):
        with pytest.raises(IndexError, match="of 10 images"):
            images[at]


def test_batch_needs_the_fewest_reads(computed):
    """Adjacent positions share a read of at most max_images. Order and duplicates are kept."""
    source = computed()
    images = SyntheticImages(source, 100)
    wanted = [5, 3, 4, 90, 4, *range(20, 40)]
    assert [get_index(each) for each in images.__getitems__(wanted)] == wanted
    assert sorted(source.reads) == [(3, 3), (20, 16), (36, 4), (90, 1)]


def test_loader_reads_a_server(source, mint):
    """A shuffled loader has every image once. A sequential one reads once per batch."""
    images = SyntheticImages(source, 20)
    shuffled = DataLoader(images, batch_size=6, shuffle=True)
    found = torch.cat([batch for batch, _ in shuffled])
    whole = torch.cat([batch for batch, _ in DataLoader(images, batch_size=10)])
    assert len(mint.requests[-2:]) == 2
    assert {request.images.count for request in mint.requests[-2:]} == {10}
    rows = [sorted(map(bytes, each.numpy().reshape(20, -1))) for each in (found, whole)]
    assert rows[0] == rows[1]


def test_invalid_counts_are_refused(computed):
    """A count below 0, and other than that of the classes, is an error."""
    for arguments in ({"count": -1}, {"count": 2, "class_ids": [0]}):
        with pytest.raises(ValueError, match=f"count is {arguments['count']}"):
            SyntheticImages(computed(), **arguments)


def test_chosen_classes_keep_their_indices(computed):
    """Each image has a selected class, from the same index on. `take` keeps the first ones."""
    images = SyntheticImages(computed(), 3, first_index=7).choose([2, 2, 0, 1])
    assert [(get_index(image), image[1]) for image in images] == [(7, 2), (8, 2), (9, 0), (10, 1)]
    assert [each[1] for each in images.take(2)] == [2, 2]
    assert [each[1] for each in images.__getitems__([3, 2, 0])] == [1, 0, 2]
    with pytest.raises(ValueError, match="5 of 4"):
        images.take(5)
