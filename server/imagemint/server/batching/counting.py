"""Images minted, counted by class, a batch of callers at a time."""

from collections.abc import Sequence

from prometheus_client import Counter

from imagemint.engine.spec import ModelSpec
from imagemint.server.batching.job import Job


class ImagesByClass:
    """The counters of one version; to look one up takes longer than to count, so they are kept.

    Args:
        images: the counter, by model, version and class.
        spec: the model.
        version: its version, for the label.
    """

    def __init__(self, images: Counter, spec: ModelSpec, version: int) -> None:
        self._images = images
        self._spec = spec
        self._version = str(version)
        self._kept: dict[int | None, Counter] = {}

    def count(self, jobs: Sequence[Job]) -> None:
        """Counts the images of jobs that are whole."""
        counts: dict[int | None, int] = {}
        for job in jobs:
            if job.class_id is None:
                counts[None] = counts.get(None, 0) + job.count
            else:
                for class_id in job.class_id.tolist():
                    counts[class_id] = counts.get(class_id, 0) + 1
        for class_id, images in counts.items():
            counter = self._kept.get(class_id)
            if counter is None:
                label = "" if class_id is None else self._spec.class_labels[class_id]
                counter = self._images.labels(self._spec.name, self._version, label)
                self._kept[class_id] = counter
            counter.inc(images)
