"""Computes the images of many callers together, in batches."""

from imagemint.server.batching.batcher import Batcher
from imagemint.server.batching.job import NO_CONDITIONS, Conditions, Job, Priority

__all__ = ["NO_CONDITIONS", "Batcher", "Conditions", "Job", "Priority"]
