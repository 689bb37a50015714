"""Measures the server with h2load, an independent HTTP/2 client in C.

h2load replays one recorded request over one connection without TLS. The raw limit (raw_limit.py) is
measured before and after each run, with all servers frozen, so that each rate becomes a share of
the limit. `imagemint bench` sends the same unary requests for comparison. h2load knows nothing of
gRPC and its statuses, so the bytes of its answers are counted: they must hold images.

`--setting NAME=VALUE` starts a second server with other settings, and the two take turns.

    apt-get install nghttp2-client
    python benchmarks/h2load.py --repeats 5 --seconds 3
    python benchmarks/overhead/bundles.py DIR
    python benchmarks/h2load.py --repository DIR --model reference --version 1
    python benchmarks/h2load.py --bench none --setting spread_alone=false
"""

import argparse
import re
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from peers.checking import Truth
from peers.processes import Tree
from peers.running import run_server
from peers.servers import Model, make_own_server
from raw_limit import RawLimit

from imagemint.bench.client_processes import ClientProcesses
from imagemint.bench.load import Closed, Plan
from imagemint.bench.mix import Mix, parse_mix
from imagemint.bench.point import join_results
from imagemint.engine.bundle import read_bundle
from imagemint.v1 import generation_service_pb2, image_pb2

ROOT = Path(__file__).resolve().parents[1]
WARMUP_S = 1
H2LOAD = "h2load"
BENCH = "imagemint bench"
_SERVICE = "imagemint.v1.GenerationService"
_RATE = re.compile(r"finished in ([\d.]+)(us|ms|s), ([\d.]+) req/s")
_DONE = re.compile(r"requests: .* (\d+) succeeded, 0 failed, 0 errored, 0 timeout")
_DATA = re.compile(r"\((\d+)\) data")
_UNIT_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True)
class Workload:
    """The requests of one row.

    Attributes:
        count: images of a request.
        streams: requests at the same time.
        chunked: whether a request is one stream, which runs once instead of for a time.
    """

    count: int
    streams: int
    chunked: bool = False

    @property
    def method(self) -> str:
        """Path of the method."""
        return f"/{_SERVICE}/{'StreamGenerate' if self.chunked else 'Generate'}"

    def frame_request(self, model: str) -> bytes:
        """Returns the request as the body of a gRPC call."""
        images = image_pb2.ImageSpec(model=model, seed=42, count=self.count)
        request_type = (
            generation_service_pb2.StreamGenerateRequest
            if self.chunked
            else generation_service_pb2.GenerateRequest
        )
        message = request_type(images=images).SerializeToString()
        return bytes(1) + len(message).to_bytes(4) + message


WORKLOADS = {
    "1 per call, 1 caller": Workload(1, 1),
    "1 per call, 16 callers": Workload(1, 16),
    "1 per call, 64 callers": Workload(1, 64),
    "64 per call, 4 callers": Workload(64, 4),
    "one stream of 10,000": Workload(10_000, 1, chunked=True),
}


@dataclass(frozen=True)
class Run:
    """What a client reports.

    Attributes:
        images_per_s: throughput.
        calls: number of measured calls.
        client_cpu_s: CPU time of the client for the measured calls.
        p50_ms, p99_ms: latency; None if the client did not report it.
    """

    images_per_s: float
    calls: float
    client_cpu_s: float
    p50_ms: float | None = None
    p99_ms: float | None = None


@dataclass(frozen=True)
class Sample:
    """One run beside the raw limit.

    Attributes:
        run: what the client reports.
        share: throughput as share of the raw limit.
        over_ms: median latency over the raw latency of a single image.
        server_ms, client_ms: CPU time per call.
    """

    run: Run
    share: float
    over_ms: float | None
    server_ms: float
    client_ms: float


@dataclass(frozen=True)
class Measurable:
    """A running server.

    Attributes:
        tree: its processes.
        address: its gRPC address.
        clients: processes of `imagemint bench` that are connected to it.
    """

    tree: Tree
    address: str
    clients: ClientProcesses


def run_bench(clients: ClientProcesses, workload: Workload, seconds: int) -> Run:
    """Runs `imagemint bench` with one unary workload.

    Raises:
        RuntimeError: no call was answered.
    """
    mix: Mix = parse_mix(f"count={workload.count}")
    plan = Plan(Closed(workload.streams), mix, warmup_s=WARMUP_S, duration_s=seconds)
    point = join_results(plan.load, mix, clients.measure(plan))
    if point.client_ms_per_call is None:
        raise RuntimeError("imagemint bench got no answer")
    calls = point.calls_per_s * seconds
    return Run(point.calls_per_s * workload.count, calls, calls * point.client_ms_per_call / 1e3)


def _read_children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _read_cpu_s(tree: Tree) -> float:
    """Returns the CPU time of all processes (clock_getcpuclockid of the C library)."""
    return sum(time.clock_gettime((~process.pid << 3) | 2) for process in tree.list_processes())


@contextmanager
def start_server(model: Model, settings: dict[str, str], folder: Path) -> Iterator[Measurable]:
    """Starts a server, checks its answers, and stops it in the end.

    Args:
        model: the served model.
        settings: settings by name, in addition to the defaults.
        folder: an empty folder for its output.
    """
    truth, kinds = Truth(model.file, model.spec), parse_mix("count=1").kinds
    variables = {f"IMAGEMINT_{name.upper()}": value for name, value in settings.items()}
    server = make_own_server(processes=1)
    with run_server(server, model, truth, kinds, folder, environment=variables) as running:
        command = list(running.started.command)
        address = str(command[command.index("--grpc-address") + 1])
        with ClientProcesses(running.started.target, 1) as clients:
            yield Measurable(running.tree, address, clients)


@dataclass(frozen=True)
class Bench:
    """What all runs share.

    Attributes:
        model: the served model.
        raw: measures the raw limit of the model.
        seconds: length of each run.
        folder: for the files of h2load.
    """

    model: Model
    raw: RawLimit
    seconds: int
    folder: Path

    def measure(self, server: Measurable, workload: Workload, client: str) -> Sample:
        """Measures one workload beside the raw limit."""
        with server.tree.freeze():
            before = self.raw.measure(self.seconds / 2)
        began = _read_cpu_s(server.tree)
        if client == H2LOAD:
            run = self._run_h2load(server.address, workload)
        else:
            run = run_bench(server.clients, workload, self.seconds)
        # Both clients warm up for the same time, at the same rate.
        whole = (
            run.calls if workload.chunked else run.calls * (self.seconds + WARMUP_S) / self.seconds
        )
        server_ms = 1e3 * (_read_cpu_s(server.tree) - began) / whole
        with server.tree.freeze():
            after = self.raw.measure(self.seconds / 2)
        limit = (before.images_per_s + after.images_per_s) / 2
        single_ms = (before.single_ms + after.single_ms) / 2
        over_ms = run.p50_ms - single_ms if run.p50_ms is not None else None
        client_ms = 1e3 * run.client_cpu_s / run.calls
        return Sample(run, run.images_per_s / limit, over_ms, server_ms, client_ms)

    def _run_h2load(self, address: str, workload: Workload) -> Run:
        """Runs h2load with one workload.

        Raises:
            RuntimeError: h2load failed, or answers hold no images.
        """
        body, log = self.folder / "request", self.folder / "calls.tsv"
        body.write_bytes(workload.frame_request(self.model.spec.name))
        log.unlink(missing_ok=True)
        warmup_s = 0 if workload.chunked else WARMUP_S
        command = (
            *("h2load", "--clients=1", "--threads=1"),
            f"--max-concurrent-streams={workload.streams}",
            *(
                ("--requests=1",)
                if workload.chunked
                else (f"--duration={self.seconds}", f"--warm-up-time={warmup_s}")
            ),
            *(f"--data={body}", f"--log-file={log}"),
            *("--header=content-type: application/grpc", "--header=te: trailers"),
            f"http://{address}{workload.method}",
        )
        began = _read_children_s()
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed
        cpu_s = _read_children_s() - began
        rate, calls, data = (each.search(done.stdout) for each in (_RATE, _DONE, _DATA))
        if not (rate and calls and data and int(calls[1])) or int(data[1]) < (
            int(calls[1]) * workload.count * self.model.spec.image_bytes
        ):
            raise RuntimeError(f"h2load failed: {done.stdout[-500:]} {done.stderr[-500:]}")
        latencies = sorted(int(line.split("\t")[2]) / 1e3 for line in log.read_text().splitlines())
        per_s = 1 / (float(rate[1]) * _UNIT_S[rate[2]]) if workload.chunked else float(rate[3])
        return Run(
            per_s * workload.count,
            int(calls[1]),
            # The CPU time, unlike the calls, includes the warm-up, which has the same rate.
            cpu_s if workload.chunked else cpu_s * self.seconds / (self.seconds + warmup_s),
            statistics.median(latencies),
            latencies[int(0.99 * len(latencies))],
        )


def measure(options: argparse.Namespace, folder: Path) -> dict[tuple[str, str, str], list[Sample]]:
    """Returns all samples by workload, server and client, measured in turn."""
    directory = options.repository / options.model / str(options.version)
    spec = read_bundle(directory).spec
    model = Model(options.repository, directory / "model.onnx", spec)
    bench = Bench(model, RawLimit(directory), options.seconds, folder)
    configurations: dict[str, dict[str, str]] = {"defaults": {}}
    if options.setting:
        configurations[" ".join(options.setting)] = dict(
            each.split("=", 1) for each in options.setting
        )
    samples: dict[tuple[str, str, str], list[Sample]] = {}
    with ExitStack() as stack:
        servers: dict[str, Measurable] = {}
        for number, (name, settings) in enumerate(configurations.items()):
            (place := folder / str(number)).mkdir()
            servers[name] = stack.enter_context(start_server(model, settings, place))
        for turn in range(options.repeats):
            for title in options.workload or WORKLOADS:
                workload = WORKLOADS[title]
                turns = [
                    (name, client)
                    for name in servers
                    for client in (H2LOAD, BENCH)
                    if client == H2LOAD or (options.bench == "beside" and not workload.chunked)
                ]
                for name, client in turns if turn % 2 == 0 else turns[::-1]:
                    with ExitStack() as others:
                        for other in servers.keys() - {name}:
                            others.enter_context(servers[other].tree.freeze())
                        sample = bench.measure(servers[name], workload, client)
                    samples.setdefault((title, name, client), []).append(sample)
    return samples


def format_table(samples: dict[tuple[str, str, str], list[Sample]]) -> str:
    """Returns the medians over the repeats as a table.

    The latency over that of ONNX Runtime alone is shown for one caller, where nobody queues.
    """
    head = (
        "| workload | server | client | calls/s | share of R (min to max) | p50 ms | p99 ms "
        "| p50 over a bare session, ms | server CPU ms/call | client CPU ms/call |"
    )
    lines = [head, "|---|---|---|---:|---:|---:|---:|---:|---:|---:|"]
    for (title, name, client), found in samples.items():
        workload = WORKLOADS[title]
        shares = sorted(each.share for each in found)
        values = (
            f"{statistics.median(each.run.images_per_s for each in found) / workload.count:,.4g}",
            f"{statistics.median(shares):.2f} ({shares[0]:.2f} to {shares[-1]:.2f})",
            _format_median([each.run.p50_ms for each in found]),
            _format_median([each.run.p99_ms for each in found]),
            _format_median([each.over_ms for each in found]) if workload == Workload(1, 1) else "",
            f"{statistics.median(each.server_ms for each in found):.2f}",
            f"{statistics.median(each.client_ms for each in found):.3f}",
        )
        lines.append(f"| {title} | {name} | {client} | {' | '.join(values)} |")
    return "\n".join(lines)


def _format_median(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):.2f}" if known else ""


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repository", type=Path, default=ROOT / "models")
    parser.add_argument("--model", default="mnist")
    parser.add_argument("--version", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=3, help="length of each run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--workload", action="append", choices=tuple(WORKLOADS), help="default: all"
    )
    parser.add_argument(
        "--bench", choices=("beside", "none"), default="beside", help="run imagemint bench too"
    )
    parser.add_argument(
        "--setting", action="append", metavar="NAME=VALUE", help="of a second server, in turn"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="h2load-") as folder:
        print(format_table(measure(options, Path(folder))))


if __name__ == "__main__":
    main()
