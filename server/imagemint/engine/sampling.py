"""Computes latents and classes as pure functions of (seed, index).

Each image uses its own part of a counter-based random stream (Salmon et al., "Parallel Random
Numbers: As Easy as 1, 2, 3", 2011). An image can therefore be computed without those before it, and
does not depend on how a run of images is divided.

The exact definition (as in docs/sampling.md; integers are unsigned, ``B = ceil(z_dim / 4)``):

- the words of seed ``s`` are the output of Philox4x64-10 with key ``[s, 0]`` for the counters 1, 2,
  3, ...: four words each. These are the words of ``numpy.random.Philox(key=[s, 0], counter=0)``,
  because NumPy increments the counter *before* it computes a block;
- image ``i`` owns the words ``[4 B i, 4 B (i + 1))`` and uses the first ``z_dim`` of them;
- ``u = ((word >> 12) + 0.5) * 2**-52``, exact in float64 and strictly inside (0, 1);
- classes come from the stream of key ``[s, 1]``, one word each;
- the bytes of sample sources come from the stream of key ``[s, 2]``. No serial depends on them;
- numbers for rejection sampling come from the stream of key ``[s, 3]``, one word each.

The words, ``u`` and uniform latents are exact, and therefore equal on every machine. Normal latents
are computed by `scipy.special.ndtri` in float64, and then rounded to float32. If the ``log`` of two
machines differs in the last of 53 bits, the 24 bits that remain differ with a probability of about
2**-28 per element. Implementations in other languages can check themselves against
tests/unit/engine/sampling_vectors.json.
"""

import enum
import math
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.random import Philox
from scipy.special import ndtr, ndtri

_WORDS_PER_BLOCK = 4
_UINT64_END = 2**64
_LATENT_STREAM = 0
_CLASS_STREAM = 1
_BYTE_STREAM = 2
_WORD_BYTES = 8
_ACCEPTANCE_STREAM = 3


class Distribution(enum.StrEnum):
    """Distribution from which every element of a latent is drawn independently."""

    NORMAL = "normal"
    """Standard normal, by inversion."""
    UNIFORM = "uniform"
    """Uniform on (-1, 1)."""


def draw_latents(
    seed: int,
    first_index: int,
    count: int,
    z_dim: int,
    *,
    distribution: Distribution = Distribution.NORMAL,
    threshold: float | None = None,
) -> npt.NDArray[np.float32]:
    """Returns the latents of the images ``first_index`` to ``first_index + count - 1`` of a seed.

    Args:
        seed: 0 to 2^64 - 1.
        first_index: 0 to 2^64 - 1.
        count: number of images, 0 or more; first_index + count at most 2^64.
        z_dim: length of one latent, 1 or more.
        distribution: distribution of every element.
        threshold: limits the elements to ±threshold (truncated normal, not clipping); above 0, only
            for normal latents. None: no truncation.

    Returns:
        float32 [count, z_dim], finite.

    Raises:
        ValueError: an argument is outside the range above.
    """
    run = Run(seed, first_index, count, threshold)
    return draw_run_latents([run], z_dim, distribution=distribution)


class Run(NamedTuple):
    """Images of one seed with consecutive indices."""

    seed: int
    """0 to 2^64 - 1."""
    first_index: int
    """0 to 2^64 - 1."""
    length: int
    """Number of images, 0 or more; first_index + length at most 2^64."""
    threshold: float | None = None
    """Threshold, as in `draw_latents`."""


def draw_run_latents(
    runs: Sequence[Run], z_dim: int, *, distribution: Distribution = Distribution.NORMAL
) -> npt.NDArray[np.float32]:
    """Returns the latents of several runs, one after the other, equal to those of `draw_latents`.

    Only the words are drawn run by run. All other computations are done once for all rows.

    Args:
        runs: the images.
        z_dim: length of one latent, 1 or more.
        distribution: of every element.

    Returns:
        float32 [n, z_dim], n the sum of the lengths; finite.

    Raises:
        ValueError: an argument is outside the range above.
    """
    if z_dim < 1:
        raise ValueError(f"z_dim must be 1 or more, not {z_dim}")
    blocks = -(-z_dim // _WORDS_PER_BLOCK)
    rows = 0
    for run in runs:
        _check_run(run.seed, run.first_index, run.length)
        rows += run.length
    width = blocks * _WORDS_PER_BLOCK
    words = np.empty(width * rows, np.uint64)
    place = 0
    for seed, first_index, length, _ in runs:
        drawn = _draw_words(seed, _LATENT_STREAM, blocks * first_index, blocks * length)
        words[place : place + len(drawn)] = drawn
        place += len(drawn)
    u = _to_unit(words.reshape(-1, width)[:, :z_dim])
    return _transform(u, distribution, _collect_thresholds(runs))


def cut_runs(runs: Sequence[Run], start: int, stop: int) -> list[Run]:
    """Returns the runs of the images ``start .. stop - 1`` of several runs."""
    parts = []
    for seed, first_index, length, threshold in runs:
        low, high = max(start, 0), min(stop, length)
        if low < high:
            parts.append(Run(seed, first_index + low, high - low, threshold))
        start, stop = start - length, stop - length
        if stop <= 0:
            break
    return parts


def group_runs(
    seeds: npt.NDArray[np.uint64],
    indices: npt.NDArray[np.uint64],
    thresholds: npt.NDArray[np.float64] | None = None,
) -> list[Run]:
    """Returns the runs of images with any seeds, indices and thresholds.

    Args:
        seeds: [n].
        indices: [n], in any order; consecutive ones of one seed form a run.
        thresholds: [n], as in `draw_latents`. None: no truncation.

    Raises:
        ValueError: the lengths differ.
    """
    return [
        Run(
            int(seeds[start]),
            int(indices[start]),
            stop - start,
            None if thresholds is None else float(thresholds[start]),
        )
        for start, stop in _find_run_ends(seeds, indices, thresholds)
    ]


def draw_classes(
    seed: int,
    first_index: int,
    count: int,
    num_classes: int,
    *,
    weights: Sequence[float] | None = None,
) -> npt.NDArray[np.int64]:
    """Draws the classes of the images ``first_index`` to ``first_index + count - 1`` of a seed.

    Args:
        seed: 0 to 2^64 - 1.
        first_index: 0 to 2^64 - 1.
        count: number of images, 0 or more; first_index + count at most 2^64.
        num_classes: number of classes K, 1 or more.
        weights: odds, one finite number of 0 or more for each class, their sum above 0; the class
            is the first one whose cumulative share exceeds ``u``. None: equal odds, ``floor(u K)``.

    Returns:
        int64 [count], each 0 to K - 1.

    Raises:
        ValueError: an argument is outside the range above.
    """
    _check_run(seed, first_index, count)
    if num_classes < 1:
        raise ValueError(f"num_classes must be 1 or more, not {num_classes}")
    u = _to_unit(_draw_single_words(seed, _CLASS_STREAM, first_index, count))
    if weights is None:
        # u <= 1 - 2^-53, and K (1 - 2^-53) rounds to a float64 below K for every K < 2^53.
        return (u * num_classes).astype(np.int64)
    return np.searchsorted(_accumulate_weights(weights, num_classes), u, side="right").astype(
        np.int64
    )


def draw_class(seed: int, index: int, num_classes: int) -> int:
    """Draws the class of one image. It is a faster `draw_classes` without weights.

    Args:
        seed: 0 to 2^64 - 1.
        index: 0 to 2^64 - 1.
        num_classes: number of classes K, 1 or more.

    Raises:
        ValueError: an argument is outside the range above.
    """
    _check_run(seed, index, 1)
    if num_classes < 1:
        raise ValueError(f"num_classes must be 1 or more, not {num_classes}")
    block, place = divmod(index, _WORDS_PER_BLOCK)
    # The same float64 operations as in `_to_unit`, one by one.
    return int(((_draw_class_words(seed, block)[place] >> 12) + 0.5) * 2.0**-52 * num_classes)


def draw_classes_at(
    seeds: npt.NDArray[np.uint64], indices: npt.NDArray[np.uint64], num_classes: int
) -> npt.NDArray[np.int64]:
    """Draws the classes of images with any seeds and indices; see `draw_classes`.

    Args:
        seeds: [n].
        indices: [n], in any order.
        num_classes: number of classes K, 1 or more.

    Returns:
        int64 [n], each 0 to K - 1.

    Raises:
        ValueError: an argument is outside the range above.
    """
    classes = np.empty(len(seeds), np.int64)
    for start, stop in _find_run_ends(seeds, indices):
        classes[start:stop] = draw_classes(
            int(seeds[start]), int(indices[start]), stop - start, num_classes
        )
    return classes


def draw_bytes(seed: int, first_index: int, count: int, size: int) -> npt.NDArray[np.uint8]:
    """Draws uniform random bytes uint8 [count, size], such as sample sources of translators.

    Args:
        seed: 0 to 2^64 - 1.
        first_index: 0 to 2^64 - 1.
        count: number of images, 0 or more; first_index + count at most 2^64.
        size: number of bytes of one image, 1 or more.

    Raises:
        ValueError: an argument is outside the range above.
    """
    _check_run(seed, first_index, count)
    if size < 1:
        raise ValueError(f"size must be 1 or more, not {size}")
    blocks = -(-size // (_WORDS_PER_BLOCK * _WORD_BYTES))
    words = _draw_words(seed, _BYTE_STREAM, blocks * first_index, blocks * count)
    drawn = words.astype("<u8", copy=False).view(np.uint8)
    row = blocks * _WORDS_PER_BLOCK * _WORD_BYTES
    return np.ascontiguousarray(drawn.reshape(count, row)[:, :size])


def draw_acceptance_numbers(seed: int, indices: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Draws the numbers with which rejection sampling decides whether it accepts an image.

    Args:
        seed: 0 to 2^64 - 1.
        indices: [n], in any order.

    Returns:
        float64 [n], each strictly inside (0, 1).
    """
    words = np.empty(len(indices), np.uint64)
    for start, stop in _find_run_ends(np.full(len(indices), seed, np.uint64), indices):
        first = int(indices[start])
        words[start:stop] = _draw_single_words(seed, _ACCEPTANCE_STREAM, first, stop - start)
    return _to_unit(words)


@lru_cache(maxsize=1_024)
def _draw_class_words(seed: int, block: int) -> tuple[int, ...]:
    """Returns the words of a block of four indices.

    The cache speeds up requests for consecutive images.
    """
    return tuple(_draw_words(seed, _CLASS_STREAM, block, 1).tolist())


def _find_run_ends(
    seeds: npt.NDArray[np.uint64],
    indices: npt.NDArray[np.uint64],
    thresholds: npt.NDArray[np.float64] | None = None,
) -> Iterator[tuple[int, int]]:
    """Yields start and stop of each run with consecutive indices of one seed and one threshold."""
    if len(seeds) != len(indices):
        raise ValueError(f"{len(seeds)} seeds for {len(indices)} indices")
    follows = (
        (seeds[1:] == seeds[:-1])
        & (indices[1:] == indices[:-1] + np.uint64(1))
        & (indices[1:] != 0)  # the sum overflows, indices do not
    )
    if thresholds is not None:
        follows &= thresholds[1:] == thresholds[:-1]
    starts = [0, *(np.flatnonzero(~follows) + 1).tolist()] if len(seeds) else []
    return pairwise([*starts, len(seeds)])


def _collect_thresholds(runs: Sequence[Run]) -> float | npt.NDArray[np.float64] | None:
    """Returns one threshold for all runs, or [n, 1], which is infinite for no truncation."""
    found = {run.threshold for run in runs}
    for threshold in found:
        if threshold is not None and not (threshold > 0 and math.isfinite(threshold)):
            raise ValueError(f"threshold must be finite and above 0, not {threshold}")
    if len(found) <= 1:
        return next(iter(found), None)
    each = [math.inf if run.threshold is None else run.threshold for run in runs]
    return np.repeat(each, [run.length for run in runs])[:, np.newaxis]


def _transform(
    u: npt.NDArray[np.float64],
    distribution: Distribution,
    threshold: float | npt.NDArray[np.float64] | None,
) -> npt.NDArray[np.float32]:
    """Returns latents from uniform numbers [n, z_dim]; the threshold is one number, or [n, 1]."""
    if distribution is Distribution.UNIFORM:
        if threshold is not None:
            raise ValueError("uniform latents take no threshold")
        return (2.0 * u - 1.0).astype(np.float32)
    if threshold is None:
        return ndtri(u).astype(np.float32)
    return _to_truncated_normal(u, threshold).astype(np.float32)


def _draw_single_words(
    seed: int, stream: int, first_index: int, count: int
) -> npt.NDArray[np.uint64]:
    """Returns the raw words [count] of a stream with one word for each index."""
    block, skip = divmod(first_index, _WORDS_PER_BLOCK)
    blocks = -(-(skip + count) // _WORDS_PER_BLOCK)
    return _draw_words(seed, stream, block, blocks)[skip : skip + count]


def _draw_words(seed: int, stream: int, first_block: int, blocks: int) -> npt.NDArray[np.uint64]:
    """Returns the raw words [4 * blocks] of a stream from a block on.

    The counter consists of 64-bit words, the lowest first; it exceeds 2^64 for large indices.
    """
    philox = _generators.philox
    # NumPy accepts tuples and arrays, and reads tuples faster.
    state: Any = {
        "bit_generator": "Philox",
        "state": {
            "counter": (first_block % _UINT64_END, first_block // _UINT64_END, 0, 0),
            "key": (seed, stream),
        },
        # No words of the previous block are left.
        "buffer": (0, 0, 0, 0),
        "buffer_pos": _WORDS_PER_BLOCK,
        "has_uint32": 0,
        "uinteger": 0,
    }
    philox.state = state
    words: npt.NDArray[np.uint64] = philox.random_raw(blocks * _WORDS_PER_BLOCK)
    return words


class _Generators(threading.local):
    """A generator for each thread, whose state is set before each draw.

    Creating one takes longer than drawing a latent, because NumPy first requests a seed from the
    operating system, even if a key is given.
    """

    def __init__(self) -> None:
        self.philox = Philox(0)


_generators = _Generators()


def _to_unit(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _to_truncated_normal(
    u: npt.NDArray[np.float64], t: float | npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Returns truncated normal numbers; an infinite t does not limit them."""
    low, high = ndtr(-t), ndtr(t)
    # In exact arithmetic the clip does nothing. In float64 the sum may round up to 1 near t = 8.3,
    # whose quantile is infinite, and the last bits may exceed small thresholds.
    z: npt.NDArray[np.float64] = np.clip(ndtri(low + u * (high - low)), -t, t)
    return z


def _accumulate_weights(weights: Sequence[float], num_classes: int) -> npt.NDArray[np.float64]:
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (num_classes,):
        raise ValueError(f"{num_classes} weights are needed, one for each class, not {values.size}")
    if not np.isfinite(values).all() or (values < 0).any() or not values.any():
        raise ValueError("weights must be finite and 0 or more, and their sum above 0")
    # The weights are scaled first, so that the sum of huge weights is finite. The sums are divided
    # by the last one, so that they end at exactly 1, and each u below 1 finds a class of non-zero
    # weight.
    total: npt.NDArray[np.float64] = np.cumsum(values / values.max())
    total /= total[-1]
    return total


def _check_run(seed: int, first_index: int, count: int) -> None:
    if not 0 <= seed < _UINT64_END:
        raise ValueError(f"seed must be 0 to 2^64 - 1, not {seed}")
    if first_index < 0 or count < 0 or first_index + count > _UINT64_END:
        raise ValueError(
            f"first_index ({first_index}) and count ({count}) must be 0 or more, "
            "and their sum at most 2^64"
        )
