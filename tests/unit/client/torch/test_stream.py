"""Tests of imagemint.client.torch.stream, without worker processes."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from imagemint.client import Cycle
from imagemint.client.torch import ServerSource, SyntheticStream

# torchdata 0.11 calls a function that torch 2.13 deprecates.
OLD_TORCHDATA = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")


def list_indices(items):
    """Returns the index of each item of a ComputedSource, or of each image of batches."""
    return [int(each) for image, *_ in items for each in image.reshape(-1, 24)[:, 0]]


def test_items_are_tensors_with_a_class(source):
    """Images are uint8 [C, H, W], equal to those of the client and writable."""
    (image, class_id), *_ = items = list(SyntheticStream(source, 20, block_size=8))
    assert len(items) == 20
    assert (image.dtype, image.shape, class_id) == (torch.uint8, (1, 4, 6), 0)
    batch = source.read(0, 1)
    assert np.array_equal(image.numpy(), batch.image[0].transpose(2, 0, 1))
    image += 1


def test_items_may_be_pictures_with_serials(computed):
    """Pillow images are passed to the transform. Without classes the class is -1."""
    source = computed(num_classes=0, channels=3)
    stream = SyntheticStream(
        source, 3, output="pil", transform=lambda image: (image.mode, image.size), serials=True
    )
    assert list(stream) == [(("RGB", (6, 4)), -1, f"counted@1/5/{index}") for index in range(3)]


def test_loader_returns_batches(computed):
    """Single items are collated, and batched blocks are passed through."""
    single = DataLoader(SyntheticStream(computed(), 20, block_size=8), batch_size=8)
    stream = SyntheticStream(computed(), 20, block_size=8, batched=True)
    batched = DataLoader(stream, batch_size=None)
    assert len(single.dataset) == 20
    assert len(batched) == 3
    for one, other in zip(single, batched, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_ranks_share_an_epoch(computed):
    """Two ranks read each index once, in blocks."""
    ranks = [
        SyntheticStream(computed(), 30, block_size=4, rank=rank, world_size=2) for rank in range(2)
    ]
    found = [list_indices(rank) for rank in ranks]
    assert found[0][:8] == [0, 1, 2, 3, 8, 9, 10, 11]
    assert sorted(found[0] + found[1]) == list(range(30))
    assert [len(rank) for rank in ranks] == [len(each) for each in found]


def test_epochs_repeat_or_advance(computed):
    """An epoch has the same images in every run. With `advance` each epoch has its own."""
    repeating = SyntheticStream(computed(), 6, first_index=10)
    advancing = SyntheticStream(computed(), 6, first_index=10, advance=True)
    for stream in (repeating, advancing):
        assert list_indices(stream) == list_indices(stream) == list(range(10, 16))
        stream.set_epoch(2)
    assert list_indices(repeating) == list(range(10, 16))
    assert list_indices(advancing) == list(range(22, 28))


def test_stream_resumes_from_its_state(computed):
    """A state may be inside a block and an epoch. The next iteration is complete."""
    stream = SyntheticStream(computed(), 20, block_size=8, advance=True)
    stream.set_epoch(1)
    items = iter(stream)
    first = [next(items) for _ in range(11)]
    state = stream.state_dict()
    resumed = SyntheticStream(computed(), 20, block_size=8, advance=True)
    resumed.load_state_dict(state)
    assert list_indices(first) + list_indices(resumed) == list(range(20, 40))
    assert resumed.source.reads[0] == (31, 5)
    assert list_indices(resumed) == list(range(20, 40))


def test_stream_resumes_more_than_once(computed):
    """A second state in a resumed epoch counts the images before the first one, too."""

    def open_stream():
        return SyntheticStream(computed(), 20, block_size=8)

    found, state = [], open_stream().state_dict()
    for count in (5, 7, 8):
        stream = open_stream()
        stream.load_state_dict(state)
        assert stream.state_dict() == state
        items = iter(stream)
        found += [next(items) for _ in range(count)]
        state = stream.state_dict()
    assert list_indices(found) == list(range(20))
    items = iter(stream)  # the next epoch begins at its first image
    next(items)
    resumed = open_stream()
    resumed.load_state_dict(stream.state_dict())
    assert list_indices(resumed) == list(range(1, 20))
    resumed.set_epoch(1)
    assert resumed.state_dict()["images_done"] == 0


def test_batched_stream_resumes(computed):
    """The state of a stream of blocks counts their images."""
    stream = SyntheticStream(computed(), 20, block_size=8, batched=True, serials=True)
    first, _, serials = next(iter(stream))
    assert serials == [f"counted@1/5/{index}" for index in range(8)]
    resumed = SyntheticStream(computed(), 20, block_size=8, batched=True)
    resumed.load_state_dict(stream.state_dict())
    assert list_indices([(first,), *resumed]) == list(range(20))


def test_transform_is_applied_to_each_image_of_a_block(computed):
    """A transform of single images also serves blocks."""
    stream = SyntheticStream(
        computed(), 20, block_size=8, batched=True, transform=lambda image: image[:, :2, :2] + 100
    )
    blocks = [images for images, _ in stream]
    assert [tuple(images.shape) for images in blocks] == [(8, 1, 2, 2)] * 2 + [(4, 1, 2, 2)]
    assert torch.cat(blocks)[:, 0, 0, 0].tolist() == list(range(100, 120))


def test_ranks_of_a_distributed_training_get_equal_shares(computed):
    """With `drop_last` no rank waits for a block that another one does not have."""
    ranks = [
        SyntheticStream(computed(), 30, block_size=4, drop_last=True, rank=rank, world_size=2)
        for rank in range(2)
    ]
    found = [list_indices(rank) for rank in ranks]
    assert [len(each) for each in found] == [len(rank) for rank in ranks] == [12, 12]
    assert sorted(found[0] + found[1]) == list(range(24))


def test_setting_the_epoch_of_a_state_keeps_its_position(computed):
    """A loop that sets each epoch, also the first one after a restart, repeats no image."""
    stream = SyntheticStream(computed(), 20, block_size=8, advance=True)
    stream.set_epoch(1)
    items = iter(stream)
    first = [next(items) for _ in range(11)]
    resumed = SyntheticStream(computed(), 20, block_size=8, advance=True)
    resumed.load_state_dict(stream.state_dict())
    for epoch in range(resumed.epoch, 3):
        resumed.set_epoch(epoch)
        first += resumed
    assert list_indices(first) == list(range(20, 60))
    resumed.load_state_dict(stream.state_dict())
    resumed.set_epoch(2)
    assert list_indices(resumed) == list(range(40, 60))


def test_state_of_another_stream_is_refused(computed):
    """The error names the option that differs."""
    state = SyntheticStream(computed(), 20, block_size=8).state_dict()
    with pytest.raises(ValueError, match="count 20, now 21"):
        SyntheticStream(computed(), 21, block_size=8).load_state_dict(state)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"first_index": 1}, "first_index 0, now 1"),
        ({"block_size": 4}, "block_size 8, now 4"),
        ({"advance": True}, "advance False, now True"),
        ({"drop_last": True}, "drop_last False, now True"),
        ({"rank": 1, "world_size": 2}, "rank 0, now 1, world_size 1, now 2"),
    ],
)
def test_state_of_another_division_is_refused(computed, changed, message):
    """A position counts the images of one share, so that another share would repeat some."""
    state = SyntheticStream(computed(), 20, block_size=8).state_dict()
    with pytest.raises(ValueError, match=message):
        SyntheticStream(computed(), 20, **{"block_size": 8} | changed).load_state_dict(state)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"condition": 1}, "condition '0,1,2', now '1'"),
        ({"condition": None}, "condition '0,1,2', now ''"),
        ({"truncation": 0.5}, "truncation None, now 0.5"),
    ],
)
def test_state_of_other_images_is_refused(address, changed, message):
    """Images of other classes or another truncation do not continue an epoch."""

    def open_stream(**settings):
        return SyntheticStream(
            ServerSource(address, "tiny", seed=5, **{"condition": Cycle()} | settings), 20
        )

    state = open_stream().state_dict()
    open_stream(condition=Cycle([0, 1, 2])).load_state_dict(state)
    with pytest.raises(ValueError, match=message):
        open_stream(**changed).load_state_dict(state)


def test_state_of_an_older_release_is_continued(computed):
    """States of 0.3 name neither condition nor truncation."""
    stream = SyntheticStream(computed(), 20)
    state = stream.state_dict()
    del state["plan"]["condition"], state["plan"]["truncation"]
    stream.load_state_dict(state)


@OLD_TORCHDATA
@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_stateful_loader_resumes(computed, stop_after):
    """A StatefulDataLoader continues after the batches that it has returned."""

    def load():
        return StatefulDataLoader(SyntheticStream(computed(), 20, block_size=4), batch_size=4)

    whole = list_indices(load())
    loader = load()
    batches = iter(loader)
    before = [next(batches) for _ in range(stop_after)]
    resumed = load()
    resumed.load_state_dict(loader.state_dict())
    assert list_indices(before) + list_indices(resumed) == whole == list(range(20))
    assert list_indices(resumed) == whole


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block_size": 17}, "block_size is 17, and must be 1 to 16"),
        ({"count": -1}, "count is -1"),
        ({"rank": 1}, "set rank and world_size together"),
        ({"rank": -1, "world_size": 2}, "must be 0 to 1"),
        ({"world_size": 2}, "set rank and world_size together"),
        ({"prefetch": -1}, "prefetch is -1"),
        ({"rank": 2, "world_size": 2}, "must be 0 to 1"),
        ({"output": "array"}, "must be 'tensor' or 'pil'"),
        ({"output": "pil", "batched": True}, "must be 'tensor'"),
    ],
)
def test_invalid_arguments_are_refused(computed, arguments, message):
    """Each error says what is accepted."""
    with pytest.raises(ValueError, match=message):
        SyntheticStream(computed(), **({"count": 1, "block_size": 8} | arguments))
