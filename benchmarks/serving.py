"""Load-tests the server against what ONNX Runtime alone can do on the same cores.

Machines drift, so nothing absolute is claimed: the raw limit is measured anew beside every row, in
turn with it, and the ratio of the two is the figure. Server, client and raw limit share the cores.
The load is that of `imagemint bench`; docs/performance.md tells how it is measured.

    make bench
    make bench BENCH_ARGS="--seconds 5 --repeats 5 --json benchmarks/results/serving.json"
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, cast

from raw_limit import RawLimit

from imagemint.client.bench.clients import Clients
from imagemint.client.bench.load import Closed, Load, Plan
from imagemint.client.bench.mint import Mint
from imagemint.client.bench.mix import Mix, parsed
from imagemint.client.bench.points import Point, joined
from imagemint.client.bench.report import machine
from imagemint.client.channel import targets_of

ROOT = Path(__file__).resolve().parents[1]
READY_S = 60
WARMUP_S = 0.5


@dataclass(frozen=True)
class Sample:
    """One timed stretch of one workload.

    Attributes:
        images_per_s: throughput.
        raw_images_per_s: of ONNX Runtime alone, measured just before and after.
        raw_arrangement: which sessions and threads that was, the better of before and after.
        raw_single_ms: median time of one image in the fastest bare session, likewise.
        p50_ms: median latency of a call, or of a chunk of a stream.
        p99_ms: its 99th percentile.
        first_chunk_ms: median time to the first chunk of a stream; None without streams.
        shed: calls that the server refused because of load.
        failed: calls that failed otherwise.
        client_ms_per_call: CPU time of the load generator by the number of calls.
    """

    images_per_s: float
    raw_images_per_s: float
    raw_arrangement: str
    raw_single_ms: float
    p50_ms: float
    p99_ms: float
    first_chunk_ms: float | None
    shed: int
    failed: int
    client_ms_per_call: float

    @property
    def ratio(self) -> float:
        """Share of the raw limit."""
        return self.images_per_s / self.raw_images_per_s


@dataclass
class Results:
    """Samples by workload, and those that were left out since the client was their limit."""

    samples: dict[str, list[Sample]]
    left_out: list[dict[str, str]] = field(default_factory=list)


WORKLOADS: dict[str, tuple[Load, Mix]] = {
    "1 per call, 1 caller": (Closed(1), parsed("count=1")),
    "1 per call, 16 callers": (Closed(16), parsed("count=1")),
    "1 per call, 64 callers": (Closed(64), parsed("count=1")),
    "64 per call, 4 callers": (Closed(4), parsed("count=64")),
    "64 PNG per call, 4 callers": (Closed(4), parsed("count=64 format=png")),
    # Ends with the window: the server must not compute ahead while the raw limit is measured.
    "one stream": (Closed(1), parsed(f"count={2**40} stream")),
}


def measured(clients: Clients, plan: Plan, raw: RawLimit, seconds: float) -> Sample | str:
    """Returns one sample, the raw limit measured on both sides of it.

    Or, in words, why the client was the limit.
    """
    before = raw.measure(seconds / 2)
    point = joined(plan.load, plan.mix, clients.measure(plan))
    after = raw.measure(seconds / 2)
    if point.client_limit:
        return point.client_limit
    return Sample(
        images_per_s=point.images_per_s,
        raw_images_per_s=(before.images_per_s + after.images_per_s) / 2,
        raw_arrangement=max(before, after, key=lambda each: each.images_per_s).arrangement,
        raw_single_ms=min(before.single_ms, after.single_ms),
        p50_ms=_quantile(point, 0.5),
        p99_ms=_quantile(point, 0.99),
        first_chunk_ms=point.sum.first_chunk.quantile_ms(0.5),
        shed=point.sum.shed.total(),
        failed=point.sum.failed.total(),
        client_ms_per_call=point.client_ms_per_call or 0.0,
    )


def _quantile(point: Point, q: float) -> float:
    found = point.sum.latency.quantile_ms(q)
    if found is None:
        raise RuntimeError(f"{point.load}: no answers: {point.sum.example or 'too slow'}")
    return found


@contextmanager
def server(repository: Path, processes: int) -> Iterator[str]:
    """Runs `imagemint serve` on a free port and yields its address."""
    process = subprocess.Popen(  # noqa: S603 - started once, with fixed arguments
        [
            *(Path(sys.executable).with_name("imagemint"), "serve", "--repository", repository),
            *("--grpc-address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0"),
            *("--processes", str(processes)),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        log = cast("IO[str]", process.stderr)  # a pipe, as asked for above
        ready = next(line for line in log if json.loads(line)["event"] == "ready")
        # Read to the end: a server whose log is not read stands still once the pipe is full.
        reading = threading.Thread(target=log.read)
        reading.start()
        yield json.loads(ready)["grpc_address"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=READY_S)
    reading.join()


def bench(options: argparse.Namespace) -> Results:
    """Returns the samples of every workload, the workloads taken in turn."""
    versions = sorted((options.repository / options.model).iterdir(), key=lambda p: p.name)
    newest = max((p for p in versions if p.name.isdecimal()), key=lambda p: int(p.name))
    raw = RawLimit(newest)
    results = Results({name: [] for name in WORKLOADS})
    # A connection stays with one worker: several for each, so that none is idle by chance.
    connections = 1 if options.processes == 1 else 4 * options.processes
    with (
        server(options.repository, options.processes) as address,
        Clients(Mint(targets_of(address), options.model), options.clients) as clients,
    ):
        for repeat in range(options.repeats):
            for name, (load, mix) in WORKLOADS.items():
                plan = Plan(
                    load,
                    mix,
                    warmup_s=WARMUP_S,
                    duration_s=options.seconds,
                    connections=connections,
                    seed=repeat,
                )
                sample = measured(clients, plan, raw, options.seconds)
                if isinstance(sample, str):
                    results.left_out.append({"workload": name, "why": sample})
                else:
                    results.samples[name].append(sample)
    return results


def table(results: Results) -> str:
    """Returns the medians over the repeats, and the spread of the ratio, as a table."""
    lines = [
        "| workload | images/s | of the raw limit (least to most) | p50 ms | p99 ms |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, found in results.samples.items():
        if not found:
            continue
        ratios = sorted(sample.ratio for sample in found)
        rate, p50, p99 = (
            statistics.median(getattr(sample, field) for sample in found)
            for field in ("images_per_s", "p50_ms", "p99_ms")
        )
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        lines.append(f"| {name} | {rate:,.0f} | {spread} | {p50:.1f} | {p99:.1f} |")
    lines += [
        f"left out: {each['workload']}: the client was the limit: {each['why']}"
        for each in results.left_out
    ]
    return "\n".join(lines)


def main() -> None:
    """Prints the table; with --json also writes every sample."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repository", type=Path, default=ROOT / "models")
    parser.add_argument("--model", default="mnist")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each timed stretch")
    parser.add_argument("--repeats", type=int, default=3, help="rounds over all workloads")
    parser.add_argument("--processes", type=int, default=1, help="workers of the server")
    parser.add_argument("--clients", type=int, default=1, help="processes of the load generator")
    parser.add_argument("--json", type=Path, help="write every sample here")
    options = parser.parse_args()
    results = bench(options)
    print(table(results))
    print("machine:", ", ".join(f"{key} {value}" for key, value in machine().items()))
    if options.json:
        content = {
            "machine": machine(),
            "seconds": options.seconds,
            "processes": options.processes,
            "clients": options.clients,
            "samples": {n: [asdict(s) for s in found] for n, found in results.samples.items()},
            "left_out": results.left_out,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
