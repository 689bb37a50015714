"""Delays between the death of a worker and its restart."""

import random
from collections.abc import Callable

FIRST_S = 0.1
LONGEST_S = 30.0
SETTLED_S = 60.0
START_ATTEMPTS = 3


class Restarts:
    """Counts the deaths of one worker, and computes the delay after each.

    The delay doubles with each death, up to 30 s, and starts again once a worker has lived for
    60 s. A random part, up to half, is subtracted, so that workers that died of one cause do not
    all restart at the same time.

    Args:
        chance: returns a random number from 0 to 1.
    """

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self.deaths = 0
        """Number of consecutive deaths without 60 s of life between them."""

    def pause_s(self, lived_s: float) -> float:
        """Counts a death and returns the delay before the next start, in seconds.

        Args:
            lived_s: time from the start of the worker to its death.
        """
        self.deaths = 1 if lived_s >= SETTLED_S else self.deaths + 1
        # The exponent is limited too, because 2.0 ** deaths overflows after many deaths.
        delay_s = min(FIRST_S * 2.0 ** min(self.deaths - 1, 32), LONGEST_S)
        return delay_s * (1 - self._chance() / 2)
