"""Estimates the size and the duration of a data set from a few images."""

import time
from contextlib import closing
from dataclasses import dataclass, replace

from imagemint.dataset.folder import Staging
from imagemint.dataset.formats import load_format
from imagemint.dataset.plan import Plan
from imagemint.dataset.scratch import open_scratch
from imagemint.dataset.sources import Spec

_SAMPLE = 256


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate from a sample."""

    sample: int
    """Images of the sample."""
    num_bytes: int
    """Size of the data set in bytes."""
    seconds: float
    """Time in one process, in seconds."""


def estimate(plan: Plan, spec: Spec) -> Estimate:
    """Makes up to 256 images of a plan in a temporary folder, and returns the estimate."""
    count = min(plan.count, _SAMPLE)
    trial = replace(plan, count=count, shard_size=count)
    with (
        open_scratch() as place,
        closing(spec.open_source(trial, 0)) as source,
    ):
        staging = Staging(place)
        began = time.perf_counter()
        batches = source.read(plan.first_index, count)
        load_format(plan.format).write(trial, trial.get_shard(0), batches, staging)
        seconds = time.perf_counter() - began
        num_bytes = sum(each.size for each in staging.describe())
    share = plan.count / count
    return Estimate(count, round(num_bytes * share), seconds * share)
