"""Tests of imagemint.client.torch.mixing."""

from collections import Counter

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from imagemint.client.torch import MixedSampler, SyntheticImages, mix

LABELS = [0, 0, 0, 0, 1, 2, 2, 1]


class Real(TensorDataset):
    """A dataset of eight real images of value 200 with classes 0, 1 and 2."""

    def __init__(self, labels=LABELS):
        super().__init__(torch.full((len(labels), 1, 4, 6), 200, dtype=torch.uint8))
        self.targets = labels

    def __getitem__(self, position):
        """Returns (image, class)."""
        return super().__getitem__(position)[0], self.targets[position]


def is_real(item):
    """Returns whether an item is a real image."""
    return int(item[0].flatten()[0]) == 200


def test_classes_are_filled_up(computed):
    """Each class has N images, real ones first. A class with more keeps them."""
    mixed = mix(Real(), SyntheticImages(computed(), 0, first_index=50), per_class=3)
    assert Counter(class_id for _, class_id in mixed) == {0: 4, 1: 3, 2: 3}
    assert [is_real(each) for each in mixed] == [True] * 8 + [False] * 2
    assert [int(mixed[at][0].flatten()[0]) for at in (8, 9)] == [50, 51]


def test_ratio_adds_the_first_images(computed):
    """A ratio of a half adds one synthetic image for two real ones."""
    mixed = mix(Real(), SyntheticImages(computed(), 100), ratio=0.5)
    assert len(mixed) == 12
    assert [int(mixed[at][0].flatten()[0]) for at in range(8, 12)] == [0, 1, 2, 3]
    assert is_real(mixed[-5])


def test_labels_have_three_sources(computed):
    """Labels come from the argument, the dataset or the items."""
    real, synthetic = Real(), SyntheticImages(computed(), 0)
    other = Real()
    other.labels = [0] * 8  # as SVHN of torchvision has them
    del other.targets
    assert len(mix(other, synthetic, per_class=5)) == 18
    found = [len(mix(real, synthetic, per_class=5))]
    found.append(len(mix(real, synthetic, per_class=5, labels=[0] * 8)))
    found.append(len(mix([real[at] for at in range(8)], synthetic, per_class=5)))
    assert found == [15, 18, 15]


def test_sampler_gives_each_position_once(computed):
    """Real images are shuffled by epoch, and synthetic ones come in order, over all ranks."""
    mixed = mix(Real(), SyntheticImages(computed(), 100), ratio=2.0)
    samplers = [MixedSampler(mixed, rank=rank, world_size=3) for rank in range(3)]
    orders = [list(sampler) for sampler in samplers]
    assert sorted(each for order in orders for each in order) == list(range(24))
    assert [len(sampler) for sampler in samplers] == [len(each) for each in orders]
    for order in orders:
        synthetic = [each for each in order if each >= 8]
        assert synthetic == list(range(synthetic[0], synthetic[0] + len(synthetic)))
    assert orders[0] == list(samplers[0])
    samplers[0].set_epoch(1)
    assert orders[0] != list(samplers[0])
    even = [MixedSampler(mixed, rank=rank, world_size=3, drop_last=True) for rank in range(3)]
    assert {len(list(each)) for each in even} == {7}
    assert [len(each) for each in even] == [7, 7, 7]
    left = [position for each in even for position in each]
    assert len(set(left)) == len(left)


def test_batch_of_a_mix_needs_one_read(computed):
    """The synthetic images of a shuffled batch are adjacent."""
    source = computed()
    mixed = mix(Real(), SyntheticImages(source, 100), ratio=3.0)
    loader = DataLoader(mixed, batch_size=8, sampler=mixed.sampler(seed=1))
    batches = list(loader)
    assert [len(images) for images, _ in batches] == [8] * 4
    assert len(source.reads) == 4


def read_epoch(mixed, epoch):
    """Returns the synthetic images of an epoch as pairs of value and class, in order of value."""
    sampler = mixed.sampler(seed=1)
    sampler.set_epoch(epoch)
    batches = DataLoader(mixed, batch_size=4, sampler=sampler)
    items = [item for images, labels in batches for item in zip(images, labels, strict=True)]
    assert sum(map(is_real, items)) == 8
    found = [(int(image.flatten()[0]), int(label)) for image, label in items]
    return sorted(each for each in found if each[0] != 200)


def test_each_epoch_has_new_images(computed):
    """With `advance` the indices go on where the epoch before ended, and the classes stay."""
    synthetic = SyntheticImages(computed(), 0, first_index=50)
    mixed = mix(Real(), synthetic, per_class=5, advance=True)
    first, second, tenth = (read_epoch(mixed, epoch) for epoch in (0, 1, 9))
    assert [value for value, _ in first] == [*range(50, 57)]
    assert second == [(value + 7, label) for value, label in first]
    assert tenth == [(value + 63, label) for value, label in first]
    assert [int(mixed[at][0].flatten()[0]) for at in (8, 15 + 8, -1)] == [50, 57, 56]


def test_epochs_have_the_same_images_by_default(computed):
    """Only the order changes, and no position is beyond the last image."""
    mixed = mix(Real(), SyntheticImages(computed(), 100), ratio=1.0)
    assert read_epoch(mixed, 0) == read_epoch(mixed, 3)
    for position in (16, -17):
        with pytest.raises(IndexError, match=f"position {position} of 16 images"):
            mixed[position]
    nothing = mix([], SyntheticImages(computed(), 100), ratio=1.0, labels=[], advance=True)
    with pytest.raises(IndexError, match="position 0 of 0 images"):
        nothing[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either ratio or per_class"),
        ({"ratio": 1.0, "per_class": 1}, "either ratio or per_class"),
        ({"ratio": 20.0}, "160 of 100"),
        ({"per_class": 3, "labels": [0, 7]}, r"classes \[7\]; counted has 3"),
        ({"ratio": -0.1}, "0 or more"),
        ({"per_class": -1}, "0 or more"),
    ],
)
def test_invalid_mix_is_refused(computed, arguments, message):
    """Each error says what is wrong."""
    with pytest.raises(ValueError, match=message):
        mix(Real(), SyntheticImages(computed(), 100), **arguments)


def test_other_numbers_of_classes_are_refused(computed):
    """An ImageFolder numbers its classes by name, a model as it was trained."""
    real, synthetic = Real(), SyntheticImages(computed(), 100)
    for names in (["0", "1", "2"], ["zero", "one", "two"]):
        real.classes = names
        assert len(mix(real, synthetic, ratio=1.0)) == 16
    real.classes = ["0", "2", "1"]
    with pytest.raises(ValueError, match=r"class '2' has number 1 in real\.classes, and 2 in"):
        mix(real, synthetic, ratio=1.0)
    assert len(mix(real, synthetic, ratio=1.0, labels=LABELS)) == 16
