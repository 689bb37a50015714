"""Tests of imagemint.training.metrics against closed forms."""

from dataclasses import astuple
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from imagemint.training.errors import DatasetError
from imagemint.training.metrics import (
    chance_code_accuracy,
    class_accuracy,
    class_coverage,
    code_class_accuracy,
    compute_neighbour_radii,
    count_modes,
    coverage,
    find_nearest_neighbours,
    frechet_distance,
    inception_score,
    kernel_distance,
    measure_neighbourhoods,
    mode_floor,
    mode_score,
    nearest_spread,
    perfect_sampler_floor,
    reverse_kl,
    two_sample_accuracy,
    within_class_variety,
)
from imagemint.training.metrics import distances as distance_module
from imagemint.training.metrics import neighbours as neighbour_module


def make_noise(count, dimensions, seed=0):
    """Returns points [count, dimensions] of a standard normal distribution."""
    return np.random.Generator(np.random.Philox(key=[seed, 0])).normal(size=(count, dimensions))


def make_whitened(count, dimensions):
    """Returns points whose mean is exactly zero and whose covariance is exactly the identity."""
    x = make_noise(count, dimensions)
    x -= x.mean(axis=0)
    return x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T


def test_frechet_distance_of_diagonal_gaussians():
    """The distance of diagonal Gaussians is |m - n|^2 plus the sum of (s - t)^2."""
    x, s, t = make_whitened(500, 3), np.array([1.0, 2.0, 0.5]), np.array([3.0, 2.0, 1.0])
    shift = np.array([1.0, -2.0, 0.0])
    expected = np.square(shift).sum() + np.square(s - t).sum()
    assert frechet_distance(x * s, x * t + shift) == pytest.approx(expected)


def test_frechet_distance_of_correlated_gaussians():
    """If covariances do not commute, the distance uses a general matrix square root."""
    a, b = (
        make_noise(300, 4) @ make_noise(4, 4, seed=1),
        make_noise(300, 4, seed=2) @ make_noise(4, 4, seed=3),
    )
    of_a, of_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    shift = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    expected = shift + np.trace(of_a + of_b - 2 * sqrtm(of_a @ of_b).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_equal_sets_is_zero():
    """The distance of a set from itself is zero and never negative."""
    a = make_noise(200, 5)
    assert 0 <= frechet_distance(a, a) < 1e-9


def test_frechet_distance_ignores_constant_features():
    """Features that are always zero, as after ReLU, add nothing and cause no error."""
    x, dead = make_whitened(500, 2), np.zeros((500, 3))
    a, b = np.hstack([x, dead]), np.hstack([3 * x, dead])
    assert frechet_distance(a, b) == pytest.approx(2 * (3 - 1) ** 2)


def test_neighbour_radii_exclude_the_point():
    """On a line of integers the second neighbour is 1 away inside and 2 at the ends."""
    line = np.arange(5.0)[:, np.newaxis]
    assert compute_neighbour_radii(line, 2).tolist() == [2, 1, 1, 1, 2]


def test_coverage_of_equal_sets_is_one():
    """A set covers itself completely."""
    real = make_noise(700, 8)
    assert coverage(real, real) == 1.0


def test_coverage_of_distant_sets_is_zero():
    """Distant points cover nothing."""
    assert coverage(make_noise(50, 3), make_noise(50, 3) + 100) == 0.0


def test_coverage_counts_real_points():
    """A generated point covers the real points in whose open ball it is."""
    real = np.array([[0.0], [1.0], [2.0], [50.0], [51.0], [52.0]])
    assert coverage(real, np.array([[0.5]]), k=1) == pytest.approx(2 / 6)
    assert coverage(real, np.array([[3.0]]), k=1) == 0.0


def test_nearest_distances_are_euclidean():
    """Chunks give the distances of an independent routine, and a copy is at exactly 0."""
    points, others = (
        np.round(128 * make_noise(1_100, 16)),
        np.round(128 * make_noise(90, 16, seed=5)),
    )
    others[7] = points[1_050]
    found, rows = find_nearest_neighbours(points, others)
    assert found == pytest.approx(cdist(points, others).min(axis=1))
    assert (found[1_050], rows[1_050]) == (0, 7)


def test_accuracy_has_the_worst_class():
    """The mean is over images, and the worst value is over classes."""
    asked = np.array([0, 0, 0, 0, 1, 1])
    found = class_accuracy(asked, np.array([0, 0, 0, 0, 1, 0]))
    assert (found.mean, found.worst, found.worst_class) == (pytest.approx(5 / 6), 0.5, 1)


def test_frechet_distance_equals_that_of_torchmetrics():
    """For regular covariances the distance equals that of torchmetrics."""
    a, b = make_noise(400, 6) @ make_noise(6, 6, seed=1), make_noise(300, 6, seed=2) + 0.3
    space = torch.nn.Identity()
    space.num_features = 6
    reference = FrechetInceptionDistance(feature=space).set_dtype(torch.float64)
    reference.update(torch.from_numpy(a), real=True)
    reference.update(torch.from_numpy(b), real=False)
    assert frechet_distance(a, b) == pytest.approx(float(reference.compute()), rel=1e-6)


def test_kernel_distance_is_unbiased():
    """For samples of one distribution, the estimate is negative about as often as positive."""
    found = [
        kernel_distance(make_noise(120, 4, seed), make_noise(120, 4, 50 + seed))
        for seed in range(12)
    ]
    assert min(found) < 0 < max(found)
    assert np.mean(found) == pytest.approx(0, abs=0.02)


def test_kernel_distance_of_points_is_exact():
    """With all points in each subset, the distance is the closed form of the unbiased estimate."""
    a, b = make_noise(5, 3), make_noise(5, 3, seed=1) + 1
    x, y, xy = (((p @ q.T) / 3 + 1) ** 3 for p, q in ((a, a), (b, b), (a, b)))
    off = ~np.eye(5, dtype=bool)
    expected = x[off].mean() + y[off].mean() - 2 * xy.mean()
    assert kernel_distance(a, b) == pytest.approx(expected)


def test_nearest_neighbours_have_row_numbers():
    """The result has the row of the neighbour next to the distance."""
    distances, rows = find_nearest_neighbours(np.array([[0.0], [9.0]]), np.array([[8.0], [1.0]]))
    assert (distances.tolist(), rows.tolist()) == ([1, 1], [1, 0])


def test_neighbourhoods_of_equal_sets():
    """A set has precision and recall 1 against itself. Its density counts each point's own ball."""
    points = make_noise(300, 4)
    found = measure_neighbourhoods(points, points)
    assert found.precision == found.recall == 1.0
    # On average k - 1 other open balls contain the point, and its own ball does.
    assert found.density == pytest.approx(1.0, abs=0.01)


def test_neighbourhoods_separate_lost_modes_from_junk():
    """Half of the modes halves recall, and half junk halves precision."""
    one, other, junk = make_noise(200, 2), make_noise(200, 2) + 100, make_noise(200, 2) - 100
    both = np.concatenate([one, other])
    lost = measure_neighbourhoods(both, np.concatenate([one, one + 1e-6]))
    assert (lost.precision, lost.recall) == (1.0, 0.5)
    mixed = measure_neighbourhoods(one, np.concatenate([one, junk]))
    assert (mixed.precision, mixed.recall) == (0.5, 1.0)
    assert mixed.density == pytest.approx(0.5, abs=0.01)


def test_two_samples_of_one_distribution_are_indistinguishable():
    """The accuracy of the nearest neighbour is about one half, also over several chunks."""
    assert two_sample_accuracy(make_noise(600, 3), make_noise(600, 3, seed=1)) == pytest.approx(
        0.5, abs=0.04
    )


def test_two_sample_accuracy_of_distant_and_copied_sets():
    """The accuracy is 1 for distant sets and 0 for a copied set."""
    points = make_noise(80, 3)
    assert two_sample_accuracy(points, points + 100) == 1.0
    assert two_sample_accuracy(points, points.copy()) == 0.0
    with pytest.raises(ValueError, match="80 and 79"):
        two_sample_accuracy(points, points[1:])


# --- comparison with independent code, on random, duplicate and degenerate features -------------


def make_degenerate(kind):
    """Returns two sets of sixty points: noise, many duplicates, one point or constant features."""
    a, b = make_noise(60, 5), make_noise(60, 5, seed=1) + 0.3
    if kind == "duplicates":
        a, b = np.repeat(a[:10], 6, axis=0), np.concatenate([a[:30], b[:30]])
    elif kind == "one point":
        a, b = np.zeros((60, 5)), np.zeros((60, 5))
    elif kind == "dead":
        a[:, 2:], b[:, 1:] = 0, 0
    return a, b


KINDS = ["noise", "duplicates", "one point", "dead"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 5])
def test_neighbourhoods_equal_their_definitions(kind, k):
    """By the papers, precision and recall include the boundary, and density and coverage do not."""
    real, fake = make_degenerate(kind)

    def radii(points):
        return [sorted(np.linalg.norm(points - p, axis=1))[k] for p in points]

    apart = np.array([[np.linalg.norm(r - f) for f in fake] for r in real])
    of_real, of_fake = np.array(radii(real)), np.array(radii(fake))
    found = measure_neighbourhoods(real, fake, k)
    tight = 1e-9
    assert found.precision == np.mean((apart <= of_real[:, None] + tight).any(axis=0))
    assert found.recall == np.mean((apart <= of_fake[None] + tight).any(axis=1))
    inside = apart < of_real[:, None] - tight
    assert found.density == pytest.approx(inside.sum() / (k * len(fake)))
    assert coverage(real, fake, k) == inside.any(axis=1).mean()


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_of_points_change_no_figure(kind, monkeypatch):
    """Distances are computed for some points at a time, and the figures are those of all."""
    real, fake = make_degenerate(kind)

    def measure():
        radii = compute_neighbour_radii(real, 3).tolist()
        shares = astuple(measure_neighbourhoods(real, fake, 3))
        return [*radii, *shares, coverage(real, fake, 3), two_sample_accuracy(real, fake)]

    whole = measure()
    monkeypatch.setattr(neighbour_module, "_CHUNK", 12)  # a fifth of the points
    assert measure() == pytest.approx(whole)


@pytest.mark.parametrize("kind", KINDS)
def test_distances_equal_their_definitions(kind):
    """SciPy's matrix root gives the Frechet distance, and torchmetrics the kernel distance."""
    a, b = make_degenerate(kind)
    of_a, of_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    shift = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    root = sqrtm(of_a + 1e-14 * np.eye(5))
    cross = np.trace(sqrtm(root @ of_b @ root + 1e-14 * np.eye(5)).real)
    expected = shift + np.trace(of_a) + np.trace(of_b) - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-5)
    theirs = poly_mmd(torch.from_numpy(a), torch.from_numpy(b)).item()
    assert kernel_distance(a, b) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_two_sample_accuracy_equals_its_definition(kind):
    """The mean, over all points, of the share of its nearest neighbours that are of its own set."""
    a, b = make_degenerate(kind)
    points = [*a, *b]
    shares = []
    for i, point in enumerate(points):
        apart = {j: np.linalg.norm(point - other) for j, other in enumerate(points) if j != i}
        least = min(apart.values())
        nearest = [j for j, distance in apart.items() if distance <= least + 1e-9]
        shares.append(np.mean([(j < len(a)) == (i < len(a)) for j in nearest]))
    assert two_sample_accuracy(a, b) == pytest.approx(np.mean(shares))


@pytest.mark.parametrize("kind", KINDS)
def test_nearest_neighbours_equal_those_of_a_tree(kind):
    """Distances are those of SciPy's tree, and each row has its distance."""
    a, b = make_degenerate(kind)
    distances, rows = find_nearest_neighbours(a, b)
    # A root of squares that cancel is exact to 1e-7 only.
    assert distances == pytest.approx(KDTree(b).query(a)[0], abs=1e-6)
    assert distances == pytest.approx(np.linalg.norm(a - b[rows], axis=1), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_class_coverage_equals_its_definition(kind):
    """Coverage by class uses the first points of the larger side. Classes of few do not count."""
    real, fake = make_degenerate(kind)
    real_classes, fake_classes = np.resize([0, 1, 1], 60), np.resize([0, 0, 1], 60)
    real_classes[3:7], fake_classes[:4], fake_classes[4] = 4, 4, 3
    found, shares = class_coverage(fake, fake_classes, real, real_classes, k=4), []
    for y, size in ((0, 18), (1, 19)):
        ours, theirs = fake[fake_classes == y][:size], real[real_classes == y][:size]
        radii = [sorted(np.linalg.norm(theirs - p, axis=1))[4] for p in theirs]
        inside = [
            any(np.linalg.norm(p - q) < radius - 1e-9 for q in ours)
            for p, radius in zip(theirs, radii, strict=True)
        ]
        shares.append(np.mean(inside))
    assert found.mean == pytest.approx(np.mean(shares))
    assert (found.worst, found.worst_class) == (pytest.approx(min(shares)), np.argmin(shares))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("told", [True, False])
def test_variety_equals_its_definition(kind, told):
    """The mean distance to the nearest other point of groups, divided by that of real groups."""
    fake, real = make_degenerate(kind)
    real_classes, fake_classes = np.arange(60) % 2, (np.arange(60) % 3 == 0).astype(int)

    def spread(points):
        groups = [points[i : i + 8] for i in range(0, len(points) // 8 * 8, 8)]
        return np.mean([KDTree(group).query(group, k=2)[0][:, 1].mean() for group in groups])

    ratios = {}
    for y in (0, 1):
        usual = spread(real[real_classes == y] if told else real)
        if usual:
            ratios[y] = spread(fake[fake_classes == y]) / usual
    found = within_class_variety(fake, fake_classes, real, real_classes if told else None, most=8)
    if not ratios:
        assert np.isnan([found.mean, found.worst]).all()
        assert found.worst_class == -1
        return
    assert found.mean == pytest.approx(np.mean(list(ratios.values())))
    worst = min(ratios, key=ratios.get)
    assert (found.worst, found.worst_class) == (pytest.approx(ratios[worst]), worst)


@pytest.mark.parametrize("kind", KINDS)
def test_kernel_distance_is_a_mean_over_subsets(kind, monkeypatch):
    """Above the size of a subset it is the mean of torchmetrics' estimates of random subsets."""
    monkeypatch.setattr(distance_module, "_SUBSET_SIZE", 20)
    a, b = make_degenerate(kind)
    rng, theirs = np.random.Generator(np.random.Philox(key=[3, 0])), []
    for _ in range(100):
        x, y = (torch.from_numpy(points[rng.permutation(60)[:20]]) for points in (a, b))
        theirs.append(poly_mmd(x, y).item())
    found = kernel_distance(a, b, seed=3)
    assert found == pytest.approx(np.mean(theirs), abs=1e-9)
    # Each subset is an unbiased estimate of what all points give.
    error = np.std(theirs) / np.sqrt(len(theirs))
    assert abs(found - poly_mmd(torch.from_numpy(a), torch.from_numpy(b)).item()) <= 4 * error


def test_kernel_distance_has_100_subsets_of_1000(monkeypatch):
    """As in the paper, above 1,000 points. A set that has fewer points gives all of them."""
    sizes = []
    monkeypatch.setattr(
        distance_module, "_squared_discrepancy", lambda a, b: sizes.append((len(a), len(b))) or 2.0
    )
    assert kernel_distance(np.zeros((1_001, 1)), np.zeros((700, 1))) == 2.0
    assert sizes == [(1_000, 700)] * 100
    sizes.clear()
    assert kernel_distance(np.zeros((700, 1)), np.zeros((1_000, 1))) == 2.0
    assert sizes == [(700, 1_000)]


@pytest.mark.parametrize("count", [2, 5, 12])
def test_frechet_distance_of_fewer_points_than_features(count):
    """Covariances are singular. The trace of the root is the nuclear norm of the points' product.

    For centred points X and Y, Tr (A B)^1/2 is the sum of the singular values of X Y^T.
    """
    a, b = make_noise(count, 16), 2 * make_noise(count + 1, 16, seed=1) + 0.3
    x, y = ((points - points.mean(axis=0)) / np.sqrt(len(points) - 1) for points in (a, b))
    shift = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    cross = np.linalg.norm(x @ y.T, ord="nuc")
    expected = shift + np.square(x).sum() + np.square(y).sum() - 2 * cross
    # Eigenvalues of 0 have errors of 1e-16, whose roots count 16 times.
    assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-5)


def test_two_sample_accuracy_of_equal_points_is_even():
    """If all points are equal, half of the nearest neighbours belong to the same set."""
    one = np.zeros((40, 3))
    assert two_sample_accuracy(one, one) == pytest.approx(39 / 79)


def test_kernel_distance_of_few_points_uses_all(monkeypatch):
    """Up to the size of a subset there is one estimate. More points give random subsets."""
    monkeypatch.setattr(distance_module, "_SUBSET_SIZE", 50)
    a, b = make_noise(50, 3), make_noise(35, 3, seed=1)
    assert kernel_distance(a, b, seed=1) == kernel_distance(a, b, seed=2)
    a = make_noise(51, 3)
    assert kernel_distance(a, b, seed=1) != kernel_distance(a, b, seed=2)


@pytest.mark.parametrize("measure", [coverage, measure_neighbourhoods])
def test_too_few_points_are_refused(measure):
    """Five neighbours need six points. The error is a DatasetError instead of one of NumPy."""
    with pytest.raises(DatasetError, match=r"5 images are too few.*at least 6"):
        measure(make_noise(5, 2), make_noise(5, 2))
    for distance in (frechet_distance, kernel_distance):
        with pytest.raises(DatasetError, match="1 images are too few"):
            distance(make_noise(5, 2), make_noise(1, 2))


def test_nearest_spread_is_computed_in_groups():
    """On a line of integers the nearest neighbour is 1 away, and 2 on every second integer."""
    line = np.arange(12.0)[:, np.newaxis]
    assert nearest_spread(line, 4) == 1.0
    assert nearest_spread(line[::2], 3) == 2.0
    assert np.isnan(nearest_spread(line, 13))


def test_variety_is_relative_to_real_classes():
    """Half the scale in a class halves its variety, and a single image has none."""
    real, classes = make_noise(400, 6), np.repeat([0, 1], 200)
    fake = make_noise(400, 6, seed=1) * np.where(classes, 0.5, 1.0)[:, np.newaxis]
    found = within_class_variety(fake, classes, real, classes, most=50)
    assert (found.worst, found.worst_class) == (pytest.approx(0.5, rel=0.1), 1)
    assert found.mean == pytest.approx(0.75, rel=0.1)
    one = np.repeat(real[[0, 300]], 200, axis=0)
    assert within_class_variety(one, classes, real, classes, most=50).mean == 0


def test_class_coverage_detects_swapped_classes():
    """Overall coverage is 1 although the classes are swapped. Coverage by class is 0."""
    classes = np.repeat([0, 1], 100)
    real = make_noise(200, 3) + 50 * classes[:, np.newaxis]
    assert coverage(real, real) == 1.0
    assert class_coverage(real, classes, real, classes).mean == 1.0
    swapped = class_coverage(real, 1 - classes, real, classes)
    assert (swapped.mean, swapped.worst) == (0.0, 0.0)


def make_certain(classes, num_classes=4):
    """Returns the log-probabilities of a classifier that is certain."""
    return np.log(np.eye(num_classes)[classes] * (1 - 1e-9) + 1e-10)


def test_inception_score_counts_certain_classes():
    """K certain classes give K. One class, or uniform probabilities, give 1."""
    turns = np.arange(400) % 4
    assert inception_score(make_certain(turns), splits=1) == pytest.approx(4, rel=1e-6)
    assert inception_score(make_certain(np.zeros(400, int))) == pytest.approx(1)
    assert inception_score(np.full((400, 4), np.log(0.25))) == pytest.approx(1)
    state = torch.random.get_rng_state()
    inception_score(make_certain(turns))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_inception_score_has_no_randomness():
    """The parts of a sample are the same in every call, whatever PyTorch has drawn before."""
    log_p, scores = np.log(np.exp(make_noise(60, 4)) / 9), set()
    for seed in range(3):
        torch.manual_seed(seed)
        scores.add(inception_score(log_p, splits=7))
    assert len(scores) == 1


def test_mode_score_depends_on_the_real_shares():
    """The score equals the Inception Score for real class shares and is lower for others."""
    log_p, even = make_certain(np.arange(400) % 4), np.full(4, 0.25)
    skewed = np.array([0.7, 0.1, 0.1, 0.1])
    score = inception_score(log_p)
    assert mode_score(log_p, even) == pytest.approx(score)
    expected = score * np.exp(-reverse_kl(even, skewed))
    assert mode_score(log_p, skewed) == pytest.approx(expected, rel=1e-6)
    whole = inception_score(log_p, splits=1)
    assert whole > score
    assert mode_score(log_p, even, splits=1) == pytest.approx(whole)


def test_reverse_kl_of_known_histograms():
    """Half of the modes cost log 2. A mode that is missing in the reference costs infinity."""
    even = np.full(10, 0.1)
    half = count_modes(np.arange(100) % 5, 10)
    assert half.reached == 5
    assert reverse_kl(half.shares, even) == pytest.approx(np.log(2))
    assert reverse_kl(even, even) == pytest.approx(0)
    assert reverse_kl(even, half.shares) == np.inf


def test_perfect_sampler_has_a_floor():
    """For 26,000 samples over 1000 modes the floor is about 0.019, and every mode is reached."""
    even = np.full(1000, 1e-3)
    floor = perfect_sampler_floor(even, 26_000)
    assert floor == pytest.approx(999 / 52_000, rel=0.03)
    # A sample of few points lacks a class, whose divergence from the sample is infinite.
    assert 0 < perfect_sampler_floor(np.array([0.9, 0.05, 0.05]), 10) < 0.5
    assert mode_floor(even, 26_000) == pytest.approx(1000, abs=1e-6)
    assert mode_floor(even, 1000) == pytest.approx(1000 * (1 - np.exp(-1)), rel=1e-3)
    rng = np.random.Generator(np.random.Philox(key=[8, 8]))
    drawn = count_modes(rng.integers(0, 1000, 26_000), 1000)
    assert reverse_kl(drawn.shares, even) == pytest.approx(floor, rel=0.15)


@pytest.mark.parametrize("num_codes", [2, 3, 5])
def test_codes_are_assigned_one_to_one(num_codes):
    """Two codes never share a class. Images of a second code for a class count as wrong."""
    seen = np.repeat([0, 1, 2], 10)
    codes = (seen + 1) % 3
    assert code_class_accuracy(codes, seen).share == 1.0
    assert code_class_accuracy(codes, seen).classes == {1: 0, 2: 1, 0: 2}
    assert code_class_accuracy(np.arange(30) % num_codes, np.zeros(30, int)).share == pytest.approx(
        np.ceil(30 / num_codes) / 30
    )


@pytest.mark.parametrize(("num_codes", "num_classes"), [(2, 5), (4, 4), (6, 3)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_code_accuracy_is_the_best_permutation(num_codes, num_classes, seed):
    """No other one-to-one assignment of random codes to classes is better."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 1]))
    codes, seen = rng.integers(num_codes, size=80), rng.integers(num_classes, size=80)
    most = max(num_codes, num_classes)  # classes beyond the last one have no images
    shares = [np.mean(np.array(named)[codes] == seen) for named in permutations(range(most))]
    found = code_class_accuracy(codes, seen)
    assert found.share == pytest.approx(max(shares))
    assigned = np.array([found.classes.get(code, -1) for code in codes.tolist()])
    assert np.mean(assigned == seen) == pytest.approx(found.share)
    assert len(set(found.classes.values())) == len(found.classes) == min(num_codes, num_classes)


def test_chance_accuracy_uses_the_best_assignment():
    """Random codes reach slightly more than one in K."""
    seen = np.arange(1_000) % 10
    assert 0.1 < chance_code_accuracy(np.arange(1_000) // 100, seen) < 0.2
