"""Intervals of paired differences."""

import math
import statistics
from collections.abc import Sequence

from scipy import stats


def mean_interval(differences: Sequence[float]) -> tuple[float, float]:
    """Returns the mean, and half the width of its 95 % interval of Student's t.

    The width is NaN for a single value.
    """
    mean = statistics.mean(differences)
    if len(differences) == 1:
        return mean, math.nan
    quantile = float(stats.t.ppf(0.975, len(differences) - 1))
    return mean, quantile * statistics.stdev(differences) / math.sqrt(len(differences))
