"""How close `imagemint dataset --local` comes to its limits, as ratios measured in one run.

- **npz** against ONNX Runtime alone: the same session and batch size, with latents and classes
  that are drawn before.
- **webdataset, parquet, imagefolder** against the encoder alone, with pixels that are there
  already: the ratio of a source that is faster than the encoder, such as a server or a GPU. With
  the engine on the same core, the limit is the sum of both times; the ratio to it stands beside.

    .venv/bin/python benchmarks/dataset.py --rounds 7

It measures one process, because the processes of a data set share nothing. Each round measures the
limits and the formats in turn, so that the load of the machine affects all alike. Ratios are
medians over the rounds, of CPU time (which other programs hardly affect) and of wall time (which
includes the disk). `--memory` makes data sets of two sizes and prints the largest resident set.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from imagemint.client.images import ImageBatch
from imagemint.dataset.command import Dataset
from imagemint.dataset.folder import LocalFolder
from imagemint.dataset.local import LocalSource
from imagemint.dataset.pictures import encode_batch
from imagemint.dataset.plan import FormatName, Plan
from imagemint.dataset.shards import make_shard
from imagemint.dataset.sources import LocalSpec, Source
from imagemint.engine.batch import Batch
from imagemint.engine.sampling import draw_latents

ENCODED: tuple[FormatName, ...] = ("webdataset", "parquet", "imagefolder")
_ROWS = 256
_RSS = """
import resource, sys
from imagemint.client.cli import main
status = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(status)
"""


class Replay:
    """A source that repeats one batch of pixels, and costs nothing. Implements `Source`."""

    def __init__(self, batch: ImageBatch) -> None:
        self._batch = batch

    def read(self, first_index: int, count: int) -> Iterator[ImageBatch]:
        """Yields the same pixels under the wanted indices."""
        batch = self._batch
        for start in range(first_index, first_index + count, _ROWS):
            rows = min(_ROWS, first_index + count - start)
            yield replace(
                batch,
                index=np.arange(start, start + rows, dtype=np.uint64),
                image=batch.image[:rows],
                class_id=None if batch.class_id is None else batch.class_id[:rows],
                serials=batch.serials[:rows],
            )

    def close(self) -> None:
        """Has nothing to release."""


def plan_format(model: str, count: int, format_name: FormatName) -> tuple[Plan, LocalSpec]:
    """Returns the plan of one shard, and its source."""
    command = Dataset(
        model=model, count=count, seed=7, shard_size=count, format=format_name, local=True, out="."
    )
    plan, spec = command.make_plan(None)
    if not isinstance(spec, LocalSpec):
        raise TypeError("--local gives a local source")
    return plan, spec


def run_engine(source: LocalSource, plan: Plan) -> None:
    """Runs ONNX Runtime alone for as many images as the plan has."""
    spec, backend = source.spec, source.backend
    z = draw_latents(plan.seed, 0, _ROWS, spec.z_dim, distribution=spec.distribution)
    batch = Batch(z, np.arange(_ROWS) % spec.num_classes if spec.conditional else None)
    for start in range(0, plan.count, _ROWS):
        backend.run(batch[: min(_ROWS, plan.count - start)])


def run_encoder(replay: Replay, plan: Plan) -> None:
    """Encodes as many pictures as the plan has images."""
    for batch in replay.read(0, plan.count):
        for _ in encode_batch(plan, batch):
            pass


def run_format(source: Source, plan: Plan, place: Path) -> None:
    """Makes and publishes one shard in a new folder."""
    folder = LocalFolder(place / f"{time.monotonic_ns()}")
    with folder.lock():
        make_shard(plan, plan.get_shard(0), source, folder)


def measure(model: str, count: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Returns the CPU and wall seconds of each work in each round."""
    npz, spec = plan_format(model, count, "npz")
    plans = {name: plan_format(model, count, name)[0] for name in ENCODED}
    source = LocalSource(spec, npz, 0)
    place = Path(tempfile.mkdtemp(prefix="imagemint-bench-"))
    replay = Replay(next(source.read(0, _ROWS)))
    works: dict[str, Callable[[], None]] = {
        "engine alone": lambda: run_engine(source, npz),
        "npz": lambda: run_format(source, npz, place),
        "encoder alone": lambda: run_encoder(replay, plans["webdataset"]),
    }
    for name in ENCODED:
        works[f"{name}, pixels there"] = partial(run_format, replay, plans[name], place)
        works[name] = partial(run_format, source, plans[name], place)
    found: dict[str, dict[str, list[float]]] = {name: {"cpu_s": [], "wall_s": []} for name in works}
    for _ in range(rounds):
        for title, work in works.items():
            cpu, wall = time.process_time(), time.perf_counter()
            work()
            found[title]["cpu_s"].append(time.process_time() - cpu)
            found[title]["wall_s"].append(time.perf_counter() - wall)
            for path in place.iterdir():
                shutil.rmtree(path)
    source.close()
    place.rmdir()
    return found


def compare(found: dict[str, dict[str, list[float]]], clock: str) -> dict[str, float]:
    """Returns the median ratio of each format to its limit; 1 is the limit."""

    def compute_ratio(name: str, *limits: str) -> float:
        durations = found[name][clock]
        limit: list[float] = [
            sum(each) for each in zip(*(found[each][clock] for each in limits), strict=True)
        ]
        shares: list[float] = [most / own for most, own in zip(limit, durations, strict=True)]
        return statistics.median(shares)

    ratios = {"npz / engine": compute_ratio("npz", "engine alone")}
    for name in ENCODED:
        ratios[f"{name}, pixels there / encoder"] = compute_ratio(
            f"{name}, pixels there", "encoder alone"
        )
        ratios[f"{name} / (engine + encoder)"] = compute_ratio(
            name, "engine alone", "encoder alone"
        )
    return ratios


def print_memory(model: str, counts: tuple[int, int]) -> None:
    """Prints the largest resident set of one process for each format and count."""
    for name in ("npz", *ENCODED):
        sizes = [f"{count:,} images: {measure_memory(model, count, name)} MiB" for count in counts]
        print(f"{name:<12} {'; '.join(sizes)}", flush=True)


def measure_memory(model: str, count: int, format_name: str) -> int:
    """Returns the largest resident set of the command in MiB."""
    place = tempfile.mkdtemp(prefix="imagemint-bench-")
    flags = [f"--model={model}", f"--count={count}", "--seed=7", f"--format={format_name}"]
    flags += ["--shard-size=1000", f"--out={place}", "--local", "--workers=1", "--quiet"]
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-c", _RSS, "dataset", *flags],
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        shutil.rmtree(place)
    return int(done.stdout) // 1024


def main() -> None:
    """Measures, and prints ratios and figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="mnist")
    parser.add_argument("--count", type=int, default=10_000, help="images of each measurement")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory", action="store_true", help="measure memory instead of speed")
    parser.add_argument("--json", type=Path, help="write everything that was measured")
    options = parser.parse_args()
    if options.memory:
        print_memory(options.model, (options.count, 8 * options.count))
        return
    found = measure(options.model, options.count, options.rounds)
    ratios = {clock: compare(found, clock) for clock in ("cpu_s", "wall_s")}
    print(f"{'':<36}  CPU   wall")
    for name, by_cpu in ratios["cpu_s"].items():
        print(f"{name:<36} {by_cpu:5.3f} {ratios['wall_s'][name]:5.3f}")
    for name, times in found.items():
        rate = options.count / statistics.median(times["cpu_s"])
        print(f"{name:<36} {rate:9,.0f} images per CPU second")
    if options.json is not None:
        options.json.write_text(json.dumps({"ratios": ratios, "measured": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
