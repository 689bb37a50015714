"""Load-tests the server against what ONNX Runtime alone can do on the same cores.

Machines drift, so nothing absolute is claimed: the raw limit is measured anew beside every row, in
turn with it, and the ratio of the two is the figure. Server, client and raw limit share the cores.

    make bench
    make bench BENCH_ARGS="--seconds 5 --repeats 5 --json benchmarks/results/serving.json"
"""

import argparse
import asyncio
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Literal, cast

import numpy as np

from imagemint.client import AsyncClient
from imagemint.engine.bundle import read_bundle
from imagemint.engine.onnx_backend import OnnxBackend
from imagemint.engine.sampling import latents

ROOT = Path(__file__).resolve().parents[1]
RAW_BATCH = 64
READY_S = 60


@dataclass(frozen=True)
class Sample:
    """One timed stretch of one workload.

    Attributes:
        images_per_s: throughput.
        raw_images_per_s: of ONNX Runtime alone, measured just before and after.
        p50_ms: median latency of a call, or of a chunk of a stream.
        p99_ms: its 99th percentile.
    """

    images_per_s: float
    raw_images_per_s: float
    p50_ms: float
    p99_ms: float

    @property
    def ratio(self) -> float:
        """Share of the raw limit."""
        return self.images_per_s / self.raw_images_per_s


class RawLimit:
    """ONNX Runtime without a server: the best of one pass per core and one pass on all cores.

    Args:
        directory: the bundle.
    """

    def __init__(self, directory: Path) -> None:
        bundle = read_bundle(directory)
        self._cores = len(os.sched_getaffinity(0))
        self._z = latents(0, 0, RAW_BATCH, bundle.spec.z_dim)
        classes = max(bundle.spec.num_classes, 1)
        self._y = np.arange(RAW_BATCH) % classes if bundle.spec.conditional else None
        self._one_core = OnnxBackend(bundle, intra_op_threads=1)
        self._all_cores = OnnxBackend(bundle, intra_op_threads=self._cores)

    def measure(self, seconds: float) -> float:
        """Returns images per second of the better arrangement."""
        return max(
            self._timed(self._one_core, self._cores, seconds),
            self._timed(self._all_cores, 1, seconds),
        )

    def _timed(self, backend: OnnxBackend, threads: int, seconds: float) -> float:
        began = time.perf_counter()

        def work(_: int) -> int:
            done = 0
            while time.perf_counter() - began < seconds:
                done += len(backend.run(self._z, self._y))
            return done

        with ThreadPoolExecutor(threads) as pool:
            done = sum(pool.map(work, range(threads)))
        return done / (time.perf_counter() - began)


# --- workloads: each makes calls until told to stop, and reports (images, latency) of each -------

Report = Callable[[int, float], None]
Workload = Callable[[Sequence[AsyncClient], str, float, Report], Awaitable[None]]


def calls(count: int, concurrency: int, picture_format: Literal["png"] | None = None) -> Workload:
    """Returns a closed loop of `concurrency` callers who ask for `count` images at a time."""

    async def caller(
        number: int, client: AsyncClient, model: str, until: float, report: Report
    ) -> None:
        index = 0
        while (began := time.perf_counter()) < until:
            if picture_format is None:
                await client.generate(model, count, seed=number, first_index=index)
            else:
                await client.encoded(
                    model, count, seed=number, first_index=index, format=picture_format
                )
            report(count, time.perf_counter() - began)
            index += count

    async def run(clients: Sequence[AsyncClient], model: str, until: float, report: Report) -> None:
        await asyncio.gather(
            *(
                caller(number, clients[number % len(clients)], model, until, report)
                for number in range(concurrency)
            )
        )

    return run


async def one_stream(
    clients: Sequence[AsyncClient], model: str, until: float, report: Report
) -> None:
    """Reads one endless stream."""
    began = time.perf_counter()
    # Closed at the end: the server would go on computing ahead while the raw limit is measured.
    async with aclosing(clients[0].stream(model, 2**40, seed=0)) as chunks:
        async for batch in chunks:
            now = time.perf_counter()
            report(len(batch.index), now - began)
            began = now
            if now > until:
                break


WORKLOADS: dict[str, Workload] = {
    "1 per call, 1 caller": calls(1, 1),
    "1 per call, 16 callers": calls(1, 16),
    "1 per call, 64 callers": calls(1, 64),
    "64 per call, 4 callers": calls(64, 4),
    "64 PNG per call, 4 callers": calls(64, 4, "png"),
    "one stream": one_stream,
}


async def measured(
    clients: Sequence[AsyncClient], model: str, workload: Workload, raw: RawLimit, seconds: float
) -> Sample:
    """Returns one sample, the raw limit measured on both sides of it."""
    before = raw.measure(seconds / 2)
    images = 0
    latencies: list[float] = []

    def report(count: int, latency_s: float) -> None:
        nonlocal images
        images += count
        latencies.append(latency_s)

    began = time.perf_counter()
    await workload(clients, model, began + seconds, report)
    took = time.perf_counter() - began
    after = raw.measure(seconds / 2)
    p50, p99 = np.percentile(latencies, [50, 99]) * 1e3
    return Sample(images / took, (before + after) / 2, float(p50), float(p99))


@asynccontextmanager
async def server(repository: Path, processes: int) -> AsyncIterator[str]:
    """Runs `imagemint serve` on a free port and yields its address."""
    process = subprocess.Popen(  # noqa: ASYNC220, S603 - started once, with fixed arguments
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


async def bench(options: argparse.Namespace) -> dict[str, list[Sample]]:
    """Returns the samples of every workload, the workloads taken in turn."""
    versions = sorted((options.repository / options.model).iterdir(), key=lambda p: p.name)
    newest = max((p for p in versions if p.name.isdecimal()), key=lambda p: int(p.name))
    raw = RawLimit(newest)
    samples: dict[str, list[Sample]] = {name: [] for name in WORKLOADS}
    # A connection stays with one worker: several for each, so that none is idle by chance.
    connections = 1 if options.processes == 1 else 4 * options.processes
    async with server(options.repository, options.processes) as address, AsyncExitStack() as opened:
        clients = [
            await opened.enter_async_context(AsyncClient(address)) for _ in range(connections)
        ]
        for client in clients:
            await client.generate(options.model, 256, seed=0)
        for _ in range(options.repeats):
            for name, workload in WORKLOADS.items():
                sample = await measured(clients, options.model, workload, raw, options.seconds)
                samples[name].append(sample)
    return samples


def table(samples: dict[str, list[Sample]]) -> str:
    """Returns the medians over the repeats, and the spread of the ratio, as a table."""
    lines = [
        "| workload | images/s | of the raw limit (least to most) | p50 ms | p99 ms |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, found in samples.items():
        ratios = sorted(sample.ratio for sample in found)
        rate, p50, p99 = (
            statistics.median(getattr(sample, field) for sample in found)
            for field in ("images_per_s", "p50_ms", "p99_ms")
        )
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        lines.append(f"| {name} | {rate:,.0f} | {spread} | {p50:.1f} | {p99:.1f} |")
    return "\n".join(lines)


def machine() -> dict[str, str | int]:
    """Returns what the figures were measured on."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "processor": found[1] if found else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }


def main() -> None:
    """Prints the table; with --json also writes every sample."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repository", type=Path, default=ROOT / "models")
    parser.add_argument("--model", default="mnist")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each timed stretch")
    parser.add_argument("--repeats", type=int, default=3, help="rounds over all workloads")
    parser.add_argument("--processes", type=int, default=1, help="workers of the server")
    parser.add_argument("--json", type=Path, help="write every sample here")
    options = parser.parse_args()
    samples = asyncio.run(bench(options))
    print(table(samples))
    print("machine:", ", ".join(f"{key} {value}" for key, value in machine().items()))
    if options.json:
        content = {
            "machine": machine(),
            "seconds": options.seconds,
            "processes": options.processes,
            "samples": {name: [asdict(s) for s in found] for name, found in samples.items()},
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
