"""Tests of imagemint.training.datasets.loader: equal batches wherever the images are stored."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from imagemint.training.datasets import loader
from imagemint.training.datasets.loader import ImageLoader
from imagemint.training.distributed import Distributed

CPU = torch.device("cpu")


@pytest.fixture
def no_room(monkeypatch):
    """Leaves one byte less of device memory than the toy digits need."""
    monkeypatch.setattr(loader, "measure_free_bytes", lambda _: 40 * 28 * 28 - 1)


def load_batches(digits, positions=((0, 16), (16, 16), (32, 16), (8, 4)), processes=None):
    """Returns a loader and its batches at these positions. The third one starts a second epoch."""
    fed = ImageLoader(digits, digits.labels, 7, CPU, processes or Distributed())
    return fed, [fed.load_batch(*position) for position in positions]


def are_equal(batches, others):
    """Returns whether images, labels and memory layouts are equal."""
    pairs = zip(batches, others, strict=True)
    return all(
        torch.equal(a, b) and a.stride() == b.stride()
        for ours, theirs in pairs
        for a, b in zip(ours, theirs, strict=True)
    )


def test_epoch_has_every_image_once(digits):
    """An epoch has every image once, scaled to [-1, 1], with its label."""
    _, (first, second, third, _) = load_batches(digits)
    images, labels = (
        torch.cat([a, b, c[:8]]) for a, b, c in zip(first, second, third, strict=True)
    )
    levels = ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    assert sorted(map(bytes, levels)) == sorted(map(bytes, digits.images))
    of_image = {bytes(image): y for image, y in zip(digits.images, digits.labels, strict=True)}
    assert [of_image[bytes(image)] for image in levels] == labels.tolist()


def test_cpu_does_not_copy_the_data(digits):
    """On the CPU the loader reads the data set's own array. It copies only a read-only one."""
    fed, once = load_batches(digits)
    assert fed._images._images.data_ptr() == digits.images.ctypes.data
    frozen = digits.images.copy()
    frozen.flags.writeable = False
    fed, copied = load_batches(replace(digits, images=frozen))
    assert fed._images._images.data_ptr() != frozen.ctypes.data
    assert are_equal(once, copied)


@pytest.mark.usefixtures("no_room")
def test_images_on_the_host_give_the_same_batches(digits, monkeypatch):
    """Images that do not fit on the device give the same batches, in any order."""
    fed, sent = load_batches(digits)
    assert not fed.on_device
    monkeypatch.setattr(loader, "measure_free_bytes", lambda _: 40 * 28 * 28)
    fed, kept = load_batches(digits)
    assert fed.on_device
    assert are_equal(sent, kept)


@pytest.mark.usefixtures("no_room")
def test_next_batch_is_gathered_in_advance(digits):
    """A request for a batch also gathers the next one."""
    fed, _ = load_batches(digits, [(0, 16)])
    rows, sent = fed._images._expected
    expected = digits.images[rows]
    assert np.array_equal(sent.result().numpy(), expected)
    digits_gone = np.zeros_like(digits.images)
    fed._images._images = digits_gone  # batches that are gathered from now on are black
    images, _ = fed.load_batch(16, 16)
    levels = ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    assert np.array_equal(levels, expected)


@pytest.mark.parametrize("room", [True, False], ids=["kept", "sent"])
def test_processes_share_a_batch(digits, room, monkeypatch):
    """The parts of the processes, in the order of their ranks, form the batch of one process."""
    monkeypatch.setattr(loader, "measure_free_bytes", lambda _: float("inf") if room else 0)
    _, whole = load_batches(digits)
    parts = []
    for rank in (0, 1):
        one_of_two = Distributed()
        one_of_two.rank, one_of_two.world_size = rank, 2
        parts.append(load_batches(digits, processes=one_of_two)[1])
    joined = [
        tuple(torch.cat(pair) for pair in zip(a, b, strict=True))
        for a, b in zip(*parts, strict=True)
    ]
    assert all(
        torch.equal(a, b)
        for ours, theirs in zip(joined, whole, strict=True)
        for a, b in zip(ours, theirs, strict=True)
    )


def test_run_does_not_depend_on_device_memory(train, tmp_path, read_files, monkeypatch):
    """A run whose images do not fit on the device equals one whose images do."""
    with monkeypatch.context() as patch:
        patch.setattr(loader, "measure_free_bytes", lambda _: 0)
        train(tmp_path / "sent", images=32)
    train(tmp_path / "kept", images=32)
    name = f"checkpoints/{32:010d}/state.safetensors"
    sent, kept = read_files(tmp_path / "sent"), read_files(tmp_path / "kept")
    assert sent[name] == kept[name]
