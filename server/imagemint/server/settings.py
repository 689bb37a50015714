"""Settings of ``imagemint serve``, built and validated once; passed down in slices."""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

_ADDRESS = r"^(.+):(\d{1,5})$"
_COLLECTOR = r"^https?://[^/@\s]+:\d{1,5}$"
_LARGEST_PORT = 65_535
_LARGEST_BATCH = 65_536
_MOST_SIZES = 64
# What fields of int32 and gRPC's arguments hold.
_INT32_MAX = 2**31 - 1
_MOST_BYTES = 2**40
# Times that gRPC counts in milliseconds, as an int32.
_SHORTEST_S = 0.001
_LONGEST_S = 10**6
# A core is as fast with 32 as with 64, and of 64 callers the slowest hundredth waits a tenth less;
# see docs/notes/serving-performance.md.
_CPU_BATCH = 32
_GPU_BATCH = 64
_POLICY = r"^(all|latest:[1-9]\d{0,8}|[1-9]\d{0,17}(,[1-9]\d{0,17})*)$"


class ServeSettings(BaseModel):
    """Serves a model repository over gRPC."""

    model_config = ConfigDict(use_attribute_docstrings=True, extra="forbid", allow_inf_nan=False)

    repository: Path | None = None
    """Model repository, <model>/<version>/model.onnx; absent, the models shipped with imagemint."""
    grpc_address: str = Field(default="127.0.0.1:8001", pattern=_ADDRESS)
    """HOST:PORT of the gRPC services; port 0 takes a free one."""
    metrics_address: str = Field(default="127.0.0.1:8002", pattern=_ADDRESS)
    """HOST:PORT of the Prometheus metrics at /metrics; port 0 takes a free one."""

    processes: int = Field(default=1, ge=1, le=256)
    """Worker processes that share the port; 1 serves in the process itself. Cores and
    max_queue_images are divided among them; each holds every model."""

    worker_timeout_s: float = Field(default=10.0, ge=3, le=3_600)
    """With several processes, time after which a worker whose event loop gives no sign of life is
    killed and replaced; after 3 s it no longer counts as ready. While it starts it has twelve times
    as long."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models run; auto takes the GPU when there is one, cuda insists on it."""
    variant: Literal["auto", "reference"] = "auto"
    """Which of a bundle's graphs serves; auto takes the one made for the device, such as int8 on a
    CPU, where there is one; reference takes model.onnx."""
    variants: dict[str, str] = {}
    """Graphs of single models, in place of variant: auto, reference, or the name of one; a bundle
    that lacks it is refused. On the command line mnist=fp32."""
    instances: int | None = Field(default=None, ge=1, le=256)
    """Batches that run side by side; absent, one for each core of the affinity mask, 2 on a GPU.
    With several processes in each of them, on a CPU as many as its share of the cores."""
    spread_alone: bool = True
    """Let a batch that is alone on a CPU use all cores, up to 4, if that changes no byte of it: one
    caller is answered sooner, and each model takes its memory twice."""
    instance_niceness: int = Field(default=5, ge=0, le=19)
    """How much less of a core the threads that compute ask for than the one that answers, as of
    `nice`; on Linux. They are never in a hurry: while they compute, the next batch comes together.
    0 for their full part where other programs compute on the same cores."""
    max_batch_images: int | None = Field(default=None, ge=1, le=_LARGEST_BATCH)
    """Images in one batch at most; absent, 32 on a CPU and 64 on a GPU, or the largest of
    preferred_batch_images and batch_buckets."""
    batch_delay_ms: float = Field(default=0.0, ge=0, le=1_000)
    """Time that a batch with room may wait for more images; 0 runs what is there."""
    preferred_batch_images: list[int] = Field(default=[], max_length=_MOST_SIZES)
    """Sizes that batches are cut to while enough waits; the smallest of them ends the wait of
    batch_delay_ms. Empty, any size will do."""
    batch_buckets: list[int] | None = Field(default=None, min_length=1, max_length=_MOST_SIZES)
    """Sizes of batches on a GPU, which are padded to the next; absent, 1, 2, 4, ...
    max_batch_images."""
    cuda_graphs: bool = True
    """Capture the runs of each bucket as CUDA graphs on a GPU: faster, for more of its memory."""

    max_images_per_request: int = Field(default=1_024, ge=1, le=_INT32_MAX)
    """Images in one Generate, or one chunk of StreamGenerate, at most."""
    max_response_bytes: int = Field(default=3 * 2**20, ge=1, le=_INT32_MAX)
    """Raw bytes in one answer at most; lowers max_images_per_request for large images, so that
    clients with gRPC's default receive limit of 4 MB need no option."""
    max_queue_images: int = Field(default=8_192, ge=1, le=_INT32_MAX)
    """Images that may wait for one model before calls are refused. A chunk of a stream counts as
    half of them at most."""
    max_bundle_bytes: int = Field(default=2 * 2**30, ge=1, le=_MOST_BYTES)
    """Larger model files are refused."""
    max_image_memory_bytes: int = Field(default=512 * 2**20, ge=1, le=_MOST_BYTES)
    """Working memory that one image may take, by an estimate from the shapes in its graph; bundles
    whose images take more are refused. The runtime takes some times as much for a batch."""

    load_timeout_s: float = Field(default=120.0, gt=0, le=86_400)
    """Time that a bundle may take to load where a look at its graph cannot tell that it is cheap.
    It is tried in a process of its own, and refused until a later try when the time is over."""
    start_timeout_s: float = Field(default=10.0, ge=0, le=86_400)
    """Time after which the server is ready although some models are still loading, if any other
    serves; with several processes each of them listens then."""
    unload_when_empty: bool = False
    """Unload what serves when the repository, or the folder of its model, is found without a
    version. By default that is taken for a mount that was lost, and what serves goes on."""

    model_control: Literal["none", "poll", "watch", "explicit"] = "poll"
    """When models are loaded and unloaded. none: at the start; poll: whenever a look at the
    repository, every poll_interval_s, finds it changed; watch: as poll, and at once where the file
    system tells of changes; explicit: by RepositoryModelLoad and RepositoryModelUnload."""
    poll_interval_s: float = Field(default=5.0, ge=_SHORTEST_S, le=86_400)
    """Time between two looks at the repository, for poll and watch."""
    version_policy: str = Field(default="all", pattern=_POLICY)
    """Versions that serve: all, latest:N for the newest N that can be loaded, or numbers, 1,3."""
    version_policies: dict[str, Annotated[str, Field(pattern=_POLICY)]] = {}
    """Policies of single models, in place of version_policy; on the command line mnist=latest:2, or
    a JSON object, as in the environment."""
    default_versions: dict[str, Annotated[int, Field(ge=1, lt=10**18)]] = {}
    """Versions that answer when a request names none, by model; they serve whatever the policy
    says. Other models answer with their newest that is ready."""
    load_models: list[str] = []
    """Models that are loaded at the start when model_control is explicit; * stands for all."""
    allow_model_control: bool = True
    """Answer RepositoryModelLoad and RepositoryModelUnload when model_control is explicit."""
    unload_grace_s: float = Field(default=30.0, ge=0, le=_LONGEST_S)
    """Time that calls inside a version have to finish when it is unloaded; then streams break off
    between two chunks."""

    drain_delay_s: float = Field(default=0.0, ge=0, le=_LONGEST_S)
    """After SIGTERM, time to go on accepting while health says NOT_SERVING, for balancers."""
    drain_grace_s: float = Field(default=30.0, ge=0, le=_LONGEST_S)
    """Time that accepted calls then have to finish."""
    reflection: bool = True
    """Offer gRPC server reflection."""

    tls_certificate: Path | None = None
    """PEM file of the server's certificate and those above it; absent, nothing is encrypted. Read
    again when it changes."""
    tls_key: Path | None = None
    """PEM file of the certificate's key."""
    tls_client_ca: Path | None = None
    """PEM file of authorities; every client must then show a certificate of theirs."""
    api_keys: Path | None = None
    """TOML file of API keys, as `imagemint key` makes them; absent, nobody is asked for one. Read
    again when it changes."""
    max_concurrent_calls: int = Field(default=1_024, ge=1, le=2**20)
    """Largest number of calls at the same time, without health checks; each process counts its own.
    """
    max_calls_per_caller: int | None = Field(default=None, ge=1, le=2**20)
    """Largest number of calls at the same time of one API key or, without keys, of one address.
    Default: three quarters of max_concurrent_calls. max_concurrent_calls of a key replaces it."""
    max_bytes_in_flight: int = Field(default=256 * 2**20, ge=2**20, le=2**40)
    """Memory for answers that are made and not yet taken by their callers, over all calls; divided
    among the processes. One caller may hold half of it."""
    stall_timeout_s: float | None = Field(default=60.0, ge=_SHORTEST_S, le=_LONGEST_S)
    """Time that a client may leave an answer untaken before its connection is closed; our clients
    come back and resume."""
    max_connections: int | None = Field(default=None, ge=1, le=2**20)
    """Largest number of connections; more are closed at once. Default: 4,096, or fewer where the
    limit of open files is lower. From three quarters on, idle connections are closed."""
    max_streams_per_connection: int = Field(default=256, ge=1, le=_INT32_MAX)
    """Calls that one connection may have open; its client holds the others back."""
    max_request_bytes: int = Field(default=4 * 2**20, ge=1_024, le=_INT32_MAX)
    """Larger requests are refused before they are read."""
    max_metadata_bytes: int = Field(default=16 * 2**10, ge=1_024, le=2**24)
    """Calls with more metadata are refused."""
    connection_age_s: float | None = Field(default=3_600.0, ge=_SHORTEST_S, le=_LONGEST_S)
    """Age at which a connection is asked to leave, by a tenth more or less; its calls finish, and
    its client comes back, to another server perhaps."""
    connection_age_grace_s: float | None = Field(default=None, ge=_SHORTEST_S, le=_LONGEST_S)
    """Time that the calls of such a connection have; absent, as long as they take. Our clients
    resume streams that are cut."""
    connection_idle_s: float = Field(default=300.0, ge=_SHORTEST_S, le=_LONGEST_S)
    """Time after which a connection without calls is closed."""
    min_ping_interval_s: float = Field(default=10.0, ge=0, le=_LONGEST_S)
    """Keepalive pings that come faster, while the server sends nothing, count against their
    connection."""
    max_ping_strikes: int = Field(default=2, ge=0, le=1_000)
    """Pings that come too fast before their connection is closed; 0 allows any number."""

    log_format: Literal["console", "json"] = "json"
    """JSON lines, or text for people; on stderr."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is logged; calls are logged at info."""
    access_log: float = Field(default=0.01, ge=0, le=1)
    """Share of calls that are logged, chosen by request id; those that fail always are."""
    trace_endpoint: str | None = Field(default=None, pattern=_COLLECTOR)
    """http:// or https:// and HOST:PORT of an OTLP gRPC collector; absent, nothing is traced. Needs
    the extra `trace`."""
    trace_sample_ratio: float = Field(default=0.01, ge=0, le=1)
    """Share of calls that are traced, of those whose callers have not decided it."""

    @property
    def calls_per_caller(self) -> int:
        """Calls of one caller at the same time."""
        return self.max_calls_per_caller or -(-3 * self.max_concurrent_calls // 4)

    def batch_images(self, *, on_cpu: bool) -> int:
        """Returns the images in one batch at most, on a CPU or on a GPU."""
        if self.max_batch_images is not None:
            return self.max_batch_images
        sizes = [*self.preferred_batch_images, *(self.batch_buckets or ())]
        return max(sizes, default=_CPU_BATCH if on_cpu else _GPU_BATCH)

    @field_validator("grpc_address", "metrics_address", "trace_endpoint")
    @classmethod
    def _port_exists(cls, address: str | None) -> str | None:
        if address is not None and split_address(address)[1] > _LARGEST_PORT:
            raise ValueError(f"port is not 0 to {_LARGEST_PORT}")
        return address

    @field_validator("*")
    @classmethod
    def _has_no_nul(cls, value: object) -> object:
        """Refuses the one character that no path, address or name may hold, and no file tells."""
        if isinstance(value, str | Path) and "\0" in str(value):
            raise ValueError("holds a NUL character")
        return value

    @model_validator(mode="after")
    def _batches_hold_the_sizes(self) -> Self:
        most = self.max_batch_images or _LARGEST_BATCH
        for name in ("preferred_batch_images", "batch_buckets"):
            wrong = [each for each in getattr(self, name) or () if not 1 <= each <= most]
            if wrong:
                raise ValueError(f"{name}: {wrong[0]} is not 1 to max_batch_images ({most})")
        return self

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key come together")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        return self

    @model_validator(mode="after")
    def _start_list_is_used(self) -> Self:
        if self.load_models and self.model_control != "explicit":
            raise ValueError("load_models is for model_control explicit; otherwise all are loaded")
        return self

    @model_validator(mode="after")
    def _queue_holds_a_request(self) -> Self:
        if self.max_queue_images < self.max_images_per_request:
            raise ValueError(
                f"max_queue_images ({self.max_queue_images}) is below max_images_per_request"
                f" ({self.max_images_per_request}): the largest request could never be accepted"
            )
        return self


def split_address(address: str) -> tuple[str, int]:
    """Returns host, without the brackets of IPv6, and port."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def join_address(host: str, port: int) -> str:
    """Returns HOST:PORT, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Returns whether a host, a name or an address without brackets, is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def shipped_models() -> Path:
    """Returns the repository that comes with imagemint.

    Raises:
        FileNotFoundError: this installation holds none.
    """
    package = Path(__file__).parents[1]
    for candidate in (package / "models", package.parents[1] / "models"):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError("no models were shipped with this installation; name a --repository")
