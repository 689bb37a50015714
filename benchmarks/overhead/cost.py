"""Measures the CPU time of a call in the server without inference, and of an empty handler.

The server runs a model that computes nothing; the handler beside it, on gRPC's asyncio server too,
returns the same bytes to the same requests. Both are asked for one raw image at a time, in turn, by
callers in this process. CPU time is that of the server's process, all threads, so that what else
runs on the machine matters less; calls/s mean something only beside those of the handler.

    python benchmarks/overhead/cost.py
    python benchmarks/overhead/cost.py --repeats 5 --json benchmarks/results/overhead.json
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast

import grpc
from bundles import write_empty

from imagemint.server.event_loop import run
from imagemint.v1 import generation_service_pb2, image_pb2

METHOD = "/imagemint.v1.GenerationService/Generate"
READY_S = 60
MODEL = "empty"
PLAIN = [("grpc.enable_http_proxy", 0)]  # the server is on this machine


@dataclass(frozen=True)
class Sample:
    """One closed loop of calls.

    Attributes:
        cpu_ms: CPU time of the server's process for each call.
        calls_per_s: throughput, client and server sharing the machine.
        client_cpu_ms: CPU time of the callers for each call.
    """

    cpu_ms: float
    calls_per_s: float
    client_cpu_ms: float


def make_request(index: int, model: str = MODEL) -> bytes:
    """Returns a serialised request for one raw image."""
    images = image_pb2.ImageSpec(model=model, seed=42, first_index=index, count=1, class_id=7)
    return generation_service_pb2.GenerateRequest(images=images).SerializeToString()


# --- the handler that does nothing ----------------------------------------------------------------


async def serve_nothing(answer: bytes) -> None:
    """Answers every call with the same bytes, until SIGTERM."""

    async def handle(_: bytes, __: object) -> bytes:
        return answer

    service, method = METHOD[1:].split("/")
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers: dict[str, Any] = {method: grpc.unary_unary_rpc_method_handler(handle)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"event": "ready", "grpc_address": f"127.0.0.1:{port}"}), file=sys.stderr)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(0)


# --- the measurement ------------------------------------------------------------------------------


@contextlib.contextmanager
def run_server(*command: str | Path) -> Iterator[tuple[str, int]]:
    """Runs a server that logs when it is ready; yields its address and process id."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603 - fixed
        log = cast("IO[str]", process.stderr)  # a pipe, as asked for above
        ready = next(line for line in log if '"ready"' in line)  # gRPC's core may log, too
        # Read the log to the end: a server blocks when the pipe is full.
        reading = threading.Thread(target=log.read)
        reading.start()
        try:
            yield json.loads(ready)["grpc_address"], process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=READY_S)
            reading.join()


def read_cpu_s(pid: int) -> float:
    """Returns the CPU time of a process, all threads (clock_getcpuclockid of the C library)."""
    return time.clock_gettime((~pid << 3) | 2)


async def run_closed_loop(address: str, calls: int, callers: int, model: str = MODEL) -> bytes:
    """Makes `calls` calls, `callers` at a time; returns the last answer."""
    answer = b""
    indices = iter(range(calls))
    async with grpc.aio.insecure_channel(address, options=PLAIN) as channel:
        call: Any = channel.unary_unary(METHOD)

        async def run_caller() -> None:
            nonlocal answer
            for index in indices:
                answer = await call(make_request(index, model))

        await asyncio.gather(*(run_caller() for _ in range(callers)))
    return answer


def measure(address: str, pid: int, calls: int, callers: int) -> Sample:
    """Returns one sample of a server."""
    began, own, theirs = time.perf_counter(), time.process_time(), read_cpu_s(pid)
    run(run_closed_loop(address, calls, callers))
    elapsed_s, own, theirs = (
        time.perf_counter() - began,
        time.process_time() - own,
        read_cpu_s(pid) - theirs,
    )
    return Sample(1e3 * theirs / calls, calls / elapsed_s, 1e3 * own / calls)


def measure_servers(options: argparse.Namespace, repository: Path) -> dict[str, list[Sample]]:
    """Returns the samples of each server and number of callers, measured in turn."""
    imagemint = Path(sys.executable).with_name("imagemint")
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(
            run_server(
                *(imagemint, "serve", "--repository", repository),
                *("--grpc-address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0"),
                *options.serve,
            )
        )
        answer = run(run_closed_loop(ours[0], 1, 1))
        empty = (sys.executable, __file__, "--serve-nothing", answer.hex())
        servers = {
            "imagemint": ours,
            "empty handler": stack.enter_context(run_server(*empty)),
            "empty handler, uvloop": stack.enter_context(run_server(*empty, "--uvloop")),
        }
        for address, pid in servers.values():
            measure(address, pid, options.calls, options.callers[-1])  # warms up
        samples: dict[str, list[Sample]] = {
            f"{name}, {callers} callers": [] for callers in options.callers for name in servers
        }
        for _ in range(options.repeats):
            for callers in options.callers:
                for name, (address, pid) in servers.items():
                    sample = measure(address, pid, options.calls, callers)
                    samples[f"{name}, {callers} callers"].append(sample)
    return samples


def format_table(samples: dict[str, list[Sample]]) -> str:
    """Returns the medians over the repeats as a table."""
    lines = [
        "| server | CPU ms per call (least) | calls/s | CPU ms of the callers |",
        "|---|---:|---:|---:|",
    ]
    for name, found in samples.items():
        cpu, rate, own = (
            statistics.median(getattr(sample, field) for sample in found)
            for field in ("cpu_ms", "calls_per_s", "client_cpu_ms")
        )
        least = min(sample.cpu_ms for sample in found)
        lines.append(f"| {name} | {cpu:.3f} ({least:.3f}) | {rate:,.0f} | {own:.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Prints the table; with --json also writes every sample."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--calls", type=int, default=4_000, help="calls per measurement")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--serve", nargs=argparse.REMAINDER, default=[], help="options of imagemint serve"
    )
    parser.add_argument("--json", type=Path, help="file for all samples")
    parser.add_argument("--serve-nothing", help=argparse.SUPPRESS)
    parser.add_argument("--uvloop", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_nothing is not None:
        runner: Any = run if options.uvloop else asyncio.run
        runner(serve_nothing(bytes.fromhex(options.serve_nothing)))
        return
    with tempfile.TemporaryDirectory() as directory:
        write_empty(Path(directory))
        samples = measure_servers(options, Path(directory))
    print(format_table(samples))
    if options.json:
        content = {"cores": len(os.sched_getaffinity(0)), "calls": options.calls} | {
            "samples": {name: [asdict(s) for s in found] for name, found in samples.items()}
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
