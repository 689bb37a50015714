"""The progress of making a data set: images, images/s, bytes and time left."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tqdm import tqdm

_LINE_EVERY_S = 30.0
_BAR_EVERY_S = 0.1


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
        self._began = self._printed_at = self._shown_at = clock()
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
        """Counts images that an earlier run made.

        Neither they nor the time to check them before the first new image count for the speed.
        """
        now = self._clock()
        self._skipped += images
        if not self.images:
            self._began = now
        if not self._bar.disable:  # a hidden bar lacks them
            self._bar.initial += images
            self._bar.n += images
            self._bar.last_print_n += images
            if not self.images:
                self._bar.unpause()
            if now >= self._shown_at + _BAR_EVERY_S:
                self._shown_at = now
                self._bar.refresh()
        self._print_line(now)

    def add_images(self, images: int) -> None:
        """Counts images that this run made."""
        self.images += images
        self._bar.update(images)
        self._print_line(self._clock())

    def add_bytes(self, num_bytes: int) -> None:
        """Counts bytes of a finished shard."""
        self.num_bytes += num_bytes
        self._bar.set_postfix_str(f"{self.num_bytes / 1e6:,.1f} MB", refresh=False)

    def _print_line(self, now: float) -> None:
        if not self._prints_lines or now < self._printed_at + _LINE_EVERY_S:
            return
        self._printed_at = now
        done, took_s = self._skipped + self.images, now - self._began
        speed = self.images / took_s if took_s else 0.0
        left = f"about {(self._count - done) / speed:,.0f} s left" if speed else "time left unknown"
        sys.stderr.write(
            f"imagemint dataset: {done:,} of {self._count:,} images ({done / self._count:.0%}), "
            f"{speed:,.0f} images/s, {self.num_bytes / 1e6:,.1f} MB, {left}\n"
        )
        sys.stderr.flush()
