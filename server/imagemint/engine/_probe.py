"""Finding out, when a bundle is loaded, whether a row's pixels depend on its batch.

Comparing pixels would be too weak: a difference in the last bits of a float moves a rounded pixel
once in thousands, so a probe of affordable size would pass and a million images would not. The
probe therefore looks at the floats just before they are rounded.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from imagemint.engine.sampling import drawn_classes, latents
from imagemint.engine.spec import ModelSpec, TruncationKind

Feed = dict[str, npt.NDArray[Any]]
"""The graph's inputs by name, the batch along the first axis of each."""

FIXED_BATCH = 64
"""Rows of every run where no smaller measure makes pixels independent of the batch."""

PROBE_ROWS = 64
"""Rows of one probe, and of the largest batch that is run where batches run as they come."""

ALONE_ROWS = 8
"""Rows of the largest batch that is spread over cores when it is alone."""

_SEED = 0
# Lone rows are the likeliest to differ, but by their values, not by their place: a few tell.
_LONE_ROWS = 16
# Small batches, and those beside the tiles of vector kernels, 4, 8 and 16 rows high.
_SIZES = (2, 3, 5, 8, 13, 17, 31, 47)
# Sums whose order ONNX Runtime chooses by the shape: of 7 numbers a row differed, between batches
# or places in one, every third time, so in longer chains a difference may be too rare for 64 rows.
_REDUCTIONS = {
    *("ReduceMean", "ReduceSum", "ReduceProd", "ReduceSumSquare", "ReduceL1", "ReduceL2"),
    *("ReduceLogSum", "ReduceLogSumExp"),
}
_THOROUGH_ROWS = 8 * PROBE_ROWS


class Batching(enum.Enum):
    """How batches must be run so that pixels do not depend on them."""

    AS_THEY_COME = "as they come"
    NEVER_ALONE = "never of one row"
    BUCKETS = "of certain sizes, always"
    FIXED = f"of {FIXED_BATCH} rows, always"
    ALONE = "of one row, always"


def probe_feed(spec: ModelSpec, count: int = PROBE_ROWS) -> Feed:
    """Rows of input, every class and the whole range of truncation among them."""
    z = latents(_SEED, 0, count, spec.z_dim, distribution=spec.distribution)
    feed: Feed = {"z": z}
    if spec.conditional:
        classes = drawn_classes(_SEED, 0, count, spec.num_classes)
        feed["class_id"] = classes[:, np.newaxis]
    if spec.truncation is not None and spec.truncation.kind is TruncationKind.PSI:
        low, high = spec.truncation.minimum, spec.truncation.maximum
        feed["truncation"] = np.linspace(low, high, count, dtype=np.float32)[:, np.newaxis]
    return feed


def rows(feed: Mapping[str, npt.NDArray[Any]], start: int, stop: int) -> Feed:
    """A stretch of a batch."""
    return {name: value[start:stop] for name, value in feed.items()}


# The milder measure first.
_MEASURES = (Batching.AS_THEY_COME, Batching.NEVER_ALONE, Batching.FIXED, Batching.ALONE)


def rows_to_probe(content: bytes) -> int:
    """How many rows it takes to trust a model: more where it sums across a row by itself."""
    graph = onnx.load_model_from_string(content).graph
    reduces = any(node.op_type in _REDUCTIONS for node in graph.node)
    return _THOROUGH_ROWS if reduces else PROBE_ROWS


def needed_batching(compute: Callable[[Feed], npt.NDArray[Any]], feed: Feed) -> Batching:
    """The cheapest batching under which the rows of the probe equal those of the whole.

    Args:
        compute: runs a batch and returns what is compared, the batch along the first axis.
        feed: of `probe_feed`; of more than one probe's rows, each row is tried in every way.
    """
    count = len(feed["z"])
    needed = (
        _needed(compute, rows(feed, start, start + PROBE_ROWS), thorough=count > PROBE_ROWS)
        for start in range(0, count, PROBE_ROWS)
    )
    return max(needed, key=_MEASURES.index)


def _needed(compute: Callable[[Feed], npt.NDArray[Any]], feed: Feed, *, thorough: bool) -> Batching:
    whole = compute(feed)

    def same(start: int, stop: int) -> bool:
        return compute(rows(feed, start, stop)).tobytes() == whole[start:stop].tobytes()

    for shift in (21, 1, 3) if thorough else (21,):
        moved = {name: np.roll(value, shift, axis=0) for name, value in feed.items()}
        if compute(moved).tobytes() != np.roll(whole, shift, axis=0).tobytes():
            return Batching.ALONE
    # Ranges that start further in also move rows to other places within their batch.
    starts = {
        size: range(size // 2, PROBE_ROWS - size + 1, size) if thorough else (size // 2,)
        for size in _SIZES
    }
    if not all(same(start, start + size) for size in _SIZES for start in starts[size]):
        return Batching.FIXED
    if not all(same(row, row + 1) for row in range(PROBE_ROWS if thorough else _LONE_ROWS)):
        return Batching.NEVER_ALONE
    return Batching.AS_THEY_COME


def same_everywhere(
    compute: Callable[[Feed], npt.NDArray[Any]],
    other: Callable[[Feed], npt.NDArray[Any]],
    feed: Feed,
) -> bool:
    """Whether another session gives rows the same floats, in batches of 1 to `ALONE_ROWS`.

    All of these sizes are tried, for these are all that it will run.

    Args:
        compute: as `needed_batching`, which found that batches may run as they come.
        other: the same of the other session.
        feed: of `probe_feed`.
    """
    whole = compute(rows(feed, 0, PROBE_ROWS))

    def same(start: int, stop: int) -> bool:
        return other(rows(feed, start, stop)).tobytes() == whole[start:stop].tobytes()

    stretches = [(size, 2 * size) for size in range(2, ALONE_ROWS + 1)]
    stretches += [(row, row + 1) for row in range(_LONE_ROWS)]
    return all(same(*stretch) for stretch in stretches)


def agreeing_buckets(
    compute: Callable[[Feed], npt.NDArray[Any]], feed: Feed, buckets: Sequence[int]
) -> tuple[int, ...]:
    """The buckets in which a row gives the floats that it gives in the largest, wherever it stands.

    Only these sizes are ever run, so every one of them is tried. If not even the largest agrees
    with itself, rows are only safe alone: (1,).

    Args:
        compute: as `needed_batching`.
        feed: of `probe_feed`, as many rows as the largest bucket.
        buckets: sizes.
    """
    largest = max(buckets)
    whole = compute(feed)
    for shift in {1, largest // 3, largest // 2} - {0}:
        moved = {name: np.roll(value, shift, axis=0) for name, value in feed.items()}
        if compute(moved).tobytes() != np.roll(whole, shift, axis=0).tobytes():
            return (1,)

    def agrees(size: int) -> bool:
        starts = {0, (largest - size) // 2, largest - size}
        starts.update(range(min(_LONE_ROWS, largest - size)) if size == 1 else ())
        return all(
            compute(rows(feed, start, start + size)).tobytes()
            == whole[start : start + size].tobytes()
            for start in starts
        )

    return (*(size for size in sorted(set(buckets)) if size < largest and agrees(size)), largest)


def showing_floats(content: bytes) -> bytes:
    """The same model with one output: what it rounds to pixels, or its image if it never rounds."""
    model = onnx.load_model_from_string(content)
    for node in model.graph.node:
        if node.op_type == "Round" or (node.op_type == "Cast" and _to_uint8(node)):
            del model.graph.output[:]
            model.graph.output.append(onnx.ValueInfoProto(name=node.input[0]))
            break
    return model.SerializeToString()


def _to_uint8(node: onnx.NodeProto) -> bool:
    return any(a.name == "to" and a.i == onnx.TensorProto.UINT8 for a in node.attribute)
