"""Computes the images of many callers together, in batches."""

from imagemint.server.batching.batcher import Batcher
from imagemint.server.batching.job import Job, Priority

__all__ = ["Batcher", "Job", "Priority"]
