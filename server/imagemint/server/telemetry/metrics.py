"""The Prometheus metrics of the server; docs/reference/metrics.md lists them.

Label values come only from known services, models, versions and classes, never from callers' input.
"""

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any, Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    Metric,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from imagemint.server.telemetry.logs import count_dropped_lines

# 0.5 ms to 10 s, about three per decade: from one image on a GPU to a full queue on a CPU.
SECONDS = (
    *(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

_ValueT = TypeVar("_ValueT")
_BACKLOG = 256


LARGEST_OVER_WORKERS = (
    "imagemint_serving",
    "imagemint_file_refused",
    "imagemint_certificate_expiry_timestamp_seconds",
    "imagemint_model_info",
    "imagemint_model_serving",
    "imagemint_model_load_duration_seconds",
    "imagemint_model_failed_versions",
    "imagemint_repository_lost",
    "imagemint_repository_incomplete_versions",
)
"""Gauges for which a server with several workers exports the largest value, not the sum."""


def observe_each(histogram: Histogram) -> Callable[[Iterable[float]], None]:
    """Returns a function that observes many values of a histogram; see `Later`."""

    def observe(values: Iterable[float]) -> None:
        for value in values:
            histogram.observe(value)

    return observe


class Later(Generic[_ValueT]):
    """Buffers values, and counts many of them at a time. It is thread-safe.

    Counting in every call is slow: it touches much code, and the CPU caches are full of the data of
    the instances. A killed worker loses the values that are not counted yet.

    Args:
        count: counts values; it is never called concurrently.
        most: number of buffered values at which `add` counts them.
    """

    def __init__(self, count: Callable[[list[_ValueT]], None], most: int = _BACKLOG) -> None:
        self._count = count
        self._most = most
        self._values: deque[_ValueT] = deque()
        self._clearing = threading.Lock()

    def add(self, value: _ValueT) -> None:
        """Buffers a value; it is counted before the next scrape."""
        self._values.append(value)
        if len(self._values) >= self._most:
            self.clear()

    def clear(self) -> None:
        """Counts the buffered values."""
        with self._clearing:
            values = [self._values.popleft() for _ in range(len(self._values))]
            if values:
                self._count(values)


class Backlog(Collector):
    """All buffers of values; it is registered first, so that a scrape counts them before others."""

    def __init__(self) -> None:
        self._parts: weakref.WeakSet[Later[Any]] = weakref.WeakSet()
        self._listing = threading.Lock()  # parts are added while others iterate

    def make_buffer(self, count: Callable[[list[_ValueT]], None]) -> Later[_ValueT]:
        """Returns a new buffer; it is removed when its owner drops it."""
        part = Later(count)
        with self._listing:
            self._parts.add(part)
        return part

    def clear(self) -> None:
        """Counts the values of all buffers."""
        with self._listing:
            parts = tuple(self._parts)
        for part in parts:
            part.clear()

    def describe(self) -> Iterable[Metric]:
        """Returns nothing, because the backlog has no metrics."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Counts the values of all buffers, and returns nothing."""
        self.clear()
        return ()


class Metrics:
    """All metrics of one server process, in a registry of its own.

    Attributes:
        backlog: buffers for values that are counted in every call.

    Args:
        registry: the registry. Default: a new one.
        shared: whether this process is one of several workers. Their supervisor then exports the
            metrics of processes, platform and build.
    """

    def __init__(self, registry: CollectorRegistry | None = None, *, shared: bool = False) -> None:
        self.registry = registry or CollectorRegistry()
        self.backlog = Backlog()
        self.registry.register(self.backlog)
        self.serving = add_serving(self.registry)
        self.requests = self._make_counter(
            "requests",
            "Finished calls, by gRPC status code. Those of HTTP are calls of the same RPCs.",
            "service",
            "method",
            "model",
            "code",
        )
        self.request_duration = self._make_histogram(
            "request_duration_seconds",
            "Time from the arrival of a call to its last response.",
            ("service", "method", "model"),
            SECONDS,
        )
        self.inflight = self._make_gauge("inflight_requests", "Running calls.", "service")
        self.images = self._make_counter(
            "images",
            "Generated images. The class is a label text, empty without one.",
            "model",
            "version",
            "class",
        )
        self.queue_images = self._make_gauge("queue_images", "Queued images.", "model", "version")
        self.queue_limit_images = self._make_gauge(
            "queue_limit_images", "Limit of the queue, in images.", "model", "version"
        )
        self.queue_wait = self._make_histogram(
            "queue_wait_seconds",
            "Time from the acceptance of a call until its first image entered a batch.",
            ("model", "version", "priority"),
            SECONDS,
        )
        self.batch_images = self._make_histogram(
            "batch_images", "Images computed in one pass of a model.", ("model", "version"), IMAGES
        )
        self.inference_duration = self._make_histogram(
            "inference_duration_seconds",
            "Duration of one pass of a model.",
            ("model", "version"),
            SECONDS,
        )
        self.encode_duration = self._make_histogram(
            "encode_duration_seconds",
            "Time to encode the images of one response.",
            ("format",),
            SECONDS,
        )
        self.rejected = self._make_counter(
            "rejected",
            "Calls refused before any work: queue_full, draining, unauthenticated, not_allowed, "
            "rate_limited, too_many_calls (of the server) or too_many_calls_of_caller.",
            "model",
            "reason",
        )
        self.ended = self._make_counter(
            "ended_calls",
            "Running calls that the server ended: stalled (the client did not read) or withdrawn "
            "(the API key was withdrawn or narrowed).",
            "reason",
        )
        self.bytes_in_flight = self._make_gauge(
            "bytes_in_flight", "Memory of responses that are computed but not yet read by clients."
        )
        self.connections = self._make_gauge(
            "connections", "Open connections of callers (listener: grpc or http).", "listener"
        )
        self.connections_limit = self._make_gauge(
            "connections_limit",
            "Number of connections above which the listener closes new ones at once.",
            "listener",
        )
        self.client_images = self._make_counter(
            "client_images", "Accepted images, by name of the API key.", "client", "model"
        )
        self.reloads = self._make_counter(
            "reloads",
            "Reloads of changed files (what: certificate, http_certificate or api_keys): ok, or "
            "failed, and the old files stay in use.",
            "what",
            "outcome",
        )
        self.file_refused = self._make_gauge(
            "file_refused",
            "1 while the newest content of a file is refused, and the old one stays in use (what: "
            "as in imagemint_reloads_total). Certificates are checked at each handshake.",
            "what",
        )
        self.certificate_expiry = self._make_gauge(
            "certificate_expiry_timestamp_seconds",
            "Unix time at which the certificate in use expires (what: certificate or "
            "http_certificate).",
            "what",
        )
        self.repository_lost = self._make_gauge(
            "repository_lost",
            "1 while the model repository cannot be read, has not answered for a minute, or is "
            "empty although models serve.",
        )
        self.repository_syncs = self._make_counter(
            "repository_syncs",
            "Listings of an object store, and copies of bundles from it (what): ok or failed.",
            "what",
            "outcome",
        )
        self.repository_incomplete_versions = self._make_gauge(
            "repository_incomplete_versions",
            "Versions in the object store that are left out because files are missing.",
        )
        self.model_info = self._make_gauge(
            "model_info",
            "1 for each version that serves.",
            "model",
            "version",
            "bundle_sha256",
            "precision",
            "execution_provider",
            "variant",
        )
        self.model_serving = self._make_gauge(
            "model_serving",
            "1 while requests without a version are answered, 0 while the default version of the "
            "model does not serve. Models that are not to be loaded have no value.",
            "model",
        )
        self.model_load_duration = self._make_gauge(
            "model_load_duration_seconds",
            "Time to read, check and warm up a version.",
            "model",
            "version",
        )
        self.model_load_failures = self._make_counter(
            "model_load_failures", "Refusals of versions at loading.", "model"
        )
        self.model_failed_versions = self._make_gauge(
            "model_failed_versions",
            "Versions whose files are refused now. A version that served before still serves its "
            "earlier files.",
            "model",
        )
        self.registry.register(DroppedLines())
        if not shared:
            add_build_info(self.registry)
            ProcessCollector(registry=self.registry)
            PlatformCollector(registry=self.registry)

    def _make_counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"imagemint_{name}", text, labels, registry=self.registry)

    def _make_gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"imagemint_{name}", text, labels, registry=self.registry)

    def _make_histogram(
        self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]
    ) -> Histogram:
        return Histogram(f"imagemint_{name}", text, labels, buckets=buckets, registry=self.registry)

    def watch(self, gauge: Gauge, labels: tuple[str, ...], value: Callable[[], float]) -> None:
        """Sets the function that returns the value of a gauge at every scrape."""
        child = gauge.labels(*labels) if labels else gauge
        child.set_function(value)

    def forget(self, collectors: Iterable[Counter | Gauge | Histogram], **labels: str) -> None:
        """Removes series, such as those of an unloaded version.

        Args:
            collectors: the metrics to remove series from.
            labels: labels and values; every series with these values is removed.
        """
        self.backlog.clear()  # or buffered values would create the series again
        for collector in collectors:
            collector.remove_by_labels(labels)

    def count_failed_versions(self, model: str, versions: int | None) -> None:
        """Sets the number of failed versions of a model; None removes the series of the model."""
        if versions is None:
            self.forget([self.model_failed_versions], model=model)
        else:
            self.model_failed_versions.labels(model).set(versions)

    def set_model_serving(self, model: str, serving: bool | None) -> None:
        """Sets whether a model has a default version; None removes the series of the model."""
        if serving is None:
            self.forget([self.model_serving], model=model)
        else:
            self.model_serving.labels(model).set(serving)

    def forget_version(self, model: str, version: int) -> None:
        """Removes the series of a version that no longer serves."""
        of_versions = (
            *(self.images, self.queue_images, self.queue_limit_images, self.queue_wait),
            *(self.batch_images, self.inference_duration),
            *(self.model_info, self.model_load_duration),
        )
        self.forget(of_versions, model=model, version=str(version))

    def forget_bundle(self, model: str, version: int, bundle_sha256: str) -> None:
        """Removes the info of a bundle that was replaced under the same version number."""
        self.forget(
            [self.model_info], model=model, version=str(version), bundle_sha256=bundle_sha256
        )


class DroppedLines(Collector):
    """Counts the log lines that this process dropped."""

    def describe(self) -> Iterable[Metric]:
        """Returns the metric without samples."""
        return (self._make_family(),)

    def collect(self) -> Iterable[Metric]:
        """Returns the metric, by reason."""
        family = self._make_family()
        for reason, lines in count_dropped_lines().items():
            family.add_metric((reason,), lines)
        return (family,)

    def _make_family(self) -> CounterMetricFamily:
        return CounterMetricFamily(
            "imagemint_log_lines_dropped",
            "Dropped log lines: queue_full, or rate_limited lines of gRPC.",
            labels=("reason",),
        )


def add_serving(registry: CollectorRegistry) -> Gauge:
    """Adds the gauge that tells whether a server serves, as 0, to a registry."""
    return Gauge(
        "imagemint_serving",
        "1 while the server accepts calls and a model serves, or none is wanted: its health is "
        "SERVING. Otherwise 0.",
        registry=registry,
    )


def add_build_info(registry: CollectorRegistry) -> None:
    """Adds the versions of imagemint and ONNX Runtime to a registry."""
    Info("imagemint_build", "Versions of imagemint and ONNX Runtime.", registry=registry).info(
        {"version": version("imagemint"), "onnxruntime": _find_onnxruntime_version()}
    )


def _find_onnxruntime_version() -> str:
    from importlib.metadata import PackageNotFoundError  # noqa: PLC0415 - used here alone

    for distribution in ("onnxruntime-gpu", "onnxruntime"):
        try:
            return f"{distribution} {version(distribution)}"
        except PackageNotFoundError:
            continue
    return "none"
