"""The progress of making a data set: images, images/s, bytes and time left."""

import sys
from types import TracebackType
from typing import Self

from tqdm import tqdm


class Progress:
    """A progress bar on stderr.

    Args:
        count: number of images of the data set.
        show: whether to show the bar; None for only on a terminal.
    """

    def __init__(self, count: int, *, show: bool | None) -> None:
        hidden = None if show is None else not show
        self._bar = tqdm(
            total=count, unit=" images", unit_scale=True, file=sys.stderr, disable=hidden
        )
        self.images = 0
        """Images made by this run."""
        self.num_bytes = 0
        """Bytes of the shards finished by this run."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()

    def skip(self, images: int) -> None:
        """Counts images that an earlier run made; they do not count for the speed."""
        if not self._bar.disable:  # a hidden bar lacks it
            self._bar.initial += images
        self._bar.update(images)

    def add_images(self, images: int) -> None:
        """Counts images that this run made."""
        self.images += images
        self._bar.update(images)

    def add_bytes(self, num_bytes: int) -> None:
        """Counts bytes of a finished shard."""
        self.num_bytes += num_bytes
        self._bar.set_postfix_str(f"{self.num_bytes / 1e6:,.1f} MB", refresh=False)
