"""What the server counts, for Prometheus; names and units are those of design.md section 8.

Label values come only from known services, models, versions and classes, never from what a caller
typed.
"""

from collections.abc import Callable
from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)

# 0.5 ms to 10 s, about three a decade: what one image on a GPU and a full queue on a CPU take.
SECONDS = (
    *(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """Every collector of one server, in a registry of its own.

    Args:
        registry: where they are registered; a fresh one by default.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.requests = self._counter(
            "requests", "Calls answered, by outcome.", "service", "method", "model", "code"
        )
        self.request_duration = self._histogram(
            "request_duration_seconds",
            "From the arrival of a call to its last answer.",
            ("service", "method", "model"),
            SECONDS,
        )
        self.inflight = self._gauge("inflight_requests", "Calls being answered.", "service")
        self.images = self._counter(
            "images",
            "Images minted; class is a label text, empty without.",
            "model",
            "version",
            "class",
        )
        self.queue_images = self._gauge(
            "queue_images", "Images waiting for a batch.", "model", "version"
        )
        self.queue_limit_images = self._gauge(
            "queue_limit_images", "Images that may wait for a batch.", "model", "version"
        )
        self.queue_wait = self._histogram(
            "queue_wait_seconds",
            "From the acceptance of a call until its first image entered a batch.",
            ("model", "version", "priority"),
            SECONDS,
        )
        self.batch_images = self._histogram(
            "batch_images", "Images computed in one pass.", ("model", "version"), IMAGES
        )
        self.inference_duration = self._histogram(
            "inference_duration_seconds", "One pass of a model.", ("model", "version"), SECONDS
        )
        self.encode_duration = self._histogram(
            "encode_duration_seconds", "Encoding the pictures of one answer.", ("format",), SECONDS
        )
        self.rejected = self._counter(
            "rejected", "Calls refused before any work.", "model", "reason"
        )
        self.model_info = self._gauge(
            "model_info",
            "1 for each version that is served.",
            "model",
            "version",
            "bundle_sha256",
            "precision",
            "execution_provider",
        )
        self.model_load_duration = self._gauge(
            "model_load_duration_seconds",
            "Reading, checking and warming up a version.",
            "model",
            "version",
        )
        self.model_load_failures = self._counter(
            "model_load_failures", "Versions refused at loading.", "model"
        )
        self.model_failed_versions = self._gauge(
            "model_failed_versions", "Versions that do not serve because loading failed.", "model"
        )
        Info("imagemint_build", "What is running.", registry=self.registry).info(
            {"version": version("imagemint"), "onnxruntime": _onnxruntime_version()}
        )
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"imagemint_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"imagemint_{name}", text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]
    ) -> Histogram:
        return Histogram(f"imagemint_{name}", text, labels, buckets=buckets, registry=self.registry)

    def watch_queue(self, model: str, version: int, images: Callable[[], float]) -> None:
        """Reads the length of a queue whenever it is scraped."""
        self.queue_images.labels(model, str(version)).set_function(images)


def _onnxruntime_version() -> str:
    from importlib.metadata import PackageNotFoundError  # noqa: PLC0415 - used here alone

    for distribution in ("onnxruntime-gpu", "onnxruntime"):
        try:
            return f"{distribution} {version(distribution)}"
        except PackageNotFoundError:
            continue
    return "none"
