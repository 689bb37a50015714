"""Tests of the metrics of workers and their sums: counts outlive their worker."""

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from imagemint.server.processes.worker_metrics import Totals, collect_figures
from imagemint.server.telemetry.metrics import LARGEST_OVER_WORKERS, Metrics, observe_each


@pytest.fixture
def totals():
    """Totals without any worker."""
    return Totals(LARGEST_OVER_WORKERS)


class Worker:
    """A worker that counts calls and sends its metrics on request."""

    def __init__(self, number, totals):
        self.number = number
        self.totals = totals
        self.metrics = Metrics(shared=True)

    def call(self, times=1, version="1"):
        """Counts calls, each with a batch of three images."""
        for _ in range(times):
            self.metrics.requests.labels("s", "m", "tiny", "OK").inc()
            self.metrics.batch_images.labels("tiny", version).observe(3)

    def send(self):
        """Sends the metrics."""
        self.totals.update(self.number, collect_figures(self.metrics.registry))


def read_samples(totals):
    """Returns the samples that Prometheus sees, by name and label values."""
    text = generate_latest(totals).decode()
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


CALLS = ("imagemint_requests_total", "OK", "m", "s", "tiny")


def test_counts_are_summed(totals):
    """Counters and all parts of histograms are summed, including deferred values."""
    for number, calls in ((0, 3), (1, 4)):
        worker = Worker(number, totals)
        worker.call(calls)
        count = observe_each(worker.metrics.batch_images.labels("tiny", "1"))
        late = worker.metrics.backlog.make_buffer(count)
        late.add(700)
        worker.send()
    samples = read_samples(totals)
    assert samples[CALLS] == 7
    assert samples["imagemint_batch_images_count", "1", "tiny"] == 9
    assert samples["imagemint_batch_images_sum", "1", "tiny"] == 7 * 3 + 2 * 700
    assert samples["imagemint_batch_images_bucket", "1", "2.0", "tiny"] == 0
    assert samples["imagemint_batch_images_bucket", "1", "4.0", "tiny"] == 7
    assert samples["imagemint_batch_images_bucket", "+Inf", "1", "tiny"] == 9
    assert not [name for name, *_ in samples if name.endswith("_created")]


def test_dead_worker_leaves_its_counts(totals):
    """A successor continues the counts, but gauges of the dead worker are removed."""
    for number in (0, 1):
        worker = Worker(number, totals)
        worker.call(3)
        worker.metrics.inflight.labels("s").inc()
        worker.send()
    totals.retire(0)
    assert read_samples(totals)[CALLS] == 6
    assert read_samples(totals)["imagemint_inflight_requests", "s"] == 1
    for _ in range(2):
        successor = Worker(0, totals)
        successor.call(2)
        successor.send()
        totals.retire(0)
    assert read_samples(totals)[CALLS] == 10
    totals.retire(0)  # dies before it sends anything
    assert read_samples(totals)[CALLS] == 10


def test_gauges_are_summed_or_the_largest_is_used(totals):
    """Queue lengths are summed. A version that all workers serve counts once."""
    for number, load_s in ((0, 1.5), (1, 2.5)):
        worker = Worker(number, totals)
        metrics = worker.metrics
        metrics.watch(metrics.queue_images, ("tiny", "1"), lambda number=number: 3 + number)
        metrics.model_failed_versions.labels("tiny").set(1)
        metrics.model_load_duration.labels("tiny", "1").set(load_s)
        metrics.model_info.labels("tiny", "1", "ab", "fp32", "cpu", "fp32").set(1)
        worker.send()
    samples = read_samples(totals)
    assert samples["imagemint_queue_images", "1", "tiny"] == 7
    assert samples["imagemint_model_failed_versions", "tiny"] == 1
    assert samples["imagemint_model_load_duration_seconds", "1", "tiny"] == 2.5
    assert samples["imagemint_model_info", "1", "ab", "cpu", "fp32", "fp32", "tiny"] == 1


def test_unloaded_version_is_removed_with_its_last_worker(totals):
    """While a worker has the version, its gauge stays and its counters do not fall."""
    workers = [Worker(number, totals) for number in (0, 1)]
    for worker in workers:
        for version in ("1", "2"):
            worker.call(3, version)
            worker.metrics.model_info.labels("tiny", version, "ab", "fp32", "cpu", "fp32").set(1)
        worker.send()
    info = ("imagemint_model_info", "1", "ab", "cpu", "fp32", "fp32", "tiny")
    count = ("imagemint_batch_images_count", "1", "tiny")
    for worker, left in ((workers[0], True), (workers[1], False)):
        worker.metrics.forget_version("tiny", 1)
        worker.send()
        samples = read_samples(totals)
        assert samples.get(info) == (1 if left else None)
        assert samples.get(count) == (6 if left else None)
        assert samples["imagemint_batch_images_count", "2", "tiny"] == 6


def test_reloaded_version_starts_at_zero(totals):
    """Counts that were forgotten with a version do not come back with it."""
    worker = Worker(0, totals)
    worker.call(3)
    worker.send()
    worker.metrics.forget_version("tiny", 1)
    worker.send()
    worker.call(1)
    worker.send()
    totals.retire(0)
    assert read_samples(totals)["imagemint_batch_images_count", "1", "tiny"] == 1
    assert read_samples(totals)[CALLS] == 4
