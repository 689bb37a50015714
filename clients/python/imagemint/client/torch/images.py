"""Images by index: a map-style dataset."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from imagemint.client.image_source import ImageSource, SourceImages
from imagemint.client.prefetch import Prefetch
from imagemint.client.torch.items import ItemFormat, Output, Transform

# Reads of one batch at the same time: enough for a batch of the server, few enough for its queue.
_READS_AT_ONCE = 16


class SyntheticImages(Dataset[Any]):
    """`count` images of a source by position: item i is the image at index `first_index + i`.

    Items are (image, class), or (image, class, serial), as those of `SyntheticStream`. A sampler,
    such as torch's DistributedSampler, decides the order and which rank reads which items.
    Consecutive items of a batch share a read, so a sequential order is the fastest; images of a
    generator need no shuffling.

    Args:
        source: a ServerSource, or another ImageSource.
        count: number of images, 0 or more.
        first_index: index of the first image.
        class_ids: class of each image; None for the condition of the source.
        output: type of the images, see `Output`.
        transform: applied to each image.
        serials: whether items have their serial number.

    Raises:
        ValueError: `count` is negative, or not the number of classes.
    """

    def __init__(
        self,
        source: ImageSource,
        count: int,
        *,
        first_index: int = 0,
        class_ids: Sequence[int] | None = None,
        output: Output = "tensor",
        transform: Transform | None = None,
        serials: bool = False,
    ) -> None:
        if count < 0 or (class_ids is not None and len(class_ids) != count):
            classes = "" if class_ids is None else f" and {len(class_ids)} classes"
            raise ValueError(f"count is {count}{classes}")
        self._source = source
        self._count = count
        self._first_index = first_index
        self._class_ids = class_ids
        self._format = ItemFormat(output, transform, serials)

    @property
    def source(self) -> ImageSource:
        """Source of the images."""
        return self._source

    def take(self, count: int) -> "SyntheticImages":
        """Returns the first `count` images.

        Raises:
            ValueError: there are fewer.
        """
        if not 0 <= count <= self._count:
            raise ValueError(f"{count} of {self._count} synthetic images")
        class_ids = None if self._class_ids is None else self._class_ids[:count]
        return self._replace(count, class_ids)

    def choose(self, class_ids: Sequence[int]) -> "SyntheticImages":
        """Returns one image for each of `class_ids`, from the same indices on, in this format."""
        return self._replace(len(class_ids), class_ids)

    def at_epoch(self, epoch: int) -> "SyntheticImages":
        """Returns as many images for a later epoch, with the same classes.

        Their indices follow on those of the epoch before, so that no image comes twice.

        Args:
            epoch: number of the epoch; 0 has the images of this dataset.
        """
        return self._replace(
            self._count, self._class_ids, first_index=self._first_index + epoch * self._count
        )

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, position: int) -> Any:  # noqa: ANN401 - what transform returns
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[Any]:
        """Returns several items, as a DataLoader asks for the items of a batch.

        Raises:
            IndexError: a position is not that of an image.
        """
        runs = _cut_into_runs(
            [self._check(position) for position in positions], self._source.max_images
        )
        items: dict[int, Any] = {}
        read = Prefetch(self._read, runs, 0 if len(runs) == 1 else _READS_AT_ONCE)
        for run, images in zip(runs, read, strict=True):
            found = self._format.split(images)
            items |= zip(range(run.start, run.start + run.size), found, strict=True)
        return [items[self._check(position)] for position in positions]

    def _replace(
        self, count: int, class_ids: Sequence[int] | None, first_index: int | None = None
    ) -> "SyntheticImages":
        return SyntheticImages(
            self._source,
            count,
            first_index=self._first_index if first_index is None else first_index,
            class_ids=class_ids,
            output=self._format.output,
            transform=self._format.transform,
            serials=self._format.serials,
        )

    def _read(self, run: "_Run") -> SourceImages:
        class_ids = self._class_ids
        if class_ids is not None:
            class_ids = class_ids[run.start : run.start + run.size]
        return self._source.read(self._first_index + run.start, run.size, class_ids)

    def _check(self, position: int) -> int:
        found = position + self._count if position < 0 else position
        if not 0 <= found < self._count:
            raise IndexError(f"position {position} of {self._count} images")
        return found


@dataclass(slots=True)
class _Run:
    """Consecutive positions of a read."""

    start: int
    size: int


def _cut_into_runs(positions: Sequence[int], limit: int) -> list[_Run]:
    """Returns the fewest reads that cover each position once."""
    runs: list[_Run] = []
    for position in sorted(set(positions)):
        last = runs[-1] if runs else None
        if last is not None and position == last.start + last.size and last.size < limit:
            last.size += 1
        else:
            runs.append(_Run(position, 1))
    return runs
