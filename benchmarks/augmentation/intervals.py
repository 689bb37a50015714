"""Intervals of paired differences."""

import statistics
from collections.abc import Sequence

from scipy import stats


def compute_mean_interval(differences: Sequence[float]) -> tuple[float, float | None]:
    """Returns the mean, and half the width of its 95 % interval of Student's t.

    A single value has no interval: None.
    """
    mean = statistics.mean(differences)
    if len(differences) == 1:
        return mean, None
    quantile = float(stats.t.ppf(0.975, len(differences) - 1))
    return mean, quantile * statistics.stdev(differences) / len(differences) ** 0.5
