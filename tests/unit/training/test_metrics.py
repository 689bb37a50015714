"""Tests of imagemint.training.metrics against closed forms."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from imagemint.training.errors import DatasetError
from imagemint.training.metrics import (
    chance_code_accuracy,
    class_accuracy,
    class_coverage,
    code_class_accuracy,
    count_modes,
    coverage,
    frechet_distance,
    inception_score,
    kernel_distance,
    mode_floor,
    mode_score,
    nearest_distances,
    nearest_neighbours,
    nearest_spread,
    neighbour_radii,
    neighbourhoods,
    perfect_sampler_floor,
    reverse_kl,
    two_sample_accuracy,
    within_class_variety,
)


def noise(count, dimensions, seed=0):
    """Points [count, dimensions] of a standard normal."""
    return np.random.Generator(np.random.Philox(key=[seed, 0])).normal(size=(count, dimensions))


def whitened(count, dimensions):
    """Points whose mean is exactly zero and whose covariance is exactly the identity."""
    x = noise(count, dimensions)
    x -= x.mean(axis=0)
    return x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T


def test_frechet_distance_of_diagonal_gaussians():
    """Between diagonal Gaussians it is |m - n|^2 plus the sum of (s - t)^2."""
    x, s, t = whitened(500, 3), np.array([1.0, 2.0, 0.5]), np.array([3.0, 2.0, 1.0])
    shift = np.array([1.0, -2.0, 0.0])
    expected = np.square(shift).sum() + np.square(s - t).sum()
    assert frechet_distance(x * s, x * t + shift) == pytest.approx(expected)


def test_frechet_distance_of_correlated_gaussians():
    """Where covariances do not commute it is what a general matrix square root gives."""
    a, b = noise(300, 4) @ noise(4, 4, seed=1), noise(300, 4, seed=2) @ noise(4, 4, seed=3)
    of_a, of_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    shift = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    expected = shift + np.trace(of_a + of_b - 2 * sqrtm(of_a @ of_b).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_equals_is_zero():
    """A set has no distance from itself, and never a negative one."""
    a = noise(200, 5)
    assert 0 <= frechet_distance(a, a) < 1e-9


def test_frechet_distance_bears_dead_features():
    """Features that never fire, as after ReLU, add nothing and break nothing."""
    x, dead = whitened(500, 2), np.zeros((500, 3))
    a, b = np.hstack([x, dead]), np.hstack([3 * x, dead])
    assert frechet_distance(a, b) == pytest.approx(2 * (3 - 1) ** 2)


def test_radii_leave_the_point_out():
    """On a line of whole numbers the second neighbour is 1 away inside and 2 at the ends."""
    line = np.arange(5.0)[:, np.newaxis]
    assert neighbour_radii(line, 2).tolist() == [2, 1, 1, 1, 2]


def test_coverage_of_equals_is_one():
    """A set covers itself wholly."""
    real = noise(700, 8)
    assert coverage(real, real) == 1.0


def test_coverage_of_strangers_is_zero():
    """Points far away cover nothing."""
    assert coverage(noise(50, 3), noise(50, 3) + 100) == 0.0


def test_coverage_counts_real_points():
    """One generated point covers those real ones in whose ball it lies, on the rim not."""
    real = np.array([[0.0], [1.0], [2.0], [50.0], [51.0], [52.0]])
    assert coverage(real, np.array([[0.5]]), k=1) == pytest.approx(2 / 6)
    assert coverage(real, np.array([[3.0]]), k=1) == 0.0


def test_nearest_distances_are_euclidean():
    """In several chunks they equal those of an independent routine, and a copy is at exactly 0."""
    points, others = np.round(128 * noise(1_100, 16)), np.round(128 * noise(90, 16, seed=5))
    others[7] = points[1_050]
    found = nearest_distances(points, others)
    assert found == pytest.approx(cdist(points, others).min(axis=1))
    assert found[1_050] == 0


def test_accuracy_names_the_worst_class():
    """The mean is over images, the worst over classes."""
    asked = np.array([0, 0, 0, 0, 1, 1])
    found = class_accuracy(asked, np.array([0, 0, 0, 0, 1, 0]))
    assert (found.mean, found.worst, found.worst_class) == (pytest.approx(5 / 6), 0.5, 1)


def test_frechet_distance_is_that_of_torchmetrics():
    """On sound covariances it is what the field's library gives."""
    a, b = noise(400, 6) @ noise(6, 6, seed=1), noise(300, 6, seed=2) + 0.3
    space = torch.nn.Identity()
    space.num_features = 6
    reference = FrechetInceptionDistance(feature=space).set_dtype(torch.float64)
    reference.update(torch.from_numpy(a), real=True)
    reference.update(torch.from_numpy(b), real=False)
    assert frechet_distance(a, b) == pytest.approx(float(reference.compute()), rel=1e-6)


def test_kernel_distance_is_unbiased():
    """Samples of one distribution are as often a little below 0 as above."""
    found = [kernel_distance(noise(120, 4, seed), noise(120, 4, 50 + seed)) for seed in range(12)]
    assert min(found) < 0 < max(found)
    assert np.mean(found) == pytest.approx(0, abs=0.02)


def test_kernel_distance_of_points_is_exact():
    """With all points in each subset it is the closed form of the unbiased estimate."""
    a, b = noise(5, 3), noise(5, 3, seed=1) + 1
    x, y, xy = (((p @ q.T) / 3 + 1) ** 3 for p, q in ((a, a), (b, b), (a, b)))
    off = ~np.eye(5, dtype=bool)
    expected = x[off].mean() + y[off].mean() - 2 * xy.mean()
    assert kernel_distance(a, b) == pytest.approx(expected)


def test_nearest_neighbour_is_named():
    """Beside the distance stands whose it is."""
    distances, rows = nearest_neighbours(np.array([[0.0], [9.0]]), np.array([[8.0], [1.0]]))
    assert (distances.tolist(), rows.tolist()) == ([1, 1], [1, 0])


def test_neighbourhoods_of_equals():
    """A set is precise and recalled by itself; each point lies in its own ball and others'."""
    points = noise(300, 4)
    found = neighbourhoods(points, points)
    assert found.precision == found.recall == 1.0
    # k - 1 others on average see the point within their open ball, and the point itself does.
    assert found.density == pytest.approx(1.0, abs=0.01)


def test_neighbourhoods_tell_lost_modes_from_junk():
    """Half the modes: precise, half recalled. Half junk: half precise, recalled."""
    one, other, junk = noise(200, 2), noise(200, 2) + 100, noise(200, 2) - 100
    both = np.concatenate([one, other])
    lost = neighbourhoods(both, np.concatenate([one, one + 1e-6]))
    assert (lost.precision, lost.recall) == (1.0, 0.5)
    mixed = neighbourhoods(one, np.concatenate([one, junk]))
    assert (mixed.precision, mixed.recall) == (0.5, 1.0)
    assert mixed.density == pytest.approx(0.5, abs=0.01)


def test_two_samples_of_one_distribution_are_alike():
    """The nearest neighbour is a coin toss, over several chunks too."""
    assert two_sample_accuracy(noise(600, 3), noise(600, 3, seed=1)) == pytest.approx(0.5, abs=0.04)


def test_two_samples_show_strangers_and_copies():
    """Sets far apart are told apart always, a copied set never."""
    points = noise(80, 3)
    assert two_sample_accuracy(points, points + 100) == 1.0
    assert two_sample_accuracy(points, points.copy()) == 0.0
    with pytest.raises(ValueError, match="80 and 79"):
        two_sample_accuracy(points, points[1:])


# --- against independent code, on random, duplicate and degenerate features ----------------------


def degenerate(kind):
    """Two sets of sixty points: plain noise, many duplicates, one point, dead features."""
    a, b = noise(60, 5), noise(60, 5, seed=1) + 0.3
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
    """Point by point by the papers: precision and recall have the rim, density and coverage not."""
    real, fake = degenerate(kind)

    def radii(points):
        return [sorted(np.linalg.norm(points - p, axis=1))[k] for p in points]

    apart = np.array([[np.linalg.norm(r - f) for f in fake] for r in real])
    of_real, of_fake = np.array(radii(real)), np.array(radii(fake))
    found = neighbourhoods(real, fake, k)
    tight = 1e-9
    assert found.precision == np.mean((apart <= of_real[:, None] + tight).any(axis=0))
    assert found.recall == np.mean((apart <= of_fake[None] + tight).any(axis=1))
    inside = apart < of_real[:, None] - tight
    assert found.density == pytest.approx(inside.sum() / (k * len(fake)))
    assert coverage(real, fake, k) == inside.any(axis=1).mean()


@pytest.mark.parametrize("kind", KINDS)
def test_distances_equal_their_definitions(kind):
    """The Frechet distance by SciPy's matrix root, the kernel distance by torchmetrics."""
    a, b = degenerate(kind)
    of_a, of_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    shift = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    root = sqrtm(of_a + 1e-14 * np.eye(5))
    cross = np.trace(sqrtm(root @ of_b @ root + 1e-14 * np.eye(5)).real)
    expected = shift + np.trace(of_a) + np.trace(of_b) - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-5)
    theirs = poly_mmd(torch.from_numpy(a), torch.from_numpy(b)).item()
    assert kernel_distance(a, b) == pytest.approx(theirs, abs=1e-12)


def test_two_sample_accuracy_of_ties_is_even():
    """Where all points coincide, half of each one's nearest neighbours are of its own set."""
    one = np.zeros((40, 3))
    assert two_sample_accuracy(one, one) == pytest.approx(39 / 79)


def test_kernel_distance_of_few_takes_all_points():
    """Up to 1,000 points one estimate from all of them; beyond, the mean over random subsets."""
    a, b = noise(1_000, 3), noise(700, 3, seed=1)
    assert kernel_distance(a, b, seed=1) == kernel_distance(a, b, seed=2)
    a = noise(1_001, 3)
    assert kernel_distance(a, b, seed=1) != kernel_distance(a, b, seed=2)


@pytest.mark.parametrize("measure", [coverage, neighbourhoods])
def test_few_points_are_refused_in_words(measure):
    """Five neighbours need six points: an error of ours, not of NumPy's."""
    with pytest.raises(DatasetError, match=r"5 images are too few.*at least 6"):
        measure(noise(5, 2), noise(5, 2))
    for distance in (frechet_distance, kernel_distance):
        with pytest.raises(DatasetError, match="1 images are too few"):
            distance(noise(5, 2), noise(1, 2))


def test_nearest_spread_is_of_groups():
    """On a line of whole numbers every nearest neighbour is 1 away, of every second number 2."""
    line = np.arange(12.0)[:, np.newaxis]
    assert nearest_spread(line, 4) == 1.0
    assert nearest_spread(line[::2], 3) == 2.0
    assert np.isnan(nearest_spread(line, 13))


def test_variety_is_that_of_real_classes():
    """Half the scale in one class is half the variety there; one picture is none."""
    real, classes = noise(400, 6), np.repeat([0, 1], 200)
    fake = noise(400, 6, seed=1) * np.where(classes, 0.5, 1.0)[:, np.newaxis]
    found = within_class_variety(fake, classes, real, classes, most=50)
    assert (found.worst, found.worst_class) == (pytest.approx(0.5, rel=0.1), 1)
    assert found.mean == pytest.approx(0.75, rel=0.1)
    one = np.repeat(real[[0, 300]], 200, axis=0)
    assert within_class_variety(one, classes, real, classes, most=50).mean == 0


def test_class_coverage_sees_swapped_classes():
    """Coverage as a whole is 1 though each class is drawn as the other; by class it is 0."""
    classes = np.repeat([0, 1], 100)
    real = noise(200, 3) + 50 * classes[:, np.newaxis]
    assert coverage(real, real) == 1.0
    assert class_coverage(real, classes, real, classes).mean == 1.0
    swapped = class_coverage(real, 1 - classes, real, classes)
    assert (swapped.mean, swapped.worst) == (0.0, 0.0)


def certain(classes, num_classes=4):
    """Log-probabilities of a classifier that is sure."""
    return np.log(np.eye(num_classes)[classes] * (1 - 1e-9) + 1e-10)


def test_inception_score_counts_sure_classes():
    """K classes in turn, each seen for sure, give K; one class only, or never a clue, give 1."""
    turns = np.arange(400) % 4
    assert inception_score(certain(turns), splits=1) == pytest.approx(4, rel=1e-6)
    assert inception_score(certain(np.zeros(400, int))) == pytest.approx(1)
    assert inception_score(np.full((400, 4), np.log(0.25))) == pytest.approx(1)
    state = torch.random.get_rng_state()
    inception_score(certain(turns))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_mode_score_minds_the_real_shares():
    """It is the Inception Score where classes are as often as in real data, and less elsewhere."""
    log_p, even = certain(np.arange(400) % 4), np.full(4, 0.25)
    skewed = np.array([0.7, 0.1, 0.1, 0.1])
    score = inception_score(log_p)
    assert mode_score(log_p, even) == pytest.approx(score)
    expected = score * np.exp(-reverse_kl(even, skewed))
    assert mode_score(log_p, skewed) == pytest.approx(expected, rel=1e-6)


def test_reverse_kl_of_known_histograms():
    """Half the modes, evenly, cost log 2; an unreal mode costs everything."""
    even = np.full(10, 0.1)
    half = count_modes(np.arange(100) % 5, 10)
    assert half.reached == 5
    assert reverse_kl(half.shares, even) == pytest.approx(np.log(2))
    assert reverse_kl(even, even) == pytest.approx(0)
    assert reverse_kl(even, half.shares) == np.inf


def test_perfect_sampler_has_a_floor():
    """26,000 samples over 1000 modes: about 0.019, and every mode is reached."""
    even = np.full(1000, 1e-3)
    floor = perfect_sampler_floor(even, 26_000)
    assert floor == pytest.approx(999 / 52_000, rel=0.03)
    assert mode_floor(even, 26_000) == pytest.approx(1000, abs=1e-6)
    assert mode_floor(even, 1000) == pytest.approx(1000 * (1 - np.exp(-1)), rel=1e-3)
    rng = np.random.Generator(np.random.Philox(key=[8, 8]))
    drawn = count_modes(rng.integers(0, 1000, 26_000), 1000)
    assert reverse_kl(drawn.shares, even) == pytest.approx(floor, rel=0.15)


@pytest.mark.parametrize("num_codes", [2, 3, 5])
def test_codes_are_matched_one_to_one(num_codes):
    """No two codes share a class: what a second one shows of it is wrong, as are codes too many."""
    seen = np.repeat([0, 1, 2], 10)
    codes = (seen + 1) % 3
    assert code_class_accuracy(codes, seen).share == 1.0
    assert code_class_accuracy(codes, seen).classes == {1: 0, 2: 1, 0: 2}
    assert code_class_accuracy(np.arange(30) % num_codes, np.zeros(30, int)).share == pytest.approx(
        np.ceil(30 / num_codes) / 30
    )


def test_chance_takes_the_best_of_codes():
    """Codes without a meaning reach a little more than one in K."""
    seen = np.arange(1_000) % 10
    assert 0.1 < chance_code_accuracy(np.arange(1_000) // 100, seen) < 0.2
