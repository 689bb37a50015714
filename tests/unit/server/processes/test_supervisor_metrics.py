"""Tests of the metrics that the supervisor adds to those of its workers."""

import os
import urllib.request

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from imagemint.server.processes.supervisor_metrics import WorkersMetrics
from imagemint.server.processes.worker_metrics import collect_figures
from imagemint.server.telemetry.metrics import Metrics
from imagemint.server.telemetry.metrics_endpoint import expose

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def read_samples(metrics):
    """Returns the samples that Prometheus sees, by name and label values."""
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(generate_latest(metrics.registry).decode())
        for sample in family.samples
    }


def test_each_process_is_exported():
    """The metrics have the supervisor and every live worker by name."""
    pids = {0: os.getpid(), 1: os.getppid()}
    samples = read_samples(WorkersMetrics(2, lambda: None, lambda: pids))
    for name in ("supervisor", "0", "1"):
        assert samples["process_resident_memory_bytes", name] > 0
    assert samples["imagemint_workers",] == 2
    assert samples["imagemint_worker_restarts_total", "1"] == 0


def test_scrape_asks_the_workers():
    """The workers are asked at each scrape, so no value is older."""
    worker = Metrics(shared=True)
    metrics = WorkersMetrics(
        1, lambda: metrics.totals.update(0, collect_figures(worker.registry)), dict
    )
    for length in (3, 40):
        worker.queue_images.labels("tiny", "1").set(length)
        assert read_samples(metrics)["imagemint_queue_images", "1", "tiny"] == length


def test_filtered_scrape_asks_the_workers():
    """A filtered scrape also asks the workers and returns only the requested metrics."""
    worker = Metrics(shared=True)
    metrics = WorkersMetrics(
        1, lambda: metrics.totals.update(0, collect_figures(worker.registry)), dict
    )
    address, stop = expose("127.0.0.1:0", metrics.registry)
    try:
        worker.inflight.labels("s").set(3)
        with DIRECT.open(f"http://{address}/metrics?name[]=imagemint_inflight_requests") as answer:
            lines = answer.read().decode().splitlines()
    finally:
        stop()
    assert lines[-1] == 'imagemint_inflight_requests{service="s"} 3.0'
    assert len(lines) == 3


def test_server_without_a_worker_does_not_serve():
    """A series that is missing would keep the alert on servers that do not serve silent."""
    metrics = WorkersMetrics(2, lambda: None, dict)
    assert read_samples(metrics)["imagemint_serving",] == 0
    worker = Metrics(shared=True)
    worker.serving.set(1)
    for number in (0, 1):
        metrics.totals.update(number, collect_figures(worker.registry))
    assert read_samples(metrics)["imagemint_serving",] == 1
    for number in (0, 1):
        metrics.totals.retire(number)
    assert read_samples(metrics)["imagemint_serving",] == 0


def test_dropped_log_lines_of_all_processes_are_counted(monkeypatch):
    """The lines of the supervisor and of the workers count once each."""
    monkeypatch.setattr(
        "imagemint.server.telemetry.metrics.count_dropped_lines",
        lambda: {"queue_full": 2, "rate_limited": 0},
    )
    metrics = WorkersMetrics(2, lambda: None, dict)
    for number in (0, 1):
        metrics.totals.update(number, collect_figures(Metrics(shared=True).registry))
    for _ in range(2):
        samples = read_samples(metrics)
        assert samples["imagemint_log_lines_dropped_total", "queue_full"] == 6
