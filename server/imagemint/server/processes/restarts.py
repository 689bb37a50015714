"""When a worker that died is started again."""

import random
from collections.abc import Callable

FIRST_S = 0.1
LONGEST_S = 30.0
SETTLED_S = 60.0
START_ATTEMPTS = 3


class Restarts:
    """The deaths of one worker, and the pause after each.

    The pause doubles from death to death, up to half a minute, and begins anew once a worker has
    lived for a minute. Up to half of it is left off by chance, lest workers that died of one cause
    all come back at once.

    Args:
        chance: gives a number from 0 to 1.
    """

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self.deaths = 0
        """In a row, without a long life between them."""

    def pause_s(self, lived_s: float) -> float:
        """Counts a death and returns the pause before the next start.

        Args:
            lived_s: from its start to its death.
        """
        self.deaths = 1 if lived_s >= SETTLED_S else self.deaths + 1
        # The exponent is bounded too: a float has no room for two to the power of a bad week.
        whole = min(FIRST_S * 2.0 ** min(self.deaths - 1, 32), LONGEST_S)
        return whole * (1 - self._chance() / 2)
