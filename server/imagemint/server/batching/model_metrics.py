"""Counts the work of a model version, for Prometheus and the Open Inference Protocol."""

import collections
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from prometheus_client import Counter

from imagemint.engine.spec import ModelSpec
from imagemint.server.batching.job import Job, Priority, Slice
from imagemint.server.telemetry.metrics import Metrics
from imagemint.server.telemetry.statistics import Account, Phases, Statistics


class _Batch(NamedTuple):
    """The figures of a batch without its jobs, which hold the images."""

    images: int
    took: Phases
    ended_ns: int
    """Nanoseconds since 1970."""
    waits: list[tuple[Priority, int]]
    """Time in the queue of the jobs that began in the batch, in nanoseconds."""
    completed: list[tuple[Sequence[int] | None, int, int, int, int, int]]
    """Completed jobs: classes, images, and total, input, inference and output nanoseconds."""


class ModelMetrics:
    """Counts batches and their jobs, many at a time; see `telemetry.metrics.Later`.

    Args:
        spec: the model.
        version: version of the model, for metric labels.
        metrics: the server's metrics.

    Attributes:
        statistics: the same figures as sums.
    """

    def __init__(self, spec: ModelSpec, version: int, metrics: Metrics) -> None:
        labels = (spec.name, str(version))
        self.statistics = Statistics(metrics.backlog.clear)
        self._images = _ImagesByClass(metrics.images, spec, version)
        self._queue_wait = {level: metrics.queue_wait.labels(*labels, level) for level in Priority}
        self._batch_images = metrics.batch_images.labels(*labels)
        self._inference = metrics.inference_duration.labels(*labels)
        self._batches = metrics.backlog.make_buffer(self._count)

    def add(
        self,
        batch: list[Slice],
        images: int,
        began_ns: int,
        took: Phases,
        finished: list[Job],
    ) -> None:
        """Counts a finished batch.

        Args:
            batch: slices of the batch.
            images: number of images in the batch.
            began_ns: start of the batch, by `time.perf_counter_ns`.
            took: duration of the batch.
            finished: jobs that the batch completed.
        """
        waits = [(job.priority, began_ns - job.accepted_ns) for job, start, _ in batch if not start]
        completed = [
            (
                *(job.conditions.class_id, job.count, job.finished_ns - job.accepted_ns),
                *(job.input_ns, job.inference_ns, job.output_ns),
            )
            for job in finished
        ]
        self._batches.add(_Batch(images, took, time.time_ns(), waits, completed))

    def _count(self, batches: Sequence[_Batch]) -> None:
        for batch in batches:
            self._batch_images.observe(batch.images)
            self._inference.observe(batch.took.inference_ns / 1e9)
            for priority, ns in batch.waits:
                self._queue_wait[priority].observe(ns / 1e9)
        self._images.count(
            (classes, images) for batch in batches for classes, images, *_ in batch.completed
        )
        for batch in batches:
            accounts = [Account(total, Phases(*phases)) for _, _, total, *phases in batch.completed]
            self.statistics.add_batch(batch.images, batch.took, accounts, batch.ended_ns)


class _ImagesByClass:
    """The counters of one version. They are kept, because a lookup takes longer than an increment.

    Args:
        images: counter with the labels model, version and class.
        spec: the model.
        version: version of the model, for the label.
    """

    def __init__(self, images: Counter, spec: ModelSpec, version: int) -> None:
        self._images = images
        self._spec = spec
        self._version = str(version)
        self._counters: dict[int | None, Counter] = {}

    def count(self, finished: Iterable[tuple[Sequence[int] | None, int]]) -> None:
        """Counts the images of completed jobs.

        Args:
            finished: for each job, its classes or None, and its number of images.
        """
        counts: collections.Counter[int | None] = collections.Counter()
        for class_ids, count in finished:
            if class_ids is None:
                counts[None] += count
            else:
                counts.update(class_ids)
        for class_id, images in counts.items():
            counter = self._counters.get(class_id)
            if counter is None:
                label = "" if class_id is None else self._spec.class_labels[class_id]
                counter = self._images.labels(self._spec.name, self._version, label)
                self._counters[class_id] = counter
            counter.inc(images)
