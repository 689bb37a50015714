"""Settings of ``imagemint serve``. The command builds and validates them once."""

import ipaddress
import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from imagemint.server.repository_addresses import check_address, is_address

_ADDRESS = re.compile(r"(.+):(\d{1,5})")
_COLLECTOR = re.compile(r"https?://[^/@\s]+:\d{1,5}")
# As browsers spell it: in lower case, and without a path.
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^A-Z/?#@\s]+")
_LARGEST_PORT = 65_535
_LARGEST_BATCH = 65_536
_MOST_SIZES = 64
# The limit of int32 fields in messages and gRPC channel arguments.
_INT32_MAX = 2**31 - 1
_MOST_BYTES = 2**40
# gRPC takes these times in milliseconds, as an int32.
_SHORTEST_S = 0.001
_LONGEST_S = 10**6
# On a CPU core, batches of 32 have the same throughput as batches of 64, and with 64 callers the
# 99th percentile latency is a tenth lower; see docs/notes/serving-performance.md.
_CPU_BATCH = 32
_GPU_BATCH = 64
_LEAVING_S = 20.0  # for closing models and exporting spans after the last call
_POLICY = re.compile(r"all|latest:[1-9]\d{0,8}|[1-9]\d{0,17}(,[1-9]\d{0,17})*")
_VARIANT = re.compile(r"[a-z0-9-]{1,32}")


def _make_spelling_check(form: re.Pattern[str], description: str) -> AfterValidator:
    """Returns a check that a text has a form, whose error says what is wanted, not the form."""

    def check(text: str) -> str:
        if form.fullmatch(text) is None:
            raise ValueError(f"must be {description}")
        return text

    return AfterValidator(check)


Address = Annotated[str, _make_spelling_check(_ADDRESS, "HOST:PORT")]
Policy = Annotated[
    str, _make_spelling_check(_POLICY, "all, latest:N, or numbers of versions such as 1,3")
]
Variant = Annotated[
    str, _make_spelling_check(_VARIANT, "auto, reference, or the name of a variant")
]
Origin = Annotated[
    str, _make_spelling_check(_ORIGIN, "* or an origin such as https://example.org, without a path")
]
Collector = Annotated[
    str, _make_spelling_check(_COLLECTOR, "http://HOST:PORT or https://HOST:PORT")
]


def _to_text(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


class ServeSettings(BaseModel):
    """Serves a model repository over gRPC."""

    model_config = ConfigDict(use_attribute_docstrings=True, extra="forbid", allow_inf_nan=False)

    repository: Annotated[str, BeforeValidator(_to_text)] | None = None
    """Model repository, laid out as <model>/<version>/model.onnx: a directory, or an address in
    object storage such as s3://bucket/models, which needs the extra `store`. Default: the models
    shipped with imagemint."""
    repository_cache: Path | None = None
    """Directory on a local disk for copies of a repository in object storage. Default: a directory
    in the user's cache."""
    require_signature: Path | None = None
    """PEM file with public Ed25519 keys, as `imagemint sign key` writes them. Bundles that none of
    them signed are refused. The file is read again for each bundle. Default: no signature is
    required."""
    grpc_address: Address = "127.0.0.1:8001"
    """HOST:PORT of the gRPC services. Port 0 selects a free port."""
    metrics_address: Address = "127.0.0.1:8002"
    """HOST:PORT of the Prometheus endpoint /metrics. Port 0 selects a free port."""
    http_address: Address | None = None
    """HOST:PORT of the HTTP interface and its page, usually port 8000. Port 0 selects a free port.
    Default: no HTTP."""
    http_page: bool = True
    """Serve the page at / of the HTTP interface."""
    http_metrics: bool = False
    """Serve /metrics at the HTTP interface too, without an API key. Not with several processes."""
    http_allow_origins: list[Origin] = Field(default=[], max_length=_MOST_SIZES)
    """Origins whose pages may call the HTTP interface from a browser (CORS), such as
    https://example.org; * means all. Default: only the server's own page."""
    http_receive_timeout_s: float = Field(default=10.0, ge=_SHORTEST_S, le=_LONGEST_S)
    """Maximum time for an HTTP request to arrive. Later ones are refused."""

    processes: int = Field(default=1, ge=1, le=256)
    """Number of worker processes that share the port. With 1, the main process serves by itself.
    CPU cores and max_queue_images are divided among the workers; each worker loads every model."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models run. auto uses the GPU if there is one, and the CPU otherwise; cuda requires a
    GPU."""
    variant: Literal["auto", "reference"] = "reference"
    """Which of a bundle's graphs serves. reference takes model.onnx. auto takes the variant made
    for the device, such as int8 on a CPU, if the bundle has one; its pixels and serial numbers are
    different."""
    variants: dict[str, Variant] = {}
    """Graphs of single models, in place of variant: auto, reference, or the name of one; a bundle
    that lacks it is refused. On the command line mnist=int8."""
    instances: int | None = Field(default=None, ge=1, le=256)
    """Number of batches computed in parallel. Default: one per CPU core of the affinity mask, or of
    the container's CPU limit if that is lower; 2 on a GPU. With several processes, this applies to
    each worker; by default, a worker uses its share of the CPU cores."""
    spread_alone: bool = True
    """Run a batch on up to 4 CPU cores if no other batch is running and the result is the same byte
    for byte. A single caller waits less; each model takes twice the memory."""
    max_batch_images: int | None = Field(default=None, ge=1, le=_LARGEST_BATCH)
    """Maximum number of images in one batch. Default: the largest of preferred_batch_images and
    batch_buckets; if neither is set, 32 on a CPU and 64 on a GPU."""
    batch_delay_ms: float = Field(default=0.0, ge=0, le=1_000)
    """Maximum time that a batch with free places waits for more images. With 0, a batch starts at
    once."""
    preferred_batch_images: list[int] = Field(default=[], max_length=_MOST_SIZES)
    """Preferred batch sizes. While enough images wait, batches have one of these sizes, and the
    wait of batch_delay_ms ends at the smallest. Empty means any size."""
    batch_buckets: list[int] | None = Field(default=None, min_length=1, max_length=_MOST_SIZES)
    """Batch sizes on a GPU; smaller batches are padded to the next size. Default: 1, 2, 4, ...
    max_batch_images."""
    cuda_graphs: bool = True
    """Capture each batch size as a CUDA graph on a GPU. This is faster and takes more GPU memory.
    """

    max_images_per_request: int = Field(default=1_024, ge=1, le=_INT32_MAX)
    """Maximum number of images in one Generate response or one chunk of StreamGenerate, and of
    sources and tiles in one request of Translate."""
    max_response_bytes: int = Field(default=3 * 2**20, ge=1, le=_INT32_MAX)
    """Maximum raw bytes of images in one response. For large images it lowers
    max_images_per_request, so that clients with gRPC's default receive limit of 4 MB work without
    options."""
    max_source_pixels: int = Field(default=2**24, ge=1, le=_INT32_MAX)
    """Maximum number of pixels of one source of Translate, and of all pictures, all fitted sources
    or all results of one request together. Frames and masks are pictures, too. While a thread
    decodes a source, it takes up to 20 bytes per pixel; see max_bytes_in_flight."""
    max_queue_images: int = Field(default=8_192, ge=1, le=_INT32_MAX)
    """Maximum number of images that wait for one model; further calls are refused. A stream chunk
    counts as at most half of it."""
    max_image_memory_bytes: int = Field(default=512 * 2**20, ge=1, le=_MOST_BYTES)
    """Maximum working memory per image, estimated from the shapes in the graph. Bundles above it
    are refused. ONNX Runtime takes several times as much for a batch."""

    load_timeout_s: float = Field(default=120.0, gt=0, le=86_400)
    """Maximum load time of a bundle that the server cannot estimate as cheap. Such a bundle is
    first loaded in a separate process; after this time it is refused and retried later."""
    start_timeout_s: float = Field(default=30.0, ge=0, le=86_400)
    """Time after which the server becomes ready although some models are still loading, as soon as
    another model serves. With several processes, workers start to listen then."""
    unload_when_empty: bool = False
    """Unload models when the repository, or the directory of a model, contains no version. By
    default, the server assumes a lost mount and continues to serve what is loaded."""

    model_control: Literal["none", "poll", "watch", "explicit"] = "poll"
    """When models are loaded and unloaded. none: at startup only. poll: when a scan of the
    repository, every poll_interval_s, finds changes. watch: as poll, and at once on file system
    events. explicit: by RepositoryModelLoad and RepositoryModelUnload."""
    poll_interval_s: float = Field(default=5.0, ge=_SHORTEST_S, le=86_400)
    """Time between two scans of the repository, in the modes poll and watch."""
    version_policy: Policy = "all"
    """Versions to serve: all; latest:N for the newest N that load; or a list of numbers such as
    1,3."""
    version_policies: dict[str, Policy] = {}
    """Version policies of single models; each replaces version_policy. On the command line:
    mnist=latest:2, or a JSON object as in the environment."""
    default_versions: dict[str, Annotated[int, Field(ge=1, lt=10**18)]] = {}
    """Default version by model, for requests that name no version. It is served whatever the policy
    says. Other models default to their newest ready version."""
    load_models: list[str] = []
    """Models to load at startup if model_control is explicit or none; * means all. Default: none if
    it is explicit, all if it is none."""

    drain_delay_s: float = Field(default=0.0, ge=0, le=_LONGEST_S)
    """After SIGTERM, time during which the server still accepts calls while its health is
    NOT_SERVING, so that load balancers notice."""
    drain_grace_s: float = Field(default=30.0, ge=0, le=_LONGEST_S)
    """Time for running calls to finish: of a version that is unloaded, after which its streams end
    between two chunks, and of the server after drain_delay_s."""
    reflection: bool = True
    """Enable gRPC server reflection."""

    tls_certificate: Path | None = None
    """PEM file with the server's certificate, followed by its intermediate certificates. The file
    is read again when it changes. Default: no encryption."""
    tls_key: Path | None = None
    """PEM file with the private key of tls_certificate."""
    tls_client_ca: Path | None = None
    """PEM file with certificate authorities. If it is set, every client must present a certificate
    issued by one of them."""
    api_keys: Path | None = None
    """TOML file with API keys, as `imagemint key` writes them. The file is read again when it
    changes. Default: no API key is required."""
    max_concurrent_calls: int = Field(default=1_024, ge=1, le=2**20)
    """Maximum number of concurrent calls, not counting health checks. Each process counts its own.
    """
    max_calls_per_caller: int | None = Field(default=None, ge=1, le=2**20)
    """Maximum number of concurrent calls per API key or, without API keys, per client address.
    Default: three quarters of max_concurrent_calls. The max_concurrent_calls of an API key
    overrides it."""
    max_bytes_in_flight: int = Field(default=256 * 2**20, ge=2**20, le=2**40)
    """Memory for responses that are computed but not yet received by their callers. It is divided
    among the processes. One caller can use at most half of it. Sources of Translate that are
    decoded at the same time have as much again; one that needs more is decoded alone."""
    stall_timeout_s: float | None = Field(default=60.0, ge=_SHORTEST_S, le=_LONGEST_S)
    """If a client does not read a response for this long, the server closes its connection. Our
    clients reconnect and resume."""
    max_connections: int | None = Field(default=None, ge=1, le=2**20)
    """Maximum number of connections; further connections are closed at once. Default: 4,096, or
    fewer if the limit of open files is lower. Above three quarters of it, the server closes idle
    connections."""
    max_request_bytes: int = Field(default=4 * 2**20, ge=1_024, le=_INT32_MAX)
    """Maximum size of a request. Larger requests are refused before they are read."""
    connection_age_s: float | None = Field(default=3_600.0, ge=_SHORTEST_S, le=_LONGEST_S)
    """Age at which the server asks a client to reconnect, plus or minus 10 %. Running calls finish
    first. Behind a load balancer, the new connection may reach another server."""

    log_format: Literal["console", "json"] = "json"
    """Format of the log on stderr: JSON lines, or text for a console."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Minimum level to log. Calls are logged at info."""
    access_log: float = Field(default=0.01, ge=0, le=1)
    """Share of successful calls that are logged, selected by request id. Failed calls are always
    logged."""
    trace_endpoint: Collector | None = None
    """OTLP gRPC collector, as http://HOST:PORT or https://HOST:PORT. Needs the extra `trace`.
    Default: no tracing."""
    trace_sample_ratio: float = Field(default=0.01, ge=0, le=1)
    """Share of calls that are traced if the caller has not decided."""

    @property
    def calls_per_caller(self) -> int:
        """Returns the maximum number of concurrent calls of one caller."""
        return self.max_calls_per_caller or -(-3 * self.max_concurrent_calls // 4)

    def compute_batch_images(self, *, on_cpu: bool) -> int:
        """Returns the maximum number of images in one batch, on a CPU or on a GPU."""
        if self.max_batch_images is not None:
            return self.max_batch_images
        sizes = [*self.preferred_batch_images, *(self.batch_buckets or ())]
        return max(sizes, default=_CPU_BATCH if on_cpu else _GPU_BATCH)

    def compute_stop_limit_s(self) -> float:
        """Returns the time after the stop signal in which a server that does not hang has ended."""
        return self.drain_delay_s + self.drain_grace_s + _LEAVING_S

    @field_validator("repository")
    @classmethod
    def _check_repository(cls, repository: str | None) -> str | None:
        if repository is not None and is_address(repository):
            check_address(repository)
        return repository

    @field_validator("grpc_address", "metrics_address", "http_address", "trace_endpoint")
    @classmethod
    def _check_port(cls, address: str | None) -> str | None:
        if address is not None and split_address(address)[1] > _LARGEST_PORT:
            raise ValueError(f"port must be 0 to {_LARGEST_PORT}")
        return address

    @field_validator("*")
    @classmethod
    def _check_nul(cls, value: object) -> object:
        """Refuses NUL, which no path, address or name can contain."""
        if isinstance(value, str | Path) and "\0" in str(value):
            raise ValueError("contains a NUL character")
        return value

    @model_validator(mode="after")
    def _check_batch_sizes(self) -> Self:
        most = self.max_batch_images or _LARGEST_BATCH
        for name in ("preferred_batch_images", "batch_buckets"):
            wrong = [each for each in getattr(self, name) or () if not 1 <= each <= most]
            if wrong:
                raise ValueError(f"{name}: {wrong[0]} must be 1 to max_batch_images ({most})")
        return self

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("set tls_certificate and tls_key together")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        return self

    @model_validator(mode="after")
    def _check_http_metrics(self) -> Self:
        if self.http_metrics and self.processes > 1:
            raise ValueError(
                "http_metrics needs processes = 1: a worker knows only its own metrics"
            )
        return self

    @model_validator(mode="after")
    def _check_load_models(self) -> Self:
        if self.load_models and self.model_control not in ("explicit", "none"):
            raise ValueError(
                "load_models needs model_control explicit or none; other modes load all models"
            )
        return self

    @model_validator(mode="after")
    def _check_queue_size(self) -> Self:
        if self.max_queue_images < self.max_images_per_request:
            raise ValueError(
                f"max_queue_images ({self.max_queue_images}) is below max_images_per_request"
                f" ({self.max_images_per_request}): the largest request could never be accepted"
            )
        return self


def find_absent_models(settings: ServeSettings, known: Collection[str]) -> dict[str, list[str]]:
    """Returns the models that settings name and that are not known, by setting.

    Such a name is no error, because the model may come later, but it is often misspelt.
    """
    models_by_setting: dict[str, Collection[str]] = {
        "default_versions": settings.default_versions,
        "version_policies": settings.version_policies,
        "variants": settings.variants,
    }
    absent = {
        key: sorted(set(models).difference(known)) for key, models in models_by_setting.items()
    }
    return {key: names for key, names in absent.items() if names}


def find_open_addresses(settings: ServeSettings) -> list[str]:
    """Returns the addresses beyond loopback that need no API key and no client certificate."""
    if settings.api_keys is not None or settings.tls_client_ca is not None:
        return []
    addresses = filter(None, (settings.grpc_address, settings.http_address))
    return [address for address in addresses if not is_loopback(split_address(address)[0])]


def split_address(address: str) -> tuple[str, int]:
    """Returns the host, without the brackets of an IPv6 address, and the port."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def join_address(host: str, port: int) -> str:
    """Returns HOST:PORT, with an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Returns whether a host name, or an address without brackets, is a loopback address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
