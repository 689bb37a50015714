"""Real and synthetic images in one dataset."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence, Sized
from typing import Any

from torch.utils.data import Dataset, Sampler

from imagemint.client.torch.images import SyntheticImages
from imagemint.client.torch.shares import find_rank


class MixedImages(Dataset[Any]):
    """The items of a real dataset, followed by synthetic ones.

    Use `sampler` for an order that mixes them: it takes the synthetic images in order of index, so
    that those of a batch are consecutive and need one read.

    With `advance`, position `epoch * len(self) + i` is item i of a later epoch. The sampler gives
    such positions, since the workers of a DataLoader learn the epoch from nothing else.

    Args:
        real: a map-style dataset of (image, class).
        synthetic: synthetic images in the same form.
        advance: whether each epoch has new synthetic images, see `SyntheticImages.at_epoch`.
    """

    def __init__(
        self, real: Dataset[Any], synthetic: SyntheticImages, *, advance: bool = False
    ) -> None:
        self.real = real
        self.synthetic = synthetic
        self.advance = advance
        self.real_count = _count(real)

    def __len__(self) -> int:
        return self.real_count + len(self.synthetic)

    def __getitem__(self, position: int) -> Any:  # noqa: ANN401 - of any form
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[Any]:
        """Returns several items, the synthetic ones with as few reads as possible.

        Raises:
            IndexError: a position is not that of an image.
        """
        places = [self._find(position) for position in positions]
        positions_by_epoch: dict[int, list[int]] = defaultdict(list)
        for epoch, at in places:
            if at >= self.real_count:
                positions_by_epoch[epoch].append(at - self.real_count)
        synthetic = {
            epoch: iter(self.synthetic.at_epoch(epoch).__getitems__(each))
            for epoch, each in positions_by_epoch.items()
        }
        return [
            self.real[at] if at < self.real_count else next(synthetic[epoch])
            for epoch, at in places
        ]

    def sampler(self, *, seed: int = 0, drop_last: bool = False) -> "MixedSampler":
        """Returns a sampler that shuffles, for a DataLoader of this dataset."""
        return MixedSampler(self, seed=seed, drop_last=drop_last)

    def _find(self, position: int) -> tuple[int, int]:
        """Returns the epoch of a position, and the position within it."""
        found = position + len(self) if position < 0 else position
        if found < 0 or len(self) == 0 or (found >= len(self) and not self.advance):
            raise IndexError(f"position {position} of {len(self)} images")
        return divmod(found, len(self))


class MixedSampler(Sampler[int]):
    """Real images in random order, with the synthetic ones spread evenly among them at random.

    Each position comes once over all ranks. The order follows from seed and epoch.

    Args:
        dataset: the images.
        seed: decides the order.
        drop_last: whether to leave out at most one real and one synthetic image of some ranks, so
            that all ranks have the same number. Use it with DistributedDataParallel.
        rank: rank of this process. Default: that of torch.distributed, or 0.
        world_size: number of ranks; goes with `rank`.
    """

    def __init__(
        self,
        dataset: MixedImages,
        *,
        seed: int = 0,
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self._dataset = dataset
        self._seed = seed
        self._drop_last = drop_last
        found = find_rank() or (0, 1)
        self._rank, self._world_size = (
            found if rank is None or world_size is None else (rank, world_size)
        )
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Changes the order, and the synthetic images of a dataset with `advance`.

        Call it before each epoch.
        """
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._take_share(self._dataset.real_count)) + len(
            self._take_share(len(self._dataset.synthetic))
        )

    def __iter__(self) -> Iterator[int]:
        order = random.Random(f"{self._seed}/{self._epoch}")  # noqa: S311 - an order, no secret
        real = list(range(self._dataset.real_count))
        order.shuffle(real)
        chosen = self._take_share(len(real))
        positions = iter(real[self._rank :: self._world_size][: len(chosen)])
        synthetic = iter(self._take_share(len(self._dataset.synthetic)))
        kinds = [False] * len(chosen) + [True] * len(self._take_share(len(self._dataset.synthetic)))
        order.shuffle(kinds)
        first = self._epoch * len(self._dataset) if self._dataset.advance else 0
        for is_synthetic in kinds:
            at = self._dataset.real_count + next(synthetic) if is_synthetic else next(positions)
            yield first + at

    def _take_share(self, count: int) -> range:
        """Returns the consecutive positions out of `count` that this rank takes."""
        each, more = divmod(count, self._world_size)
        more = 0 if self._drop_last else more
        start = self._rank * each + min(self._rank, more)
        return range(start, start + each + (self._rank < more))


def mix(
    real: Dataset[Any],
    synthetic: SyntheticImages,
    *,
    ratio: float | None = None,
    per_class: int | None = None,
    labels: Sequence[int] | None = None,
    seed: int = 0,
    advance: bool = False,
) -> MixedImages:
    """Adds synthetic images to a dataset of real ones.

    Args:
        real: a map-style dataset of (image, class), such as those of torchvision.
        synthetic: where the synthetic images come from, in the same form as the real ones.
        ratio: synthetic images for each real image, 0 or more: the first images of `synthetic`,
            with their own classes.
        per_class: tops each class up to this number of images. A class that has as many real ones
            gets none. Each synthetic image has an index of its own, from the first index of
            `synthetic` on, so the number of images in `synthetic` does not matter.
        labels: class of each real image. Default: `real.targets` or `real.labels`; without either,
            every item is read once. Only `per_class` needs them. Given, they say that the numbers
            are those of the model, whatever `real.classes` says.
        seed: order of the classes of synthetic images with `per_class`.
        advance: whether each epoch has new synthetic images, of the same classes. Their indices
            begin where those of the epoch before end. It needs `MixedImages.sampler` and its
            `set_epoch`. Default: every epoch has the same images.

    Raises:
        ValueError: not exactly one of `ratio` and `per_class` is given, it is below 0, a real image
            has a class that the model does not have, `synthetic` has too few images, or `labels` is
            missing and `real.classes`, the names in torchvision's datasets, numbers a class
            otherwise than the model.
    """
    if (ratio is None) == (per_class is None):
        raise ValueError("give either ratio or per_class")
    if (ratio or 0) < 0 or (per_class or 0) < 0:
        raise ValueError("ratio and per_class are 0 or more")
    if labels is None:
        _check_names(real, synthetic.source.identity.class_labels)
    if ratio is not None:
        return MixedImages(real, synthetic.take(round(ratio * _count(real))), advance=advance)
    found = _read_labels(real) if labels is None else labels
    num_classes = len(synthetic.source.identity.class_labels)
    invalid = sorted({int(each) for each in found if not 0 <= int(each) < num_classes})
    if invalid:
        raise ValueError(
            f"real images have the classes {invalid}; {synthetic.source.identity.model} has "
            f"{num_classes}"
        )
    real_counts = Counter(int(each) for each in found)
    missing = [k for k in range(num_classes) for _ in range((per_class or 0) - real_counts[k])]
    # Shuffled, so that consecutive indices, which a sampler keeps together, have mixed classes.
    random.Random(seed).shuffle(missing)  # noqa: S311 - an order, no secret
    return MixedImages(real, synthetic.choose(missing), advance=advance)


def _check_names(real: Dataset[Any], labels: Sequence[str]) -> None:
    """Raises ValueError if the real images number a class otherwise than the model."""
    names = getattr(real, "classes", None)
    if not isinstance(names, Sequence) or len(set(labels)) < len(labels):
        return
    for number, name in enumerate(names):
        if name in labels and labels.index(name) != number:
            raise ValueError(
                f"class {name!r} has number {number} in real.classes, and {labels.index(name)} in "
                "the model: give the real items the numbers of the model, as with target_transform "
                "of torchvision, and pass these numbers as labels"
            )


def _read_labels(real: Dataset[Any]) -> Sequence[int]:
    for name in ("targets", "labels"):
        if (found := getattr(real, name, None)) is not None:
            return list(found)
    return [int(real[position][1]) for position in range(_count(real))]


def _count(real: Dataset[Any]) -> int:
    if not isinstance(real, Sized):
        raise TypeError(f"{type(real).__name__} has no length; mix() takes map-style datasets")
    return len(real)
