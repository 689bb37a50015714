"""`imagemint bench`."""

# ruff: noqa: T201 - a command prints

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from imagemint.client import outputs
from imagemint.client.bench import exposition, report
from imagemint.client.bench.clients import Clients
from imagemint.client.bench.exposition import ServerSide
from imagemint.client.bench.knee import ACHIEVED, Bound, knee, next_rate
from imagemint.client.bench.load import Closed, Load, Open, Plan
from imagemint.client.bench.mint import Mint
from imagemint.client.bench.mix import parsed
from imagemint.client.bench.points import Point, joined
from imagemint.client.bench.report import Report
from imagemint.client.channel import host_and_port, targets_of
from imagemint.client.commands import Connection
from imagemint.client.requests import UINT64_MAX

_DEFAULT_CONCURRENCY = (1, 4, 16)
_DEFAULT_DURATION_S = 10.0


class ClientIsTheLimit(Exception):  # noqa: N818 - the name says it
    """The load could not be made, or not timed: what was measured is not the server."""


class NoAnswers(Exception):  # noqa: N818 - the name says it
    """Not one call was answered."""


class NotTheSame(Exception):  # noqa: N818 - the name says it
    """The server answered the same request in two ways."""


def _mix(value: str) -> str:
    parsed(value)
    return value


def _address(value: str) -> str:
    host, port = host_and_port(value)
    if not host or not port:
        raise ValueError(f"{value!r} is not HOST:PORT")
    return value


class Bench(Connection):
    """Load-test a server: throughput, latencies, and how much load it takes."""

    model: str
    """Model to ask."""
    version: str = ""
    """Version of the model; the server's default without it."""
    mix: Annotated[str, AfterValidator(_mix)] = "count=1"
    """What to ask for, such as `count=1:80, count=64 format=png:20`: kinds of requests with their
    weights; keys are count, class, format, quality, truncation, stream, chunk and priority. Or a
    TOML file with a table [[request]] for each kind."""
    concurrency: list[Annotated[int, Field(ge=1)]] = Field([], max_length=100)
    """Closed loop: numbers of callers, a point for each. 1,4,16 if neither --rate nor --sweep is
    given."""
    rate: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field([], max_length=100)
    """Open loop: calls a second that arrive at random, a point for each."""
    sweep: bool = False
    """Look for the knee: more and more load, in an open loop, until it no longer holds."""
    sweep_concurrency: int = Field(64, ge=1)
    """Callers of the closed loop that a sweep takes the capacity from."""
    p99_ms: float = Field(120.0, gt=0)
    """A load holds while the 99th percentile of the latency is at most this, in milliseconds."""
    achieved: float = Field(ACHIEVED, gt=0, le=1)
    """A load holds while at least this share of the offered images arrives."""
    duration_s: float | None = Field(None, gt=0)
    """Seconds that each point is measured; 10 without --images."""
    images: int | None = Field(None, ge=1)
    """Measure each point for so many images instead."""
    warmup_s: float = Field(2.0, ge=0)
    """Seconds of load before each point that are not counted."""
    clients: int = Field(1, ge=1)
    """Client processes that share the load."""
    connections: int = Field(1, ge=1)
    """Connections of each client process."""
    seed: int = Field(0, ge=0, le=UINT64_MAX)
    """Seed of arrivals, of the order of the kinds, and of the images."""
    verify: bool = False
    """Ask for some images of each point a second time, and fail unless they are the same."""
    metrics: Annotated[str, AfterValidator(_address)] | None = None
    """HOST:PORT of the server's /metrics, read around each point for the sizes of its batches."""
    json_: Path | None = Field(None, alias="json")
    """Write everything to this file; docs/performance.md describes it."""
    plot: Path | None = None
    """Write a picture to this file (.png, .svg, .pdf)."""

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        if self.duration_s is not None and self.images is not None:
            raise ValueError("--duration-s and --images exclude each other")
        return self

    def run(self) -> int:
        """Measures every point, prints it, and writes what was asked for."""
        found = Report(self._settings(), bound=self._bound() if self.rate or self.sweep else None)
        try:
            with Clients(self._target(), self.clients) as clients:
                print(report.head(), flush=True)
                for load in self._loads(found.points):
                    point = self._measured(clients, load)
                    if point.client_limit:
                        found.aborted = point
                        break
                    found.points.append(point)
                    print("\n".join(report.rows(point)), flush=True)
        finally:  # whatever ended it, what was measured is kept
            if found.points or found.aborted:
                self._write(found)
        self._judge(found)
        return 0

    def _settings(self) -> dict[str, Any]:
        settings = self.model_dump(
            mode="json", by_alias=True, exclude_none=True, exclude={"api_key", "json_", "plot"}
        )
        return settings | {"duration_s": self._seconds()}

    def _seconds(self) -> float | None:
        return self.duration_s or (None if self.images else _DEFAULT_DURATION_S)

    def _target(self) -> Mint:
        return Mint(
            targets_of(self.server),
            self.model,
            self.version,
            tls=self.encryption(),
            timeout_s=self.timeout_s,
            metadata=tuple(self.metadata()),
        )

    def _bound(self) -> Bound:
        return Bound(self.p99_ms, self.achieved)

    def _loads(self, points: list[Point]) -> Iterator[Load]:
        """What to measure next, `points` being what was measured so far."""
        given = self.concurrency or ([] if self.rate or self.sweep else _DEFAULT_CONCURRENCY)
        yield from map(Closed, given)
        yield from map(Open, sorted(self.rate))
        if not self.sweep:
            return
        most = Closed(self.sweep_concurrency)
        if not any(point.load == most for point in points):
            yield most
        capacity = next(point.calls_per_s for point in points if point.load == most)
        following = partial(next_rate, points, self._bound(), capacity)
        while (rate := following()) is not None:
            yield Open(rate)

    def _measured(self, clients: Clients, load: Load) -> Point:
        mix = parsed(self.mix)
        plan = Plan(
            load,
            mix,
            warmup_s=self.warmup_s,
            duration_s=self._seconds(),
            images=self.images,
            connections=self.connections,
            seed=self.seed,
            verify=self.verify,
        )
        before = exposition.read(self.metrics, self.model) if self.metrics else None
        shares = clients.measure(plan)
        point = joined(load, mix, shares, self._server_side(before))
        if not point.sum.images:
            why = point.sum.example or f"nothing arrived within {point.elapsed_s:g} s"
            raise NoAnswers(f"{load}: not one call was answered: {why}")
        return point

    def _server_side(self, before: ServerSide | None) -> ServerSide | None:
        """What the server counted since; None, and a line on stderr, if it cannot be read."""
        if self.metrics is None or before is None:
            return None
        try:
            return exposition.between(before, exposition.read(self.metrics, self.model))
        except OSError as error:
            print(f"{self.metrics} does not answer any more: {error}", file=sys.stderr)
            return None

    def _write(self, found: Report) -> None:
        if found.bound:
            found.knee = knee(found.points, found.bound)
            print(_sentence(found))
        if self.json_:
            with outputs.replacing(self.json_) as file:
                file.write(json.dumps(found.document(), indent=2).encode() + b"\n")
        if self.plot and found.points:
            from imagemint.client.bench import plot  # noqa: PLC0415 - matplotlib is slow to import

            plot.draw(self.plot, found.points, found.knee)

    def _judge(self, found: Report) -> None:
        """Says what is to be made of the points.

        Raises:
            ClientIsTheLimit: the run ended early.
            NotTheSame: an answer was not the same twice.
        """
        if found.aborted:
            raise ClientIsTheLimit(
                f"{found.aborted.load}: the client, not the server, is the limit: "
                f"{found.aborted.client_limit}; nothing of this point is reported. Try more "
                "--clients, or run them on other cores than the server"
            )
        compared = sum(point.verified.compared for point in found.points)
        if different := sum(point.verified.different for point in found.points):
            raise NotTheSame(f"{different} of {compared} answers were not the same twice")
        if self.verify:
            print(f"{compared} answers were the same twice")


def _sentence(found: Report) -> str:
    bound = found.bound or Bound(0)
    holds = f"p99 at most {bound.p99_ms:g} ms, {bound.achieved:.0%} of the offered images"
    if found.knee is None:
        return f"knee: none, the lowest offered load does not hold ({holds})"
    at = found.knee
    return f"knee: {at.offered_images_per_s:.1f} images/s offered, {at.load} ({holds})"
