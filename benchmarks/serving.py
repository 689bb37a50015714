"""Load-tests the server and its peers, and ONNX Runtime alone on the same cores.

The speed of machines varies, so the result is a ratio: the raw limit is measured again beside every
row, with the server frozen. Server, client and raw limit share the cores. One server runs at a
time, in another order in each round. The load is that of `imagemint bench`. docs/performance.md
describes the measurement and the peers.

    make bench
    make bench BENCH_ARGS="--peers none --seconds 5 --repeats 5"
    make bench BENCH_ARGS="--seconds 3 --json benchmarks/results/side-by-side.json"
"""

import argparse
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from peers import environments
from peers.checking import NotReady, Truth
from peers.processes import Tree
from peers.running import Running, run_server
from peers.servers import OURS, PEERS, Model, Server, make_own_server
from raw_limit import RawLimit
from side_by_side import Entry, Record, Sample, Visit, render_tables, strip_local_details

from imagemint.bench.client_processes import ClientProcesses
from imagemint.bench.load import Closed, Load, Plan
from imagemint.bench.mix import Mix, parse_mix
from imagemint.bench.point import Point, join_results
from imagemint.bench.report import describe_machine
from imagemint.bench.target import CallFailed
from imagemint.engine.bundle import read_bundle, variants

ROOT = Path(__file__).resolve().parents[1]
WARMUP_S = 1.0
REFERENCE = "reference"
STREAM_IMAGES = 10_000


@dataclass(frozen=True)
class Workload:
    """The requests of one row.

    Attributes:
        load: number of callers or rate.
        mix: kinds of requests.
        images: number of images, instead of a duration.
    """

    load: Load
    mix: Mix
    images: int | None = None

    @property
    def streams(self) -> bool:
        """Whether it needs a server that streams."""
        return any(kind.stream for kind in self.mix.kinds)


WORKLOADS: dict[str, Workload] = {
    "1 per call, 1 caller": Workload(Closed(1), parse_mix("count=1")),
    "1 per call, 16 callers": Workload(Closed(16), parse_mix("count=1")),
    "1 per call, 64 callers": Workload(Closed(64), parse_mix("count=1")),
    "64 per call, 4 callers": Workload(Closed(4), parse_mix("count=64")),
    "64 PNG per call, 4 callers": Workload(Closed(4), parse_mix("count=64 format=png")),
    "one stream of 10,000": Workload(
        Closed(1), parse_mix(f"count={STREAM_IMAGES} stream"), STREAM_IMAGES
    ),
}
# Requests whose answers must be correct before the measurement.
CHECKS = parse_mix("count=1, count=64, count=64 format=png").kinds


@dataclass(frozen=True)
class Bench:
    """Settings that all rows share.

    Attributes:
        model: the served model.
        raw: measures the raw limit of the model.
        truth: computes the correct answers.
        seconds: length of each measurement.
        clients: number of processes of the load generator.
        processes: number of workers of imagemint.
    """

    model: Model
    raw: RawLimit
    truth: Truth
    seconds: float
    clients: int
    processes: int

    def visit(self, server: Server, turn: int) -> Visit:
        """Starts a server, measures all its rows, and stops it.

        Raises:
            NotReady: the server did not start; the message has the end of its output.
            ValueError: the pictures are wrong.
        """
        with (
            tempfile.TemporaryDirectory(prefix="peer-") as folder,
            run_server(server, self.model, self.truth, CHECKS, Path(folder)) as running,
        ):
            visit = Visit(ready_s=running.ready_s)
            self._measure(server, running, visit, turn)
            visit.memory_bytes = running.tree.measure_memory()
            visit.processes = len(running.tree.list_processes())
        return visit

    def _measure(self, server: Server, running: Running, visit: Visit, turn: int) -> None:
        with ClientProcesses(running.started.target, self.clients) as clients:
            for name, workload in WORKLOADS.items():
                if workload.streams and server.name != OURS:
                    continue
                # A connection stays with one worker; several per worker keep all of them busy.
                workers = self.processes if server.name == OURS else 1
                plan = Plan(
                    workload.load,
                    workload.mix,
                    warmup_s=0.0 if workload.images else WARMUP_S,
                    duration_s=None if workload.images else self.seconds,
                    images=workload.images,
                    connections=1 if workers == 1 else 4 * workers,
                    seed=turn,
                )
                try:
                    sample = self._measure_row(clients, plan, running.tree)
                except (CallFailed, RuntimeError) as error:
                    visit.faults[name] = strip_local_details(str(error))
                    _say(f"  {name}: {error}")
                else:
                    visit.samples[name] = sample
                    _say(f"  {name}: {sample.images_per_s:,.0f}/s, {sample.ratio:.2f} of R")

    def _measure_row(self, clients: ClientProcesses, plan: Plan, tree: Tree) -> Sample:
        """Returns one sample, with the raw limit measured before and after it."""
        with tree.freeze():
            before = self.raw.measure(self.seconds / 2)
        point = join_results(plan.load, plan.mix, clients.measure(plan))
        with tree.freeze():
            after = self.raw.measure(self.seconds / 2)
        return Sample(
            images_per_s=point.images_per_s,
            raw_images_per_s=(before.images_per_s + after.images_per_s) / 2,
            raw_arrangement=max(before, after, key=lambda each: each.images_per_s).arrangement,
            raw_single_ms=min(before.single_ms, after.single_ms),
            p50_ms=_read_quantile(point, 0.5),
            p99_ms=_read_quantile(point, 0.99),
            first_chunk_ms=point.sum.first_chunk.compute_quantile_ms(0.5),
            shed=point.sum.shed.total(),
            failed=point.sum.failed.total(),
            client_ms_per_call=point.client_ms_per_call or 0.0,
            client_limit=point.client_limit,
        )


def _read_quantile(point: Point, q: float) -> float:
    found = point.sum.latency.compute_quantile_ms(q)
    if found is None:
        raise RuntimeError(f"{point.load}: no answers: {point.sum.example or 'too slow'}")
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def compare(bench: Bench, servers: Sequence[Server], repeats: int) -> dict[str, Entry]:
    """Returns the results of each server; the servers take turns."""
    entries = {each.name: _make_entry(each) for each in servers}
    runnable = [each for each in servers if not entries[each.name].reasons]
    for repeat in range(repeats):
        for server in random.Random(repeat).sample(runnable, len(runnable)):  # noqa: S311 - an order
            _say(f"round {repeat + 1} of {repeats}: {server.title}")
            try:
                entries[server.name].visits.append(bench.visit(server, repeat))
            except (NotReady, ValueError, RuntimeError) as error:
                entries[server.name].reasons.append(strip_local_details(str(error)))
                _say(f"  {error}")
    return entries


def _make_entry(server: Server) -> Entry:
    if server.name == OURS:
        packages = {name: metadata.version(name) for name in (OURS, "onnxruntime")}
        weight = environments.count_distribution_bytes(f"{OURS}[server]")
        return Entry(server.title, server.protocol, packages, weight)
    environment = environments.prepare_environment(server.name)
    packages = {
        server.package: environment.packages.get(server.package, "-")
    } | environment.packages
    reasons = [strip_local_details(environment.reason)] if environment.reason else []
    return Entry(
        server.title, server.protocol, packages, environment.install_bytes, reasons=reasons
    )


def parse_peers(text: str) -> list[Server]:
    """Returns the peers of a comma-separated list of names, `all` or `none`.

    Raises:
        argparse.ArgumentTypeError: a peer is unknown.
    """
    names = {"all": list(PEERS), "none": []}.get(text, text.split(","))
    if unknown := [name for name in names if name not in PEERS]:
        raise argparse.ArgumentTypeError(
            f"no peer {', '.join(unknown)}; there are {', '.join(PEERS)}"
        )
    return [PEERS[name] for name in names]


def main() -> None:
    """Prints the tables; with --json also writes every sample."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--peers", type=parse_peers, default="all", help="comma-separated names, all, or none"
    )
    parser.add_argument(
        "--repository", type=Path, help="model repository; default: the reference model"
    )
    parser.add_argument("--model", default=REFERENCE)
    parser.add_argument(
        "--variant",
        choices=["reference", "auto"],
        default="reference",
        help="variant that imagemint runs; peers and R use model.onnx",
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement")
    parser.add_argument("--repeats", type=int, default=3, help="rounds over all servers")
    parser.add_argument("--processes", type=int, default=1, help="workers of imagemint")
    parser.add_argument("--clients", type=int, default=1, help="processes of the load generator")
    parser.add_argument("--json", type=Path, help="file for all samples")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # stops the server too
    with tempfile.TemporaryDirectory() as folder:
        repository = options.repository or Path(folder)
        if options.repository is None:
            writer = ROOT / "benchmarks/overhead/bundles.py"
            subprocess.run(  # noqa: S603 - our own program
                [sys.executable, writer, repository], check=True, stdout=subprocess.DEVNULL
            )
        versions = (p for p in (repository / options.model).iterdir() if p.name.isdecimal())
        newest = max(versions, key=lambda path: int(path.name))
        bundle = read_bundle(newest)
        model = Model(repository.resolve(), newest / "model.onnx", bundle.spec)
        if options.variant != "reference" and options.peers:
            parser.error("peers serve model.onnx: --variant is for --peers none")
        graph, _ = variants.choose_variant(bundle.variants, "cpu", options.variant)
        bench = Bench(
            model,
            RawLimit(newest),
            Truth(graph.path, model.spec),
            options.seconds,
            options.clients,
            options.processes,
        )
        servers = [make_own_server(options.processes, options.variant), *options.peers]
        found = compare(bench, servers, options.repeats)
    record = Record(
        command=f"make bench BENCH_ARGS={shlex.quote(shlex.join(sys.argv[1:]))}",
        machine=describe_machine(),
        model=options.model,
        seconds=options.seconds,
        repeats=options.repeats,
        workloads=list(WORKLOADS),
        servers=found,
    )
    print(render_tables(record))
    if options.json:
        record.write(options.json)


if __name__ == "__main__":
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    main()
