"""The command `imagemint bench`."""

# ruff: noqa: T201 - a command prints

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from imagemint.bench import report, server_metrics
from imagemint.bench.client_processes import ClientProcesses
from imagemint.bench.imagemint_target import ImagemintTarget
from imagemint.bench.knee import ACHIEVED, Bound, choose_next_rate, find_knee
from imagemint.bench.load import Closed, Load, Open, Plan
from imagemint.bench.mix import parse_mix
from imagemint.bench.point import Point, join_results
from imagemint.bench.report import Report
from imagemint.bench.server_metrics import ServerMetrics
from imagemint.client import outputs
from imagemint.client.arguments import UINT64_MAX
from imagemint.client.channel import parse_targets, split_address
from imagemint.client.commands import LONGEST_S, Connection

_DEFAULT_CONCURRENCY = (1, 4, 16)
_PICTURES = (".png", ".svg", ".pdf")
_DEFAULT_DURATION_S = 10.0
# Far more than one machine makes; beyond them a test runs out of memory or of ports.
_MOST_CALLERS = 65_536
_MOST_CALLS_PER_S = 10**6
_MOST_CONNECTIONS = 4_096


def _check_picture(path: Path) -> Path:
    if path.suffix.lower() not in _PICTURES:
        raise ValueError(f"{path.name} is none of NAME{', NAME'.join(_PICTURES)}")
    return path


class ClientIsTheLimit(Exception):  # noqa: N818 - the name says it
    """The client could not make or time the load, so the figures are not the server's."""


class NoAnswers(Exception):  # noqa: N818 - the name says it
    """The server answered no call."""


class NotTheSame(Exception):  # noqa: N818 - the name says it
    """The server gave two different answers to the same request."""


def _check_mix(value: str) -> str:
    parse_mix(value)
    return value


def _check_address(value: str) -> str:
    host, port = split_address(value)
    if not host or not port:
        raise ValueError(f"{value!r} is not HOST:PORT")
    return value


class Bench(Connection):
    """Load-tests a server: throughput, latencies, and the load that it sustains."""

    model: str
    """Model to request."""
    version: str = ""
    """Version of the model. Default: the server's."""
    mix: Annotated[str, AfterValidator(_check_mix)] = "count=1"
    """Requests, such as `count=1:80, count=64 format=png:20`: kinds of requests with their
    weights; keys are count, class, caption, format, quality, truncation, stream, chunk and
    priority. For a model that translates pictures: `translate source=FILE`, with fit=crop, pad or
    stretch. Or a TOML file with a table [[request]] for each kind."""
    concurrency: list[Annotated[int, Field(ge=1, le=_MOST_CALLERS)]] = Field([], max_length=100)
    """Closed loop: numbers of callers, one point each. Default: 1,4,16, or none with --rate or
    --sweep."""
    rate: list[Annotated[float, Field(gt=0, le=_MOST_CALLS_PER_S)]] = Field([], max_length=100)
    """Open loop: mean calls per second, which arrive at random, one point each."""
    sweep: bool = False
    """Search for the knee: raise the load of an open loop until it no longer holds."""
    sweep_concurrency: int = Field(64, ge=1, le=_MOST_CALLERS)
    """Callers of the closed loop that gives a sweep its capacity."""
    p99_ms: float = Field(120.0, gt=0, le=1e3 * LONGEST_S)
    """A load holds if the 99th percentile of the latency is at most this, in milliseconds."""
    achieved: float = Field(ACHIEVED, gt=0, le=1)
    """A load holds if at least this share of the offered images arrives."""
    duration_s: float | None = Field(None, gt=0, le=LONGEST_S)
    """Length of each point, in seconds. Default without --images: 10."""
    images: int | None = Field(None, ge=1, le=UINT64_MAX)
    """Length of each point, in images, instead of --duration-s."""
    warmup_s: float = Field(2.0, ge=0, le=LONGEST_S)
    """Seconds of load before each point, which are not counted."""
    clients: int = Field(1, ge=1, le=256)
    """Client processes that share the load."""
    connections: int = Field(1, ge=1, le=_MOST_CONNECTIONS)
    """Connections of each client process."""
    seed: int = Field(0, ge=0, le=UINT64_MAX)
    """Seed of arrivals, of the order of the kinds, and of the images."""
    verify: bool = False
    """Send some requests of each point again, and fail unless the answers are equal."""
    metrics: Annotated[str, AfterValidator(_check_address)] | None = None
    """HOST:PORT of the server's /metrics, read around each point for the sizes of its batches."""
    json_: Path | None = Field(None, alias="json")
    """Write everything to this file; docs/performance.md describes it."""
    plot: Annotated[Path, AfterValidator(_check_picture)] | None = None
    """Write a picture to this file (.png, .svg, .pdf)."""
    overwrite: bool = False
    """Replace files of --json and --plot that exist."""

    @model_validator(mode="after")
    def _check_end(self) -> Self:
        if self.duration_s is not None and self.images is not None:
            raise ValueError("--duration-s and --images exclude each other")
        return self

    def run(self) -> int:
        """Measures and prints every point, and writes the files that are asked for."""
        for path in (self.json_, self.plot):  # fail before the measurement, which takes minutes
            if path and not self.overwrite:
                outputs.check_free(path, outputs.Kind.FILE)
            if path:
                outputs.check_writable(path)
        found = Report(
            self._dump_settings(), bound=self._make_bound() if self.rate or self.sweep else None
        )
        try:
            with ClientProcesses(self._make_target(), self.clients) as clients:
                print(report.format_head(), flush=True)
                for load in self._loads(found.points):
                    point = self._measure(clients, load)
                    if point.client_limit:
                        found.aborted = point
                        break
                    found.points.append(point)
                    print("\n".join(report.format_rows(point)), flush=True)
        finally:  # keep the measurements, whatever ended the run
            if found.points or found.aborted:
                self._write(found)
        self._judge(found)
        return 0

    def _dump_settings(self) -> dict[str, Any]:
        settings = self.model_dump(
            mode="json",
            by_alias=True,
            exclude_none=True,
            exclude={"api_key", "json_", "plot", "overwrite"},
        )
        return settings | {"duration_s": self._choose_seconds()}

    def _choose_seconds(self) -> float | None:
        return self.duration_s or (None if self.images else _DEFAULT_DURATION_S)

    def _make_target(self) -> ImagemintTarget:
        return ImagemintTarget(
            parse_targets(self.server),
            self.model,
            self.version,
            tls=self.make_tls(),
            timeout_s=self.timeout_s,
            metadata=tuple(self.make_metadata()),
        )

    def _make_bound(self) -> Bound:
        return Bound(self.p99_ms, self.achieved)

    def _loads(self, points: list[Point]) -> Iterator[Load]:
        """Yields the next load to measure; `points` contains the points measured so far."""
        given = self.concurrency or ([] if self.rate or self.sweep else _DEFAULT_CONCURRENCY)
        yield from map(Closed, given)
        yield from map(Open, sorted(self.rate))
        if not self.sweep:
            return
        most = Closed(self.sweep_concurrency)
        if not any(point.load == most for point in points):
            yield most
        capacity = next(point.calls_per_s for point in points if point.load == most)
        following = partial(choose_next_rate, points, self._make_bound(), capacity)
        while (rate := following()) is not None:
            yield Open(rate)

    def _measure(self, clients: ClientProcesses, load: Load) -> Point:
        mix = parse_mix(self.mix)
        plan = Plan(
            load,
            mix,
            warmup_s=self.warmup_s,
            duration_s=self._choose_seconds(),
            images=self.images,
            connections=self.connections,
            seed=self.seed,
            verify=self.verify,
        )
        before = server_metrics.read_metrics(self.metrics, self.model) if self.metrics else None
        shares = clients.measure(plan)
        point = join_results(load, mix, shares, self._read_server_metrics(before))
        if not point.sum.images:
            why = point.sum.example or f"nothing arrived within {point.elapsed_s:g} s"
            raise NoAnswers(f"{load}: not one call was answered: {why}")
        return point

    def _read_server_metrics(self, before: ServerMetrics | None) -> ServerMetrics | None:
        """Returns the server's counts since; None, and a line on stderr, if it does not answer."""
        if self.metrics is None or before is None:
            return None
        try:
            return server_metrics.subtract(
                before, server_metrics.read_metrics(self.metrics, self.model)
            )
        except OSError as error:
            print(f"{self.metrics} does not answer any more: {error}", file=sys.stderr)
            return None

    def _write(self, found: Report) -> None:
        if found.bound:
            found.knee = find_knee(found.points, found.bound)
            print(_describe_knee(found))
        if self.json_:
            with outputs.write_atomically(self.json_) as file:
                file.write(json.dumps(found.to_document(), indent=2).encode() + b"\n")
        if self.plot and found.points:
            from imagemint.bench import plot  # noqa: PLC0415 - matplotlib is slow to import

            self.plot.parent.mkdir(parents=True, exist_ok=True)
            plot.draw(self.plot, found.points, found.knee)

    def _judge(self, found: Report) -> None:
        """Judges the points.

        Raises:
            ClientIsTheLimit: the run ended early.
            NotTheSame: two answers to the same request differ.
        """
        if found.aborted:
            raise ClientIsTheLimit(
                f"{found.aborted.load}: the client, not the server, is the limit: "
                f"{found.aborted.client_limit}; nothing of this point is reported. Try more "
                "--clients, or run them on other cores than the server"
            )
        compared = sum(point.verified.compared for point in found.points)
        if different := sum(point.verified.different for point in found.points):
            raise NotTheSame(
                f"{different} of {compared} answers differed when the request was sent again"
            )
        if self.verify:
            print(f"{compared} answers were equal when the request was sent again")


def _describe_knee(found: Report) -> str:
    bound = found.bound or Bound(0)
    holds = f"p99 at most {bound.p99_ms:g} ms, {bound.achieved:.0%} of the offered images"
    if found.knee is None:
        return f"knee: none, the lowest offered load does not hold ({holds})"
    at = found.knee
    return f"knee: {at.offered_images_per_s:.1f} images/s offered, {at.load} ({holds})"
