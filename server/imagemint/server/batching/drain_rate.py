"""Measures how fast a queue drains."""

import math


class DrainRate:
    """Images per second while there was work, weighted towards about the last second."""

    _TIME_CONSTANT_NS = 1e9

    def __init__(self) -> None:
        self._images = 0.0
        self._busy_ns = 0.0
        self._last_ns = 0

    @property
    def per_s(self) -> float:
        """Images per second; 0 before the first batch."""
        return 1e9 * self._images / self._busy_ns if self._busy_ns else 0.0

    def add(self, images: int, began_ns: int, ended_ns: int) -> None:
        """Counts a batch. Time since the last batch counts while this batch was running."""
        elapsed = max(ended_ns - max(self._last_ns, began_ns), 1)
        keep = math.exp(-elapsed / self._TIME_CONSTANT_NS)
        self._images = keep * self._images + images
        self._busy_ns = keep * self._busy_ns + elapsed
        self._last_ns = ended_ns
