"""A weight of a loss that changes as the run goes on."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class CosineRamp:
    """A value that follows half a cosine from ``first`` to ``final``.

    Attributes:
        first: value at the start.
        final: value from ``length`` on.
        length: length in images; 0 to begin with the final value.
    """

    first: float
    final: float
    length: int

    def compute_value(self, images_seen: int) -> float:
        """Returns the value after this number of images."""
        progress = min(images_seen / self.length, 1.0) if self.length else 1.0
        return self.final + (self.first - self.final) * 0.5 * (1 + math.cos(math.pi * progress))
