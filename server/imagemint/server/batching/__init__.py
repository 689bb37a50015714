"""Many callers' images, computed together, a batch at a time."""

from imagemint.server.batching.batcher import Batcher
from imagemint.server.batching.job import Job, Priority

__all__ = ["Batcher", "Job", "Priority"]
