"""Tests of imagemint.training.datasets.loader: the same batches, wherever the images are kept."""

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
    """A device with room for one byte less than the toy digits take."""
    monkeypatch.setattr(loader, "measure_free_bytes", lambda _: 40 * 28 * 28 - 1)


def batches(digits, positions=((0, 16), (16, 16), (32, 16), (8, 4)), processes=None):
    """Batches at these positions, the third of which begins a second epoch."""
    fed = ImageLoader(digits, digits.labels, 7, CPU, processes or Distributed())
    return fed, [fed.at(*position) for position in positions]


def same(batches, others):
    """Whether images, labels and memory layouts agree."""
    pairs = zip(batches, others, strict=True)
    return all(
        torch.equal(a, b) and a.stride() == b.stride()
        for ours, theirs in pairs
        for a, b in zip(ours, theirs, strict=True)
    )


def test_batches_are_the_data(digits):
    """An epoch holds every image once, scaled to [-1, 1], with its label."""
    _, (first, second, third, _) = batches(digits)
    images, labels = (
        torch.cat([a, b, c[:8]]) for a, b, c in zip(first, second, third, strict=True)
    )
    levels = ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    assert sorted(map(bytes, levels)) == sorted(map(bytes, digits.images))
    of_image = {bytes(image): y for image, y in zip(digits.images, digits.labels, strict=True)}
    assert [of_image[bytes(image)] for image in levels] == labels.tolist()


def test_cpu_holds_the_data_once(digits):
    """On the CPU the feed reads the data set's own array; of a read-only one it makes a copy."""
    fed, once = batches(digits)
    assert fed._images._images.data_ptr() == digits.images.ctypes.data
    frozen = digits.images.copy()
    frozen.flags.writeable = False
    fed, copied = batches(replace(digits, images=frozen))
    assert fed._images._images.data_ptr() != frozen.ctypes.data
    assert same(once, copied)


@pytest.mark.usefixtures("no_room")
def test_what_does_not_fit_is_sent(digits, monkeypatch):
    """Images that stay with the host give the same batches, also when asked out of turn."""
    fed, sent = batches(digits)
    assert not fed.on_device
    monkeypatch.setattr(loader, "measure_free_bytes", lambda _: 40 * 28 * 28)
    fed, kept = batches(digits)
    assert fed.on_device
    assert same(sent, kept)


@pytest.mark.usefixtures("no_room")
def test_next_batch_is_sent_ahead(digits):
    """When a batch is asked for, the one after it has been gathered already."""
    fed, _ = batches(digits, [(0, 16)])
    rows, sent = fed._images._expected
    expected = digits.images[rows]
    assert np.array_equal(sent.result().numpy(), expected)
    digits_gone = np.zeros_like(digits.images)
    fed._images._images = digits_gone  # what is gathered from now on is black
    images, _ = fed.at(16, 16)
    levels = ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    assert np.array_equal(levels, expected)


@pytest.mark.parametrize("room", [True, False], ids=["kept", "sent"])
def test_processes_share_a_batch(digits, room, monkeypatch):
    """The parts of the processes, in the order of their ranks, are the batch of one."""
    monkeypatch.setattr(loader, "measure_free_bytes", lambda _: float("inf") if room else 0)
    _, whole = batches(digits)
    parts = []
    for rank in (0, 1):
        one_of_two = Distributed()
        one_of_two.rank, one_of_two.world_size = rank, 2
        parts.append(batches(digits, processes=one_of_two)[1])
    joined = [
        tuple(torch.cat(pair) for pair in zip(a, b, strict=True))
        for a, b in zip(*parts, strict=True)
    ]
    assert all(
        torch.equal(a, b)
        for ours, theirs in zip(joined, whole, strict=True)
        for a, b in zip(ours, theirs, strict=True)
    )


def test_run_does_not_depend_on_room(train, tmp_path, read_files, monkeypatch):
    """A whole run with images that do not fit leaves what one leaves whose images do."""
    with monkeypatch.context() as patch:
        patch.setattr(loader, "measure_free_bytes", lambda _: 0)
        train(tmp_path / "sent", images=32)
    train(tmp_path / "kept", images=32)
    name = f"checkpoints/{32:010d}/state.safetensors"
    sent, kept = read_files(tmp_path / "sent"), read_files(tmp_path / "kept")
    assert sent[name] == kept[name]
