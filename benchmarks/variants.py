"""Measures the speed of the graphs of a bundle, relative to each other or to another graph.

    python benchmarks/variants.py models/mnist/2 --plain plain.onnx
    python benchmarks/variants.py --reference --json benchmarks/results/variants.json
    python benchmarks/variants.py models/mnist/2 --provider OpenVINOExecutionProvider

The graphs take turns within each round. The result is the median over the rounds of the ratio to
the first graph, because the speed of machines varies by tens of percent. With one thread, time is
CPU time, so that other processes have little effect; with several threads it is wall time.

With `--reference` the graphs are those of the benchmark's DCGAN (256x7x7, two transposed
convolutions to 64 channels at 28x28, 3x3 to one; 3.1 M weights drawn at random), whose speed does
not depend on training. Another execution provider needs its own build of ONNX Runtime, in an
environment of its own, with numpy, scipy, onnx and protobuf. `--reference` does not work there,
because it needs torch.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from imagemint.engine import draw_classes, draw_latents
from imagemint.engine.bundle import read_bundle

BATCHES = (1, 8, 64)
_PASS_S = 0.05  # length of one measurement in seconds
Feed = dict[str, Any]


def open_session(content: bytes, provider: str, threads: int) -> Callable[[Feed], Any]:
    """Returns a function that runs a graph with this number of threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    provider_options = {"num_of_threads": str(threads)} if provider.startswith("OpenVINO") else {}
    found = ort.InferenceSession(content, options, providers=[(provider, provider_options)])
    if found.get_providers()[0] != provider:
        raise SystemExit(f"{provider} does not work here: {found.get_providers()}")
    return lambda feed: found.run(None, feed)[0]


def make_feed(content: bytes, rows: int) -> Feed:
    """Returns inputs of seed 0 with random classes."""
    graph = onnx.load_model_from_string(content).graph
    sides = {v.name: v.type.tensor_type.shape.dim[1].dim_value for v in graph.input}
    feed: Feed = {"z": draw_latents(0, 0, rows, sides["z"])}
    if "class_id" in sides:
        feed["class_id"] = draw_classes(0, 0, rows, 10)[:, np.newaxis]
    return feed


def export_reference() -> dict[str, bytes]:
    """Returns the benchmark's DCGAN as PyTorch exports it, optimised for CPUs, and in int8."""
    import torch  # noqa: PLC0415 - not where other providers are measured

    from imagemint.exporter.graph import build_graph  # noqa: PLC0415 - likewise
    from imagemint.exporter.precision import quantize_to_int8  # noqa: PLC0415 - likewise
    from imagemint.exporter.subpixel import replace_transposed_convolutions  # noqa: PLC0415 - likewise
    from imagemint.training.networks import ConditionalGenerator  # noqa: PLC0415 - likewise
    from imagemint.training.trained import TrainedGenerator  # noqa: PLC0415 - likewise

    torch.manual_seed(0)
    module = ConditionalGenerator(128, 10, c_dim=64, base_channels=64, image_channels=1)
    trained = TrainedGenerator(
        module=module.eval().requires_grad_(requires_grad=False),
        z_dim=128,
        class_labels=tuple("0123456789"),
        image_size=28,
        image_channels=1,
        recipe="",
        options={},
        dataset="",
        license="",
        seed=0,
        images_seen=0,
        code_revision="",
        weights_sha256="",
        evaluations=(),
    )
    plain = build_graph(trained)
    laid_out = replace_transposed_convolutions(plain)
    content = plain.SerializeToString()
    quantised = quantize_to_int8(laid_out, [make_feed(content, 256)], ("Gemm", "Conv", "MatMul"))
    graphs = {"as exported": plain, "fp32": laid_out, "int8": quantised}
    return {name: graph.SerializeToString() for name, graph in graphs.items()}


def compare(
    graphs: Mapping[str, Callable[[Feed], Any]], feed: Feed, rounds: int, clock: Callable[[], float]
) -> dict[str, dict[str, float]]:
    """Returns milliseconds per batch and speed relative to the first graph, as medians."""
    repeats, times = {}, {name: list[float]() for name in graphs}
    for name, run in graphs.items():
        run(feed)
        began = clock()
        run(feed)
        repeats[name] = max(1, int(_PASS_S / (clock() - began)))
    for _ in range(rounds):
        for name, run in graphs.items():
            began = clock()
            for _ in range(repeats[name]):
                run(feed)
            times[name].append((clock() - began) / repeats[name] * 1e3)
    first = times[next(iter(graphs))]
    table = {}
    for name, own in times.items():
        ratios = sorted(ours / theirs for ours, theirs in zip(first, own, strict=True))
        table[name] = {
            "best_ms": round(min(own), 3),
            "median_ms": round(statistics.median(own), 3),
            "speed": round(statistics.median(ratios), 2),
            "least": round(ratios[0], 2),
            "most": round(ratios[-1], 2),
        }
    return table


def main() -> None:
    """Measures, prints a table, and with --json writes it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path, nargs="?", help="a bundle, <model>/<version>")
    parser.add_argument("--reference", action="store_true", help="the benchmark's DCGAN instead")
    parser.add_argument("--plain", type=Path, help="a graph to compare with, put first")
    parser.add_argument("--provider", action="append", default=[], help="besides the CPU's own")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.reference == (arguments.bundle is not None):
        parser.error("name a bundle, or --reference")
    contents = {} if arguments.plain is None else {"plain": arguments.plain.read_bytes()}
    if arguments.reference:
        contents |= export_reference()
    else:
        bundle = read_bundle(arguments.bundle)
        contents |= {variant.name: bundle.read_model(variant) for variant in bundle.variants}
    graphs = {
        name if provider == "CPUExecutionProvider" else f"{name}, {provider}": open_session(
            content, provider, arguments.threads
        )
        for provider in ["CPUExecutionProvider", *arguments.provider]
        for name, content in contents.items()
    }
    first_content = next(iter(contents.values()))
    found = {}
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    print(
        f"onnxruntime {ort.__version__}, {arguments.threads} thread(s), {arguments.rounds} rounds"
    )
    print(
        f"{'batch':>5}  {'graph':<36} {'best ms':>9} {'median ms':>9}  times as fast as the first"
    )
    for batch in BATCHES:
        found[str(batch)] = compare(
            graphs, make_feed(first_content, batch), arguments.rounds, clock
        )
        for name, row in found[str(batch)].items():
            spread = f"{row['speed']:.2f} ({row['least']:.2f} to {row['most']:.2f})"
            print(
                f"{batch:>5}  {name:<36} {row['best_ms']:>9.2f} {row['median_ms']:>9.2f}  {spread}"
            )
    if arguments.json is not None:
        settings = {
            "onnxruntime": ort.__version__,
            "threads": arguments.threads,
            "rounds": arguments.rounds,
        }
        sizes = {name: len(content) for name, content in contents.items()}
        record = settings | {"bytes": sizes, "batches": found}
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
