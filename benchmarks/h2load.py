"""Compares the load test with h2load, an independent HTTP/2 client in C.

Both ask one server for one raw image per call, over one connection without TLS, in turn. The raw
limit (raw_limit.py) is measured before and after each run, with the server frozen. h2load knows
nothing of gRPC and its statuses, so the bytes of its answers are counted: they must hold images.

On a busy machine, only the CPU times per call mean something. They are those of the processes of
the server and of the client.

    apt-get install nghttp2-client
    python benchmarks/h2load.py --repeats 5 --seconds 3
"""

import argparse
import asyncio
import re
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from peers.checking import Truth, check_answer
from peers.processes import Tree, find_free_ports
from peers.servers import Model, ours
from raw_limit import RawLimit

from imagemint.bench.client_processes import ClientProcesses
from imagemint.bench.load import Closed, Plan
from imagemint.bench.mix import parse_mix
from imagemint.bench.point import join_results
from imagemint.engine.bundle import read_bundle
from imagemint.v1 import generation_service_pb2, image_pb2

ROOT = Path(__file__).resolve().parents[1]
STREAMS = (1, 16, 64)
MIX = parse_mix("count=1")
READY_S = 60.0
WARMUP_S = 1
_RATE = re.compile(r"finished in [\d.]+\w+, ([\d.]+) req/s")
_DONE = re.compile(r"requests: .* (\d+) succeeded, 0 failed, 0 errored, 0 timeout")
_DATA = re.compile(r"\((\d+)\) data")


@dataclass(frozen=True)
class Run:
    """What a client reports: calls per second, number of calls, and its CPU time in seconds."""

    calls_per_s: float
    calls: float
    cpu_s: float


@dataclass(frozen=True)
class Sample:
    """One run: calls per second, their share of the raw limit, and CPU times per call."""

    calls_per_s: float
    share: float
    server_ms: float
    client_ms: float


def frame_request(model: str) -> bytes:
    """Returns a Generate request for one raw image, as the body of a gRPC call."""
    images = image_pb2.ImageSpec(model=model, seed=42, count=1)
    message = generation_service_pb2.GenerateRequest(images=images).SerializeToString()
    return bytes(1) + len(message).to_bytes(4) + message


def run_h2load(address: str, body: Path, streams: int, seconds: int, image_bytes: int) -> Run:
    """Runs h2load with a number of concurrent streams.

    Raises:
        RuntimeError: h2load failed, or answers hold no images.
    """
    command = (
        *("h2load", "--clients=1", "--threads=1", f"--max-concurrent-streams={streams}"),
        *(f"--duration={seconds}", f"--warm-up-time={WARMUP_S}", f"--data={body}"),
        *("--header=content-type: application/grpc", "--header=te: trailers"),
        f"http://{address}/imagemint.v1.GenerationService/Generate",
    )
    began = _children_s()
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed
    took = _children_s() - began
    found = [each.search(done.stdout) for each in (_RATE, _DONE, _DATA)]
    rate, calls, data = (float(match[1]) if match else 0.0 for match in found)
    if not calls or data < calls * image_bytes:
        raise RuntimeError(f"h2load failed: {done.stdout[-500:]} {done.stderr[-500:]}")
    # The CPU time, unlike the calls, includes the warm-up, which has the same rate.
    return Run(rate, calls, took * seconds / (seconds + WARMUP_S))


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _cpu_s(tree: Tree) -> float:
    """Returns the CPU time of all processes (clock_getcpuclockid of the C library)."""
    return sum(time.clock_gettime((~each.pid << 3) | 2) for each in tree.processes())


def measure(options: argparse.Namespace, folder: Path) -> dict[tuple[int, str], list[Sample]]:
    """Returns all samples by number of streams and client, measured in turn."""
    directory = options.repository / options.model / str(options.version)
    spec = read_bundle(directory).spec
    model = Model(options.repository, directory / "model.onnx", spec)
    raw, body = RawLimit(directory), folder / "request"
    body.write_bytes(frame_request(spec.name))
    server = ours(processes=1)
    started = server.start(model, find_free_ports(server.ports))
    address = str(started.command[list(started.command).index("--grpc-address") + 1])
    tree = Tree(started.command, started.environment, folder)
    try:
        truth = Truth(model.file, spec)
        until_s = time.monotonic() + READY_S
        asyncio.run(check_answer(started.answers, MIX.asks[0], truth, tree, until_s))
        with ClientProcesses(started.target, 1) as clients:

            def bench(streams: int) -> Run:
                plan = Plan(Closed(streams), MIX, warmup_s=WARMUP_S, duration_s=options.seconds)
                point = join_results(plan.load, MIX, clients.measure(plan))
                calls = point.calls_per_s * options.seconds
                cpu_s = calls * point.client_ms_per_call / 1e3
                return Run(point.calls_per_s, calls, cpu_s)

            ways: dict[str, Callable[[int], Run]] = {
                "h2load": lambda streams: run_h2load(
                    address, body, streams, options.seconds, spec.image_bytes
                ),
                "imagemint bench": bench,
            }
            samples: dict[tuple[int, str], list[Sample]] = {}
            for turn in range(options.repeats):
                for streams in STREAMS:
                    for name in sorted(ways, reverse=turn % 2 == 1):
                        with tree.frozen():
                            before = raw.measure(options.seconds / 2)
                        began = _cpu_s(tree)
                        run = ways[name](streams)
                        # Both clients warm up for the same time, at the same rate.
                        whole = run.calls * (options.seconds + WARMUP_S) / options.seconds
                        server_ms = 1e3 * (_cpu_s(tree) - began) / whole
                        with tree.frozen():
                            after = raw.measure(options.seconds / 2)
                        limit = (before.images_per_s + after.images_per_s) / 2
                        sample = Sample(
                            run.calls_per_s,
                            run.calls_per_s / limit,
                            server_ms,
                            1e3 * run.cpu_s / run.calls,
                        )
                        samples.setdefault((streams, name), []).append(sample)
    finally:
        tree.stop()
    return samples


def table(samples: dict[tuple[int, str], list[Sample]]) -> str:
    """Returns the medians over the repeats as a table."""
    lines = [
        "| streams | client | calls/s | share of R (min to max) | server ms | client ms |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for (streams, name), found in sorted(samples.items()):
        shares = sorted(each.share for each in found)
        rate = statistics.median(each.calls_per_s for each in found)
        share = f"{statistics.median(shares):.2f} ({shares[0]:.2f} to {shares[-1]:.2f})"
        server, client = (
            statistics.median(getattr(each, field) for each in found)
            for field in ("server_ms", "client_ms")
        )
        lines.append(
            f"| {streams} | {name} | {rate:,.0f} | {share} | {server:.2f} | {client:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repository", type=Path, default=ROOT / "models")
    parser.add_argument("--model", default="mnist")
    parser.add_argument("--version", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=3, help="length of each run")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="h2load-") as folder:
        print(table(measure(options, Path(folder))))


if __name__ == "__main__":
    main()
