"""Tests of imagemint.engine.sampling against published vectors and a second Philox."""

import itertools
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri

from imagemint.engine.sampling import (
    Distribution,
    Run,
    _to_unit,
    draw_classes,
    draw_classes_at,
    draw_latents,
    draw_run_latents,
    group_runs,
)

VECTORS = json.loads(Path(__file__).with_name("sampling_vectors.json").read_text())
UINT64_MAX = 2**64 - 1

uint64 = st.integers(0, UINT64_MAX)


def compute_philox4x64_10(counter, key):
    """Returns one block of four words, by Salmon et al. (2011), section 4.2."""
    mask = UINT64_MAX
    x0, x1, x2, x3 = ((counter >> 64 * word) & mask for word in range(4))
    k0, k1 = key
    for _ in range(10):
        product0, product1 = 0xD2E7470EE14C6C93 * x0, 0xCA5A826395121157 * x2
        x0, x1, x2, x3 = (
            (product1 >> 64) ^ x1 ^ k0,
            product1 & mask,
            (product0 >> 64) ^ x3 ^ k1,
            product0 & mask,
        )
        k0 = (k0 + 0x9E3779B97F4A7C15) & mask
        k1 = (k1 + 0xBB67AE8584CAA73B) & mask
    return [x0, x1, x2, x3]


def compute_reference_words(seed, stream, first, count):
    """Returns words first .. first + count - 1 of a stream.

    Block b is computed from the counter b + 1.
    """
    blocks = range(first // 4, -(-(first + count) // 4))
    words = [word for block in blocks for word in compute_philox4x64_10(block + 1, (seed, stream))]
    return words[first % 4 : first % 4 + count]


def test_reference_philox_gives_known_answers():
    """The Philox of this file gives two known answers of the Random123 distribution."""
    assert compute_philox4x64_10(0, (0, 0)) == [
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    ]
    assert compute_philox4x64_10(2**256 - 1, (UINT64_MAX, UINT64_MAX)) == [
        0x87B092C3013FE90B,
        0x438C3C67BE8D0224,
        0x9CC7D7C69CD777B6,
        0xA09CAEBF594F0BA0,
    ]


@pytest.mark.parametrize("vector", VECTORS["latents"], ids=lambda v: v["name"])
def test_latents_match_the_vectors(vector):
    """Every published vector is reproduced bit for bit: words, u and latents."""
    seed, index, z_dim = int(vector["seed"]), int(vector["index"]), vector["z_dim"]
    words = compute_reference_words(seed, 0, 4 * math.ceil(z_dim / 4) * index, z_dim)
    z = draw_latents(
        seed,
        index,
        1,
        z_dim,
        distribution=Distribution(vector["distribution"]),
        threshold=vector["threshold"],
    )

    assert [f"{word:016x}" for word in words] == vector["words"]
    assert [x.hex() for x in _to_unit(np.array(words, dtype=np.uint64)).tolist()] == vector["u"]
    assert [x.hex() for x in z[0].astype(np.float64).tolist()] == vector["latent"]


@pytest.mark.parametrize("vector", VECTORS["classes"], ids=lambda v: v["name"])
def test_classes_match_the_vectors(vector):
    """The published classes are reproduced."""
    drawn = draw_classes(
        int(vector["seed"]),
        int(vector["first_index"]),
        len(vector["class_ids"]),
        vector["num_classes"],
        weights=vector["weights"],
    )
    assert drawn.tolist() == vector["class_ids"]


@pytest.mark.parametrize("vector", VECTORS["examples"], ids=lambda v: v["name"])
def test_drawn_captions_match_the_vectors(vector):
    """The published captions are drawn from the examples as classes are."""
    examples = vector["examples"]
    drawn = draw_classes(
        int(vector["seed"]), int(vector["first_index"]), len(vector["captions"]), len(examples)
    )
    assert [examples[number] for number in drawn] == vector["captions"]


@given(seed=uint64, index=uint64, z_dim=st.integers(1, 70))
def test_latents_are_computed_from_philox_words(seed, index, z_dim):
    """Uniform latents are an invertible function of the words and use the words of their image."""
    words = compute_reference_words(seed, 0, 4 * math.ceil(z_dim / 4) * index, z_dim)
    expected = [np.float32(((word >> 12) + 0.5) * 2.0**-51 - 1.0) for word in words]
    z = draw_latents(seed, index, 1, z_dim, distribution=Distribution.UNIFORM)
    assert z.shape == (1, z_dim)
    assert z[0].tolist() == expected


@given(seed=uint64, index=uint64, num_classes=st.integers(1, 1000))
def test_classes_are_computed_from_philox_words(seed, index, num_classes):
    """Class i comes from word i of the class stream, wherever the word is in its block."""
    (word,) = compute_reference_words(seed, 1, index, 1)
    expected = math.floor(((word >> 12) + 0.5) * 2.0**-52 * num_classes)
    assert draw_classes(seed, index, 1, num_classes).tolist() == [expected]


@given(
    seed=uint64,
    first=st.integers(0, UINT64_MAX - 40),
    cuts=st.lists(st.integers(0, 40), max_size=5),
    z_dim=st.integers(1, 20),
    threshold=st.none() | st.floats(0.01, 5),
)
def test_parts_of_a_run_equal_the_whole(seed, first, cuts, z_dim, threshold):
    """A run of indices has the same latents and classes when it is computed in parts."""
    edges = [0, *sorted(cuts), 40]
    pieces = [(first + a, b - a) for a, b in itertools.pairwise(edges)]
    whole = draw_latents(seed, first, 40, z_dim, threshold=threshold)
    cut = [draw_latents(seed, start, n, z_dim, threshold=threshold) for start, n in pieces]
    assert np.concatenate(cut).tobytes() == whole.tobytes()
    drawn = np.concatenate([draw_classes(seed, start, n, 10) for start, n in pieces])
    assert drawn.tolist() == draw_classes(seed, first, 40, 10).tolist()


@given(seed=uint64, index=uint64, threshold=st.floats(1e-6, 40))
def test_truncated_latents_are_within_the_threshold(seed, index, threshold):
    """Truncated latents are finite and within the threshold, except for float32 rounding."""
    z = draw_latents(seed, index, 1, 64, threshold=threshold)
    assert np.isfinite(z).all()
    assert np.abs(z).max() <= np.float32(threshold)


@pytest.mark.parametrize("word", [0, UINT64_MAX])
@pytest.mark.parametrize("threshold", [None, 0.5, 8.3, 40.0])
def test_extreme_words_give_finite_latents(monkeypatch, word, threshold):
    """The smallest and the largest word give finite latents and a class in range."""
    monkeypatch.setattr(
        "imagemint.engine.sampling._draw_words", lambda *_: np.full(4, word, dtype=np.uint64)
    )
    z = draw_latents(0, 0, 1, 4, threshold=threshold)
    assert np.isfinite(z).all()
    assert np.sign(z[0, 0]) == (1 if word else -1)
    for num_classes in (1, 3, 10, 1000, 2**20 + 1):
        assert draw_classes(0, 0, 1, num_classes)[0] == (num_classes - 1 if word else 0)


def test_threshold_truncates_rather_than_clips():
    """A truncated latent is the quantile of the truncated normal distribution at the same u."""
    u = ndtr(draw_latents(1, 0, 50, 8).astype(np.float64))
    expected = ndtri(ndtr(-1.5) + u * (ndtr(1.5) - ndtr(-1.5)))
    np.testing.assert_allclose(draw_latents(1, 0, 50, 8, threshold=1.5), expected, atol=1e-5)


def test_latents_are_standard_normal():
    """A million latents have the moments of N(0, 1), and seeds do not share latents."""
    z = draw_latents(3, 0, 10_000, 100)
    assert abs(z.mean()) < 0.005
    assert abs(z.std() - 1) < 0.005
    assert not np.isin(draw_latents(4, 0, 10, 100), z[:10]).any()


@given(
    seed=uint64,
    index=uint64,
    weights=st.lists(st.floats(0, allow_infinity=False), min_size=1, max_size=12).filter(any),
)
def test_class_of_weight_zero_is_never_drawn(seed, index, weights):
    """A drawn class is in range and has a positive weight."""
    (drawn,) = draw_classes(seed, index, 1, len(weights), weights=weights)
    assert weights[drawn] > 0


def test_classes_are_drawn_by_weight():
    """Classes occur in proportion to their weights."""
    drawn = draw_classes(9, 0, 40_000, 4, weights=[1, 0, 3, 4])
    shares = np.bincount(drawn, minlength=4) / 40_000
    np.testing.assert_allclose(shares, [0.125, 0, 0.375, 0.5], atol=0.01)


def test_empty_run_has_no_latents():
    """A count of 0 gives no rows, even at the last index of a seed."""
    assert draw_latents(0, 2**64, 0, 8).shape == (0, 8)
    assert draw_classes(0, 2**64, 0, 10).shape == (0,)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: draw_latents(-1, 0, 1, 8), "seed"),
        (lambda: draw_latents(2**64, 0, 1, 8), "seed"),
        (lambda: draw_latents(0, -1, 1, 8), "first_index"),
        (lambda: draw_latents(0, UINT64_MAX, 2, 8), "first_index"),
        (lambda: draw_latents(0, 0, -1, 8), "count"),
        (lambda: draw_latents(0, 0, 1, 0), "z_dim"),
        (lambda: draw_latents(0, 0, 1, 8, threshold=0.0), "threshold"),
        (lambda: draw_latents(0, 0, 1, 8, threshold=math.nan), "threshold"),
        (lambda: draw_latents(0, 0, 1, 8, threshold=math.inf), "threshold"),
        (
            lambda: draw_latents(0, 0, 1, 8, threshold=1.0, distribution=Distribution.UNIFORM),
            "threshold",
        ),
        (lambda: draw_classes(0, 0, 1, 0), "num_classes"),
        (lambda: draw_classes(0, 0, 1, 2, weights=[1.0]), "weights"),
        (lambda: draw_classes(0, 0, 1, 2, weights=[0.0, 0.0]), "weights"),
        (lambda: draw_classes(0, 0, 1, 2, weights=[-1.0, 2.0]), "weights"),
        (lambda: draw_classes(0, 0, 1, 2, weights=[1.0, math.nan]), "weights"),
    ],
)
def test_bad_arguments_are_named(call, said):
    """The error names the argument that is out of range."""
    with pytest.raises(ValueError, match=said):
        call()


# Adjacent, distant and repeated indices, and both ends of a seed's range (which do not wrap).
places = st.lists(
    st.tuples(
        st.sampled_from([0, 7, UINT64_MAX]),
        st.sampled_from([0, 1, 2, 3, 9, UINT64_MAX - 1, UINT64_MAX]),
    ),
    max_size=12,
)


@given(places, st.sampled_from([1, 4, 6]), st.sampled_from([None, 0.5]))
def test_scattered_latents_equal_single_ones(rows, z_dim, threshold):
    """Rows in any order get the latents that each has in a run, bit for bit."""
    seeds, indices = np.array(rows, np.uint64).reshape(-1, 2).T
    thresholds = None if threshold is None else np.full(len(rows), threshold)
    together = draw_run_latents(group_runs(seeds, indices, thresholds), z_dim)
    assert together.dtype == np.float32
    assert together.shape == (len(rows), z_dim)
    for row, (seed, index) in zip(together, rows, strict=True):
        alone = draw_latents(seed, index, 1, z_dim, threshold=threshold)[0]
        assert row.tobytes() == alone.tobytes()


def test_each_run_has_its_own_threshold():
    """Adjacent images of one seed may have different thresholds."""
    rows = np.array([5, 5], np.uint64), np.array([1, 2], np.uint64)
    together = draw_run_latents(group_runs(*rows, np.array([0.25, 2.0])), 4)
    assert together[0].tobytes() == draw_latents(5, 1, 1, 4, threshold=0.25).tobytes()
    assert together[1].tobytes() == draw_latents(5, 2, 1, 4, threshold=2.0).tobytes()


def test_threshold_of_a_run_does_not_affect_others():
    """Runs without a threshold keep their bits next to truncated runs."""
    runs = [Run(5, 1, 3), Run(6, 0, 2, 0.5), Run(7, 9, 0), Run(7, 2**64 - 2, 2, 8.5), Run(5, 8, 1)]
    together = draw_run_latents(runs, 6)
    alone = [draw_latents(r.seed, r.first_index, r.length, 6, threshold=r.threshold) for r in runs]
    assert together.tobytes() == np.concatenate(alone).tobytes()


def test_no_runs_give_no_latents():
    """An empty list of runs gives no rows."""
    assert draw_run_latents([], 6).shape == (0, 6)


def test_scattered_latents_follow_the_distribution():
    """Latents of several runs may be uniform."""
    rows = np.array([5, 6], np.uint64), np.array([1, 2], np.uint64)
    together = draw_run_latents(group_runs(*rows), 4, distribution=Distribution.UNIFORM)
    alone = draw_latents(6, 2, 1, 4, distribution=Distribution.UNIFORM)
    assert together[1].tobytes() == alone.tobytes()


@pytest.mark.parametrize(
    ("seeds", "z_dim", "threshold"), [([1, 2], 0, 1.0), ([1], 4, 1.0), ([1, 2], 4, np.nan)]
)
def test_scattered_latents_with_bad_arguments_are_refused(seeds, z_dim, threshold):
    """A z_dim of 0, unequal lengths or a NaN threshold raise ValueError."""
    indices = np.array([1, 2], np.uint64)
    thresholds = np.array([1.0, threshold])
    with pytest.raises(ValueError, match=r"must be|for 2 indices"):
        draw_run_latents(group_runs(np.array(seeds, np.uint64), indices, thresholds), z_dim)


@given(places)
def test_scattered_classes_equal_those_of_runs(rows):
    """Rows in any order get the class that each has in a run."""
    seeds, indices = np.array(rows, np.uint64).reshape(-1, 2).T
    together = draw_classes_at(seeds, indices, 10)
    alone = [draw_classes(seed, index, 1, 10)[0] for seed, index in rows]
    assert together.tolist() == alone


def test_last_and_first_index_are_no_run():
    """Index 0 does not follow 2^64 - 1."""
    runs = group_runs(np.zeros(2, np.uint64), np.array([UINT64_MAX, 0], np.uint64))
    assert runs == [Run(0, UINT64_MAX, 1), Run(0, 0, 1)]


def test_threads_draw_their_own_latents():
    """Draws on several threads at once do not affect each other."""

    def draw(seed):
        return draw_latents(seed, 0, 20_000, 8).tobytes()

    expected = [draw(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(10):
            assert list(threads.map(draw, range(4))) == expected
