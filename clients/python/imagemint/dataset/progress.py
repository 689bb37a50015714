"""The progress of making a data set: images, images/s, bytes and time left."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tqdm import tqdm

_LINE_EVERY_S = 30.0


class Progress:
    """A progress bar on stderr; without a terminal, a plain line every 30 s.

    Args:
        count: number of images of the data set.
        show: False to show nothing.
        clock: returns the time in seconds.
    """

    def __init__(
        self, count: int, *, show: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        on_terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=count,
            unit=" images",
            unit_scale=True,
            file=sys.stderr,
            disable=not (show and on_terminal),
        )
        self._prints_lines = show and not on_terminal
        self._clock = clock
        self._began = self._printed_at = clock()
        self._count = count
        self._skipped = 0
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
        self._skipped += images
        if not self._bar.disable:  # a hidden bar lacks it
            self._bar.initial += images
        self._bar.update(images)
        self._print_line()

    def add_images(self, images: int) -> None:
        """Counts images that this run made."""
        self.images += images
        self._bar.update(images)
        self._print_line()

    def add_bytes(self, num_bytes: int) -> None:
        """Counts bytes of a finished shard."""
        self.num_bytes += num_bytes
        self._bar.set_postfix_str(f"{self.num_bytes / 1e6:,.1f} MB", refresh=False)

    def _print_line(self) -> None:
        now = self._clock()
        if not self._prints_lines or now < self._printed_at + _LINE_EVERY_S:
            return
        self._printed_at = now
        done, speed = self._skipped + self.images, self.images / (now - self._began)
        left = f"about {(self._count - done) / speed:,.0f} s left" if speed else "time left unknown"
        sys.stderr.write(
            f"imagemint dataset: {done:,} of {self._count:,} images ({done / self._count:.0%}), "
            f"{speed:,.0f} images/s, {self.num_bytes / 1e6:,.1f} MB, {left}\n"
        )
        sys.stderr.flush()
