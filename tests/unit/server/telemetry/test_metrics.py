"""Tests of the metrics: names, labels and units, on which dashboards depend."""

import threading

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from imagemint.server.telemetry.metrics import IMAGES, SECONDS, Later, Metrics, observe_each

# The names of samples in a scrape, on which dashboards and alerts depend.
EXPECTED = {
    "imagemint_requests_total": ("counter", {"service", "method", "model", "code"}),
    "imagemint_request_duration_seconds": ("histogram", {"service", "method", "model"}),
    "imagemint_images_total": ("counter", {"model", "version", "class"}),
    "imagemint_queue_images": ("gauge", {"model", "version"}),
    "imagemint_queue_limit_images": ("gauge", {"model", "version"}),
    "imagemint_queue_wait_seconds": ("histogram", {"model", "version", "priority"}),
    "imagemint_batch_images": ("histogram", {"model", "version"}),
    "imagemint_inference_duration_seconds": ("histogram", {"model", "version"}),
    "imagemint_encode_duration_seconds": ("histogram", {"format"}),
    "imagemint_rejected_total": ("counter", {"model", "reason"}),
    "imagemint_ended_calls_total": ("counter", {"reason"}),
    "imagemint_bytes_in_flight": ("gauge", set()),
    "imagemint_client_images_total": ("counter", {"client", "model"}),
    "imagemint_reloads_total": ("counter", {"what", "outcome"}),
    "imagemint_model_info": (
        "gauge",
        {"model", "version", "bundle_sha256", "precision", "execution_provider", "variant"},
    ),
    "imagemint_model_load_duration_seconds": ("gauge", {"model", "version"}),
    "imagemint_model_load_failures_total": ("counter", {"model"}),
    "imagemint_model_failed_versions": ("gauge", {"model"}),
    "imagemint_connections": ("gauge", {"listener"}),
    "imagemint_connections_limit": ("gauge", {"listener"}),
    "imagemint_model_serving": ("gauge", {"model"}),
    "imagemint_repository_lost": ("gauge", set()),
    "imagemint_repository_syncs_total": ("counter", {"what", "outcome"}),
    "imagemint_repository_incomplete_versions": ("gauge", set()),
    "imagemint_inflight_requests": ("gauge", {"service"}),
    "imagemint_serving": ("gauge", set()),
    "imagemint_file_refused": ("gauge", {"what"}),
    "imagemint_certificate_expiry_timestamp_seconds": ("gauge", {"what"}),
}


@pytest.fixture
def collectors():
    """Every collector of this project, by the name of its sample or base."""
    metrics = Metrics()
    found = {}
    for collector in vars(metrics).values():
        for family in getattr(collector, "describe", list)():
            suffix = "_total" if family.type == "counter" else ""
            found[family.name + suffix] = (family.type, set(collector._labelnames))
    return found


def test_names_and_labels_are_those_of_the_design(collectors):
    """The metrics are exactly those of the design, with their labels."""
    assert collectors == EXPECTED


def test_buckets_fit_the_measured_range():
    """The buckets go from 0.5 ms to 10 s, and over the powers of two up to a large request."""
    assert (SECONDS[0], SECONDS[-1]) == (0.0005, 10.0)
    assert list(SECONDS) == sorted(SECONDS)
    assert (IMAGES[0], IMAGES[-1]) == (1, 1024)


def test_build_and_process_are_exported():
    """A scrape has the build information and the resources of the process."""
    text = generate_latest(Metrics().registry).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    (build,) = families["imagemint_build_info"].samples
    assert build.labels["version"]
    assert build.labels["onnxruntime"].startswith("onnxruntime")
    assert "process_resident_memory_bytes" in families


def test_deferred_values_are_observed():
    """Deferred values count as if they were observed immediately."""
    metrics = Metrics()
    observe_each(metrics.request_duration.labels("s", "m", "tiny"))([0.0015, 0.002, 3.0])
    labels = {"service": "s", "method": "m", "model": "tiny"}
    value = metrics.registry.get_sample_value
    name = "imagemint_request_duration_seconds"
    assert value(f"{name}_count", labels) == 3
    assert value(f"{name}_sum", labels) == pytest.approx(3.0035)
    assert value(f"{name}_bucket", labels | {"le": "0.002"}) == 2


def test_backlog_is_processed_before_a_scrape():
    """Each value counts once and in order, when the backlog is long or the registry is scraped."""
    metrics = Metrics()
    requests = metrics.requests.labels("s", "m", "tiny", "OK")
    seen = []

    def count(values):
        seen.append(values)
        requests.inc(len(values))

    part = Later(count, most=3)
    for value in range(4):
        part.add(value)
    assert seen == [[0, 1, 2]]
    part = metrics.backlog.make_buffer(count)
    part.add("late")
    labels = {"service": "s", "method": "m", "model": "tiny", "code": "OK"}
    assert metrics.registry.get_sample_value("imagemint_requests_total", labels) == 4
    assert seen == [[0, 1, 2], ["late"]]


def test_backlog_is_thread_safe():
    """Values that a thread adds while another one processes the backlog are counted."""
    counted = []
    part = Later(counted.extend, most=7)
    threads = [
        threading.Thread(target=lambda n=n: [part.add((n, each)) for each in range(500)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        part.clear()
    part.clear()
    assert sorted(counted) == [(n, each) for n in range(4) for each in range(500)]


def test_backlog_can_grow_during_a_scrape():
    """Another thread may add a new kind of outcome during a scrape."""
    backlog, kept = Metrics().backlog, []
    adding = threading.Thread(
        target=lambda: kept.extend(backlog.make_buffer(kept.append) for _ in range(20_000))
    )
    adding.start()
    while adding.is_alive():
        backlog.clear()
    assert len(kept) == 20_000


def test_queue_gauge_is_read_at_a_scrape():
    """The gauge reads the length of the queue at each scrape."""
    metrics = Metrics()
    length = [3]
    metrics.watch(metrics.queue_images, ("tiny", "2"), lambda: length[0])
    labels = {"model": "tiny", "version": "2"}
    assert metrics.registry.get_sample_value("imagemint_queue_images", labels) == 3
    length[0] = 7
    assert metrics.registry.get_sample_value("imagemint_queue_images", labels) == 7


def test_forgotten_version_is_removed():
    """In a single process all samples of the version are removed, and no others."""
    metrics = Metrics()
    for version in ("1", "2"):
        metrics.images.labels("tiny", version, "").inc()
        metrics.queue_limit_images.labels("tiny", version).set(9)
    metrics.forget((metrics.images, metrics.queue_limit_images), model="tiny", version="1")
    text = generate_latest(metrics.registry).decode()
    assert 'version="2"' in text
    assert 'version="1"' not in text
