"""Compares three ways to run batches: as they come, in bound buckets, and as CUDA graphs.

Without CUDA, it compares the first two on the CPU. Each way runs the same images in one thread. The
ways take turns within a round, so that variations of the machine affect all of them. The result is
the ratio to batches as they come. The program also checks that all ways give the same bytes.

    python benchmarks/device.py
    python benchmarks/device.py --json benchmarks/results/device.json
"""

import argparse
import json
import os
import platform
import re
import statistics
import time
from pathlib import Path

from imagemint.engine.backend import Instance
from imagemint.engine.batch import draw_batch
from imagemint.engine.bundle import Bundle, read_bundle
from imagemint.engine.onnx.backend import OnnxBackend

ROOT = Path(__file__).resolve().parents[1]
BASELINE = "as they come"


class Batches:
    """Inputs of one size.

    Args:
        bundle: the model.
        size: images in a batch.
    """

    def __init__(self, bundle: Bundle, size: int) -> None:
        self.size = size
        self._batch = draw_batch(bundle.spec, 0, 0, size)

    def run(self, instance: Instance) -> bytes:
        """Returns the pixels."""
        return instance.run(self._batch).tobytes()

    def measure_rate(self, instance: Instance, seconds: float) -> float:
        """Returns images per second."""
        began = time.perf_counter()
        done = 0
        while (elapsed_s := time.perf_counter() - began) < seconds:
            self.run(instance)
            done += self.size
        return done / elapsed_s


def open_instances(bundle: Bundle, most: int) -> tuple[OnnxBackend, dict[str, Instance]]:
    """Returns a backend, for its description, and an instance for each way.

    Args:
        bundle: the model.
        most: images in the largest batch.
    """
    plain = OnnxBackend(bundle, bucketed=False)
    bound = OnnxBackend(bundle, max_batch=most, bucketed=True, cuda_graphs=False)
    found = {BASELINE: plain.open_instance(), "bound buckets": bound.open_instance()}
    if plain.provider == "CUDAExecutionProvider":
        graphs = OnnxBackend(bundle, max_batch=most, bucketed=True, cuda_graphs=True)
        found["CUDA graphs"] = graphs.open_instance()
    return bound, found


def list_sizes(most: int) -> list[int]:
    """Returns batch sizes that fill a bucket, and sizes just above, where padding costs most."""
    powers = [2**power for power in range(most.bit_length()) if 2**power <= most]
    return sorted({*powers, *(power + 1 for power in powers[2:] if power < most)})


def measure(
    bundle: Bundle, instances: dict[str, Instance], options: argparse.Namespace
) -> dict[int, dict[str, list[float]]]:
    """Returns images per second, by batch size and way, one for each round."""
    found: dict[int, dict[str, list[float]]] = {}
    for size in list_sizes(options.most):
        batches = Batches(bundle, size)
        expected = batches.run(instances[BASELINE])
        for name, instance in instances.items():
            if batches.run(instance) != expected:
                print(f"batch {size}: {name} differs in bytes from batches {BASELINE}")
        found[size] = {name: [] for name in instances}
        for _ in range(options.repeats):
            for name, instance in instances.items():
                found[size][name].append(batches.measure_rate(instance, options.seconds))
    return found


def format_table(found: dict[int, dict[str, list[float]]]) -> str:
    """Returns a table of the medians, minima and maxima of the ratios."""
    names = [name for name in next(iter(found.values())) if name != BASELINE]
    lines = [
        f"| batch | images/s {BASELINE} | " + " | ".join(names) + " |",
        "|---:|---:|" + "---:|" * len(names),
    ]
    for size, rates in found.items():
        cells = []
        for name in names:
            each = sorted(a / b for a, b in zip(rates[name], rates[BASELINE], strict=True))
            cells.append(f"{statistics.median(each):.2f} ({each[0]:.2f} to {each[-1]:.2f})")
        base = statistics.median(rates[BASELINE])
        lines.append(f"| {size} | {base:,.0f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def read_gpu_name() -> str:
    """Returns the name of the first GPU; empty if NVML finds none."""
    try:
        import pynvml  # type: ignore[import-not-found,import-untyped,unused-ignore] # noqa: PLC0415 - of the extra gpu
    except ModuleNotFoundError:
        return ""
    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0)))
    except pynvml.NVMLError:
        return ""


def describe_machine() -> dict[str, str | int]:
    """Returns a description of the machine."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "processor": found[1] if found else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": read_gpu_name(),
        "python": platform.python_version(),
    }


def main() -> None:
    """Prints the table; with --json also writes every sample."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--bundle", type=Path, default=ROOT / "models/mnist/1")
    parser.add_argument("--most", type=int, default=64, help="images in the largest batch")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of each measurement")
    parser.add_argument("--repeats", type=int, default=5, help="rounds over the ways")
    parser.add_argument("--json", type=Path, help="file for all samples")
    options = parser.parse_args()
    bundle = read_bundle(options.bundle)
    backend, instances = open_instances(bundle, options.most)
    found = measure(bundle, instances, options)
    print(format_table(found))
    description = {
        "machine": describe_machine(),
        "model": f"{bundle.spec.name}@{bundle.version}",
        "runtime": backend.description,
        "buckets": backend.buckets,
    }
    print(", ".join(f"{key} {value}" for key, value in description.items()))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        content = description | {"seconds": options.seconds, "images_per_s": found}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
