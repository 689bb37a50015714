"""What all workers have counted, as one."""

import os

import pytest
from prometheus_client import generate_latest, values
from prometheus_client.parser import text_string_to_metric_families

from imagemint.server.metrics import Metrics
from imagemint.server.processes.metrics import (
    DIRECTORY_VARIABLE,
    WorkersMetrics,
    forget_gauges,
    remove_files,
)


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """Where the workers of a test count."""
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path))
    return tmp_path


@pytest.fixture
def worker(directory, monkeypatch):
    """Starts a worker of a number, as if it had a process of its own; labels go to the latest."""

    def start(number):
        monkeypatch.setattr(values, "ValueClass", values.MultiProcessValue(lambda: number))
        return Metrics(shared=True)

    yield start
    values.close_all_multiprocess_files()


@pytest.fixture
def scraped(directory):
    """The samples that Prometheus sees, by name and labels."""

    def scrape(*workers, pids=()):
        def refresh():
            for each in workers:
                each.measure()

        metrics = WorkersMetrics(directory, 2, refresh, lambda: dict(pids))
        text = generate_latest(metrics.registry).decode()
        return {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    return scrape


def test_backlog_is_counted_when_scraped(worker, scraped):
    """What a worker has put off is in the figures of the next scrape."""
    metrics = worker(0)
    part = metrics.backlog.later(metrics.batch_images.labels("tiny", "1").observe_all)
    for images in (1, 3, 700):
        part.add(images)
    samples = scraped(metrics)
    assert samples["imagemint_batch_images_count", "1", "tiny"] == 3
    assert samples["imagemint_batch_images_sum", "1", "tiny"] == 704
    assert samples["imagemint_batch_images_bucket", "1", "4.0", "tiny"] == 2


def test_counts_are_added_up(worker, scraped):
    """Counters and every part of a histogram."""
    for number, calls in ((0, 3), (1, 4)):
        metrics = worker(number)
        metrics.requests.labels("s", "m", "", "OK").inc(calls)
        for _ in range(calls):
            metrics.batch_images.labels("tiny", "1").observe(calls)
    samples = scraped()
    assert samples["imagemint_requests_total", "", "OK", "m", "s"] == 7
    assert samples["imagemint_batch_images_sum", "1", "tiny"] == 25
    assert samples["imagemint_batch_images_count", "1", "tiny"] == 7
    assert samples["imagemint_batch_images_bucket", "1", "2.0", "tiny"] == 0
    assert samples["imagemint_batch_images_bucket", "1", "4.0", "tiny"] == 7


def test_dead_worker_leaves_its_counts(worker, scraped, directory):
    """Its successor of the same number counts on; what it had in hand is no longer there."""
    metrics = worker(0)
    metrics.requests.labels("s", "m", "", "OK").inc(3)
    metrics.inflight.labels("s").inc()
    worker(1).inflight.labels("s").inc()
    assert scraped()["imagemint_inflight_requests", "s"] == 2
    forget_gauges(directory, 0)
    assert scraped()["imagemint_inflight_requests", "s"] == 1
    worker(0).requests.labels("s", "m", "", "OK").inc(2)
    assert scraped()["imagemint_requests_total", "", "OK", "m", "s"] == 5


def test_gauges_are_summed_or_the_largest(worker, scraped):
    """Queues add up; a version that all serve is one version."""
    for number, load_s in ((0, 1.5), (1, 2.5)):
        metrics = worker(number)
        metrics.queue_limit_images.labels("tiny", "1").set(100)
        metrics.model_failed_versions.labels("tiny").set(1)
        metrics.model_load_duration.labels("tiny", "1").set(load_s)
        metrics.model_info.labels("tiny", "1", "ab", "fp32", "cpu", "fp32").set(1)
    samples = scraped()
    assert samples["imagemint_queue_limit_images", "1", "tiny"] == 200
    assert samples["imagemint_model_failed_versions", "tiny"] == 1
    assert samples["imagemint_model_load_duration_seconds", "1", "tiny"] == 2.5
    assert samples["imagemint_model_info", "1", "ab", "cpu", "fp32", "fp32", "tiny"] == 1


def test_queues_are_read_when_scraped(worker, scraped):
    """The workers write down how long they are when they are asked to."""
    lengths, workers = [3, 4], []
    for number in (0, 1):
        workers.append(worker(number))
        workers[-1].watch(
            workers[-1].queue_images, ("tiny", "1"), lambda number=number: lengths[number]
        )
    lengths[1] = 40
    assert scraped()["imagemint_queue_images", "1", "tiny"] == 7
    assert scraped(*workers)["imagemint_queue_images", "1", "tiny"] == 43


def test_forgotten_gauge_is_gone(worker, scraped):
    """Of an unloaded version nothing is told, whatever its worker can remove from its file."""
    metrics = worker(0)
    metrics.watch(metrics.queue_images, ("tiny", "1"), lambda: 3)
    metrics.watch(metrics.queue_images, ("tiny", "2"), lambda: 4)
    for version in ("1", "2"):
        metrics.model_info.labels("tiny", version, "ab", "fp32", "cpu", "fp32").set(1)
        metrics.images.labels("tiny", version, "").inc(5)
    told = (metrics.queue_images, metrics.model_info, metrics.images)
    metrics.forget(told, model="tiny", version="1")
    samples = scraped(metrics)
    assert ("imagemint_queue_images", "1", "tiny") not in samples
    assert ("imagemint_model_info", "1", "ab", "cpu", "fp32", "fp32", "tiny") not in samples
    assert samples["imagemint_images_total", "", "1", "tiny"] == 5
    assert samples["imagemint_queue_images", "2", "tiny"] == 4
    assert samples["imagemint_model_info", "2", "ab", "cpu", "fp32", "fp32", "tiny"] == 1


def test_each_process_is_told(scraped):
    """The supervisor and every worker that lives, by name."""
    samples = scraped(pids={0: os.getpid(), 1: os.getppid()})
    for name in ("supervisor", "0", "1"):
        assert samples["process_resident_memory_bytes", name] > 0
    assert samples["imagemint_workers",] == 2
    assert samples["imagemint_worker_restarts_total", "1"] == 0


def test_last_orphan_removes_the_directory(worker, directory):
    """Workers whose supervisor died clean up after themselves, and not after others."""
    for number in (0, 1):
        worker(number).requests.labels("s", "m", "", "OK").inc()
    remove_files(directory, 0)
    assert {path.name for path in directory.iterdir()} == {"counter_1.db"}
    remove_files(directory, 1)
    assert not directory.exists()
