"""Probes, when a bundle is loaded, whether the pixels of a row depend on its batch.

Comparing pixels would be too weak: a difference in the last bits of a float moves a rounded pixel
once in thousands, so a probe of affordable size would pass and a million images would not. The
probe therefore looks at the floats just before they are rounded.

A row can depend on the size of its batch, on its place in it, and on the values of the other rows.
For the last case, the probe puts very different rows beside it; if the row changes, only batches of
one row are safe.

The probe of a bundle computes seven to twelve rows for each row of its largest batch: that batch,
three mixtures of it, batches of other sizes, rows alone, and each size that a session on several
cores runs. No result is computed twice. Fewer rows would leave a size, a place or a kind of
neighbour untried. `backend` limits the work of slow models by a smaller largest batch instead.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from imagemint.engine.batch import Feed, count_rows, draw_batch, select_rows
from imagemint.engine.bundle.findings import FIXED_BATCH, Batching
from imagemint.engine.spec import ModelSpec

PROBE_ROWS = 64
"""Rows of one probe, and of the largest batch that is run where batches run as they come."""

ALONE_ROWS = 8
"""Rows of the largest batch that is spread over cores when it is alone."""

_SEED = 0
# Single rows are the most likely to differ, but because of their values, not their place: a few are
# enough.
_LONE_ROWS = 16
# Small batches, and sizes next to the tiles of vector kernels, which have 4, 8 and 16 rows.
_SIZES = (2, 3, 5, 8, 13, 17, 31, 47)
THOROUGH_BATCHES = 8
"""Batches of the probe of a graph with sums across a row."""
# Latents of these sizes change the scales, extremes and statistics of a batch.
_DIFFERENT_SCALES = np.array([0.0, 1e-3, 30.0, 1e4], np.float32)


def make_probe_feeds(spec: ModelSpec, count: int = PROBE_ROWS) -> list[Feed]:
    """Returns one `make_probe_feed` for each size of source to probe, the largest first."""
    source = spec.source
    if source is None or not source.is_free:
        return [make_probe_feed(spec, count)]
    sizes = [(source.height, source.width), source.sample_size, (source.step, source.step)]
    return [make_probe_feed(spec, count, size) for size in dict.fromkeys(sizes)]


def make_probe_feed(
    spec: ModelSpec, count: int = PROBE_ROWS, source_size: tuple[int, int] | None = None
) -> Feed:
    """Returns input rows that cover classes or captions and the whole range of truncation.

    Args:
        spec: the model.
        count: number of rows.
        source_size: as in `draw_batch`.
    """
    feed = draw_batch(spec, _SEED, 0, count, source_size).make_feed(spec.inputs)
    if spec.takes_psi and spec.truncation is not None:
        low, high = spec.truncation.minimum, spec.truncation.maximum
        feed["truncation"] = np.linspace(low, high, count, dtype=np.float32)[:, np.newaxis]
    return feed


# From the cheapest measure to the most expensive one.
_MEASURES = (Batching.AS_THEY_COME, Batching.NEVER_ALONE, Batching.FIXED, Batching.ALONE)


def find_needed_batching(
    compute: Callable[[Feed], npt.NDArray[Any]],
    feed: Feed,
    first: npt.NDArray[Any],
    most_rows: int = PROBE_ROWS,
    *,
    thorough: bool = False,
) -> Batching:
    """Returns the cheapest batching under which the rows of the probe do not change.

    Args:
        compute: runs a batch and returns what is compared, the batch along the first axis.
        feed: result of `make_probe_feed`; its number of rows is a multiple of `most_rows`.
        first: result of `compute` for the first `most_rows` rows.
        most_rows: rows of the largest batch. If it is below `FIXED_BATCH`, a graph that needs fixed
            batches is run one row at a time.
        thorough: whether to try each row in every way.
    """

    def probe(start: int) -> Batching:
        batch = select_rows(feed, start, start + most_rows)
        expected = compute(batch) if start else first
        return _find_needed(compute, batch, expected, thorough=thorough)

    found = choose_strictest_batching(map(probe, range(0, count_rows(feed), most_rows)))
    return Batching.ALONE if found is Batching.FIXED and most_rows < FIXED_BATCH else found


def choose_strictest_batching(needed: Iterable[Batching]) -> Batching:
    """Returns the batching that satisfies all needs."""
    return max(needed, key=_MEASURES.index)


def _find_needed(
    compute: Callable[[Feed], npt.NDArray[Any]],
    feed: Feed,
    expected: npt.NDArray[Any],
    *,
    thorough: bool,
) -> Batching:
    count = count_rows(feed)

    def is_same(start: int, stop: int) -> bool:
        return compute(select_rows(feed, start, stop)).tobytes() == expected[start:stop].tobytes()

    for shift in (1, 3) if thorough else ():
        moved = _move(feed, shift)
        if compute(moved).tobytes() != np.roll(expected, shift, axis=0).tobytes():
            return Batching.ALONE
    # Each row gets another place and other rows beside it in the same runs: a difference has the
    # same consequence, whichever of the two causes it.
    shift = max(1, count // 3)
    if looks_at_others(compute, _move(feed, shift), np.roll(expected, shift, axis=0)):
        return Batching.ALONE
    # Ranges that start further in also move rows to other places within their batch.
    sizes = [size for size in _SIZES if size < count]
    starts = {
        size: range(min(size // 2, count - size), count - size + 1, size)[: None if thorough else 1]
        for size in sizes
    }
    if not all(is_same(start, start + size) for size in sizes for start in starts[size]):
        return Batching.FIXED
    if not all(
        is_same(row, row + 1) for row in range(count if thorough else min(count, _LONE_ROWS))
    ):
        return Batching.NEVER_ALONE
    return Batching.AS_THEY_COME


def looks_at_others(
    compute: Callable[[Feed], npt.NDArray[Any]], feed: Feed, expected: npt.NDArray[Any]
) -> bool:
    """Returns whether rows change when very different rows replace the rest of their batch.

    Args:
        compute: as `find_needed_batching`.
        feed: a batch.
        expected: the results that its rows must have.
    """
    place = np.arange(len(expected))
    # A batch is padded with its first row, so test that, too.
    for kept, others in (
        (place % 2 == 0, _make_different_rows(feed)),
        (place % 2 == 1, _make_different_rows(feed)),
        (place % 3 == 0, {name: np.repeat(v[:1], len(v), axis=0) for name, v in feed.items()}),
    ):
        mixed = {name: value.copy() for name, value in feed.items()}
        for name, value in mixed.items():
            value[~kept] = others[name][~kept]
        if compute(mixed)[kept].tobytes() != expected[kept].tobytes():
            return True
    return False


def _move(feed: Feed, shift: int) -> Feed:
    """Returns the rows of a batch, each by `shift` places further on."""
    return {name: np.roll(value, shift, axis=0) for name, value in feed.items()}


def _make_different_rows(feed: Feed) -> Feed:
    """Returns rows that differ from those of a batch in conditions, scales and extremes."""
    different = {name: np.roll(value, 1, axis=0) for name, value in feed.items()}
    # Change every second row, so that each kind is beside the rows that are kept.
    kinds = np.arange(count_rows(feed)) // 2 % len(_DIFFERENT_SCALES)
    if "z" in different:
        different["z"] = different["z"] * _DIFFERENT_SCALES[kinds][:, np.newaxis]
    if "source" in different:
        different["source"][kinds == 0] = 0
        different["source"][kinds == 1] = 255
    return different


def is_same_everywhere(
    compute: Callable[[Feed], npt.NDArray[Any]],
    other: Callable[[Feed], npt.NDArray[Any]],
    feed: Feed,
    first: npt.NDArray[Any],
    most_rows: int = PROBE_ROWS,
) -> bool:
    """Returns whether another session gives the same floats, in batches of 1 to `ALONE_ROWS`.

    It tries all of these sizes, because the session will run no others.

    Args:
        compute: as in `find_needed_batching`, which found that batches of any size are safe.
        other: the same for the other session.
        feed: result of `make_probe_feed`.
        first: result of `compute` for the first `most_rows` rows.
        most_rows: rows of the largest batch, for both sessions.
    """
    count = min(count_rows(feed), 2 * ALONE_ROWS)
    more = [
        compute(select_rows(feed, at, min(at + most_rows, count)))
        for at in range(most_rows, count, most_rows)
    ]
    expected = np.concatenate([first, *more])

    def is_same(start: int, stop: int) -> bool:
        return other(select_rows(feed, start, stop)).tobytes() == expected[start:stop].tobytes()

    largest = min(ALONE_ROWS, most_rows, count)
    ranges = [(min(size, count - size), size) for size in range(2, largest + 1)]
    ranges = [(start, start + size) for start, size in ranges]
    ranges += [(row, row + 1) for row in range(min(_LONE_ROWS, count))]
    return all(is_same(*row_range) for row_range in ranges)


def find_agreeing_buckets(
    compute: Callable[[Feed], npt.NDArray[Any]], feed: Feed, buckets: Sequence[int]
) -> tuple[int, ...]:
    """Returns the buckets in which a row has the same floats as in the largest one, at any place.

    Every size is tested, because no others are run. If rows differ even within the largest bucket,
    the result is (1,): only single rows are safe.

    Args:
        compute: as `find_needed_batching`.
        feed: result of `make_probe_feed`, with as many rows as the largest bucket.
        buckets: the sizes of the buckets.
    """
    largest = max(buckets)
    expected = compute(feed)
    for shift in {1, largest // 3, largest // 2} - {0}:
        moved = _move(feed, shift)
        if compute(moved).tobytes() != np.roll(expected, shift, axis=0).tobytes():
            return (1,)
    if looks_at_others(compute, feed, expected):
        return (1,)

    def agrees(size: int) -> bool:
        starts = {0, (largest - size) // 2, largest - size}
        starts.update(range(min(_LONE_ROWS, largest - size)) if size == 1 else ())
        return all(
            compute(select_rows(feed, start, start + size)).tobytes()
            == expected[start : start + size].tobytes()
            for start in starts
        )

    return (*(size for size in sorted(set(buckets)) if size < largest and agrees(size)), largest)
