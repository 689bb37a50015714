"""Tests of imagemint.training.losses.augment."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest
from torch.nn.functional import affine_grid, grid_sample

from imagemint.training.losses import augment as augmentation
from imagemint.training.losses.adversarial import ADVERSARIAL_LOSSES
from imagemint.training.losses.affine import warp
from imagemint.training.losses.augment import AdaptiveAugmentation, DifferentiableAugmentation
from imagemint.training.losses.gan_loss import Augmentation, GanLoss
from imagemint.training.networks import Pyramid

COUNT = 16


@pytest.fixture
def images():
    """RGB images in [-1, 1]."""
    return torch.rand(COUNT, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def make_adaptive(p=1.0):
    """Returns adaptive augmentation with a fixed probability."""
    adaptive = AdaptiveAugmentation(0.6)
    adaptive.p.fill_(p)
    return adaptive


@pytest.mark.parametrize("distorting", [DifferentiableAugmentation(), make_adaptive()])
@pytest.mark.parametrize("channels", [1, 3])
def test_distortion_depends_on_seed_and_position(distorting, images, channels):
    """Images keep their shape, change by seed and position alone, and pass gradients."""
    x = images[:, :channels].clone().requires_grad_()
    seen = distorting(x, 1, 2)
    assert seen.shape == x.shape
    assert torch.equal(seen, distorting(x, 1, 2))
    assert not torch.equal(seen, distorting(x, 1, 3))
    assert not torch.equal(seen, distorting(x, 2, 2))
    assert ((seen - x).abs().amax(dim=(1, 2, 3)) > 1e-3).all()
    seen.sum().backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad.abs().sum(dim=(1, 2, 3)) > 0).all()


def test_differentiable_augmentation_cuts_out_pixels(images):
    """Each image has gray pixels.

    At most a quarter is cut out, and another is uncovered by the shift.
    """
    seen = DifferentiableAugmentation()(images, 0, 0)
    cut = (seen == 0).all(dim=1).float().mean(dim=(1, 2))
    assert (cut > 0).all()
    assert (cut <= 0.5).all()


def test_adaptive_augmentation_starts_at_probability_zero(images):
    """At probability 0 no image changes, and at 0.1 some do."""
    assert torch.equal(make_adaptive(0.0)(images, 0, 0), images)
    seen = make_adaptive(0.1)(images, 0, 0)
    unchanged = (seen == images).flatten(1).all(dim=1)
    assert 0 < unchanged.sum() < COUNT


def test_probability_follows_overfitting(images):
    """The probability rises while D is too sure of real images, and otherwise falls to 0."""
    adaptive = AdaptiveAugmentation(0.6, pace=160)
    none = torch.zeros(1)
    sure = SimpleNamespace(real_logits=torch.ones(8), fake_logits=none, real=images)
    unsure = SimpleNamespace(real_logits=torch.tensor([1.0, -1.0]), fake_logits=none, real=images)
    assert adaptive.adapt(sure) == {"augment_p": pytest.approx(0.1)}
    assert adaptive.adapt(sure) == {"augment_p": pytest.approx(0.2)}
    assert adaptive.adapt(unsure) == {"augment_p": pytest.approx(0.1)}
    for _ in range(3):
        last = adaptive.adapt(unsure)
    assert last == {"augment_p": 0.0}


@pytest.mark.parametrize("objective", ["relativistic", "wasserstein"])
def test_constant_offset_of_logits_is_ignored(objective, images):
    """Losses of differences do not fix the offset of logits, so only real minus fake counts."""
    adaptive = AdaptiveAugmentation(0.6, pace=160)
    GanLoss(ADVERSARIAL_LOSSES[objective], augmentation=adaptive)
    adaptive.p.fill_(0.5)
    for offset in (-100.0, 100.0):
        real = torch.full((8,), offset)
        unsure = SimpleNamespace(real_logits=real, fake_logits=real + 1, real=images)
        sure = SimpleNamespace(real_logits=real, fake_logits=real - 1, real=images)
        assert adaptive.adapt(unsure) == {"augment_p": pytest.approx(0.4)}
        assert adaptive.adapt(sure) == {"augment_p": pytest.approx(0.5)}


def test_signs_use_the_midpoint_of_the_targets():
    """For the targets 1 and 0 of least squares the midpoint is a half."""
    real = torch.tensor([0.4, 0.6])
    assert ADVERSARIAL_LOSSES["least-squares"].compute_signs(real, real).tolist() == [-1, 1]
    assert ADVERSARIAL_LOSSES["hinge"].compute_signs(real, real).tolist() == [1, 1]


# --- comparison with the papers' code -------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_colour_jitter_equals_its_formula(channels, images):
    """Each image gets the brightness, saturation and contrast of the authors' code in turn.

    They add -0.5 to 0.5, and multiply the distance from the pixel's mean by 0 to 2 and that from
    the image's mean by 0.5 to 1.5.
    """
    x = images[:, :channels]
    chances = torch.rand(3, COUNT, generator=torch.Generator().manual_seed(6))
    chances[:, 0], chances[:, 1] = 0.0, 1.0
    found = augmentation._jitter_colour(x, *chances).numpy()
    for image, (brightness, saturation, contrast), seen in zip(
        x.double().numpy(), chances.double().numpy().T, found, strict=True
    ):
        bright = image + (brightness - 0.5)
        gray = sum(bright) / channels
        vivid = np.stack([gray + 2 * saturation * (plane - gray) for plane in bright])
        middle = vivid.sum() / vivid.size
        assert seen == pytest.approx(middle + (0.5 + contrast) * (vivid - middle), abs=1e-5)


def test_policy_has_independent_chances(monkeypatch):
    """Each of the three colour changes has a uniform chance of its own in every image."""
    drawn = []
    monkeypatch.setattr(
        augmentation, "_jitter_colour", lambda x, *chances: drawn.append(chances) or x
    )
    DifferentiableAugmentation()(torch.zeros(2_000, 1, 8, 8), 7, 0)
    chances = torch.stack(drawn[0]).numpy()
    assert np.abs(np.corrcoef(chances) - np.eye(3)).max() < 0.07
    assert [kstest(chance, "uniform").pvalue > 0.01 for chance in chances] == [True] * 3


def test_shift_fills_with_gray():
    """A shifted white image has only white pixels and, where it is uncovered, gray ones (0)."""
    white, u = torch.ones(400, 1, 16, 16), torch.rand(2, 400)
    seen = augmentation._shift(white, *u)
    assert set(seen.unique().tolist()) == {0.0, 1.0}
    ramp = torch.arange(16.0).expand(400, 1, 16, 16)
    rights = augmentation._shift(ramp, torch.full((400,), 0.5), u[1])[:, 0, 8, 8] - 8
    # Shifts of -2 to 2 pixels are equally likely.
    counts = torch.bincount((rights + 2).long(), minlength=5)
    assert counts.min() > 50
    # An eighth of 28 pixels is rounded to 4, as in the authors' code.
    wide = torch.arange(28.0).expand(400, 1, 28, 28)
    rights = augmentation._shift(wide, torch.full((400,), 0.5), u[1])[:, 0, 14, 14] - 14
    assert set(rights.tolist()) == set(range(-4, 5))


@pytest.mark.parametrize("size", [16, 28, 31])
def test_cutout_is_a_square(size):
    """The cutout is a square of half the size. Its centre is anywhere, and the border clips it."""
    u = torch.linspace(0, 0.999, 50)
    seen = augmentation._cut_out(torch.ones(50, 1, size, size), u, u)
    side = size // 2
    for image, chance in zip(seen[:, 0], u.tolist(), strict=True):
        first = math.floor(np.float32(chance) * (size + 1 - side % 2)) - side // 2
        covered = min(first + side, size) - max(first, 0)
        assert (image == 0).sum() == covered**2


def compute_matrices(only, count=4_000, size=32):
    """Returns the matrices of the single geometric transformation with this switch."""
    u = torch.rand(18, count, generator=torch.Generator().manual_seed(1))
    u[:8] = 1.0
    u[only] = 0.0
    return augmentation._compute_maps(u, 0.99, size)[0]


def test_images_are_mirrored_and_turned():
    """Half of the images are mirrored, and a quarter has each of the quarter turns."""
    x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(3)).expand(400, 1, 32, 32)
    for switch, images in (
        (0, [x[0], x[0].flip(2)]),
        (1, [x[0].rot90(turns, (1, 2)) for turns in range(4)]),
    ):
        seen = warp(x, compute_matrices(switch, 400)[:, :2])
        counts = [sum(torch.allclose(each, image, atol=1e-4) for each in seen) for image in images]
        assert sum(counts) == 400
        assert chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("switch", [4, 6])
def test_rotations_are_uniform(switch):
    """Before and after stretching, every angle from -pi to pi is equally likely."""
    matrix = compute_matrices(switch).numpy()
    angles = np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0])
    cos, sin = np.cos(angles), np.sin(angles)
    expected = np.stack([cos, -sin, sin, cos], axis=1)
    assert matrix[:, :2, :2].reshape(-1, 4) == pytest.approx(expected, abs=1e-5)
    assert kstest(angles / (2 * np.pi) + 0.5, "uniform").pvalue > 0.01


def draw_switches(alone, p, count=10_000):
    """Returns which images have a map when only these geometric switches are drawn."""
    u = torch.rand(18, count, generator=torch.Generator().manual_seed(4))
    switches = u[:8].clone()
    u[:8] = 1.0
    u[alone] = switches[alone]
    return augmentation._compute_maps(u, p, 32)[1].numpy()


@pytest.mark.parametrize("p", [0.3, 0.8])
def test_geometric_maps_have_the_probability(p):
    """Each map has the probability p, and so has any rotation: 1 - sqrt(1 - p) before and after."""
    for alone in ([0], [1], [2], [3], [5], [7], [4, 6]):
        assert draw_switches(alone, p).mean() == pytest.approx(p, abs=0.015), alone
    for alone in ([4], [6]):
        assert draw_switches(alone, p).mean() == pytest.approx(1 - math.sqrt(1 - p), abs=0.015)


@pytest.mark.parametrize("p", [0.3, 0.8])
def test_colours_have_the_probability(p):
    """Each colour transformation has the probability p; half of the luma flips change nothing."""
    for switch in range(5):
        u = torch.ones(10, 10_000)
        generator = torch.Generator().manual_seed(switch)
        u[switch] = torch.rand(10_000, generator=generator)
        u[5:] = torch.rand(5, 10_000, generator=generator)
        x = torch.tensor([0.1, 0.5, -0.3])[None, :, None, None].expand(10_000, 3, 1, 1)
        changed = (augmentation._transform_colour(x, u, p) != x).flatten(1).any(dim=1)
        expected = p / 2 if switch == 2 else p
        assert changed.float().mean().item() == pytest.approx(expected, abs=0.015), switch


def compute_colours(only, x, count=4_000):
    """Returns what the single colour transformation with this switch makes of images of ``x``."""
    u = torch.rand(10, count, generator=torch.Generator().manual_seed(5))
    u[:5] = 1.0
    u[only] = 0.0
    colours = torch.tensor(x)[None, :, None, None].expand(count, len(x), 1, 1)
    return augmentation._transform_colour(colours, u, 0.5)[:, :, 0, 0].double().numpy()


def test_colours_follow_their_distributions():
    """Brightness is N(0, 0.2^2). Base-2 logarithms: contrast N(0, 0.5^2), saturation N(0, 1)."""
    gray = compute_colours(0, [0.0, 0.0, 0.0])
    assert np.ptp(gray, axis=1).max() == 0
    assert kstest(gray[:, 0] / 0.2, "norm").pvalue > 0.01
    white = compute_colours(1, [1.0])
    assert kstest(np.log2(white[:, 0]) / 0.5, "norm").pvalue > 0.01
    tint = compute_colours(4, [1.0, 0.0, -1.0])
    assert tint.mean(axis=1) == pytest.approx(0, abs=1e-5)
    assert kstest(np.log2(tint[:, 0]), "norm").pvalue > 0.01


def test_hue_is_uniform():
    """The tint is turned by an angle from -pi to pi, and keeps its length."""
    tint = compute_colours(3, [1.0, 0.0, -1.0])
    axes = np.array([[1.0, 0.0, -1.0], [1.0, -2.0, 1.0]])
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    right, up = axes @ tint.T
    assert np.hypot(right, up) == pytest.approx(math.sqrt(2), abs=1e-5)
    assert kstest(np.arctan2(up, right) / (2 * np.pi) + 0.5, "uniform").pvalue > 0.01


@pytest.mark.parametrize(("switch", "ratio"), [(3, 1.0), (5, -1.0)])
def test_scales_are_log_normal(switch, ratio):
    """The base-2 logarithms of the scale and the stretch are N(0, 0.2^2)."""
    matrix = compute_matrices(switch)
    down, right = torch.log2(matrix[:, 1, 1]), torch.log2(matrix[:, 0, 0])
    assert torch.allclose(down, ratio * right, atol=1e-5)
    assert kstest(down.numpy() / 0.2, "norm").pvalue > 0.01


def test_shifts_follow_their_distributions():
    """Whole shifts are up to an eighth of the size. Fractional ones are N(0, (1/8)^2)."""
    whole = compute_matrices(2)[:, :2, 2].numpy() * 16
    assert whole == pytest.approx(np.round(whole), abs=1e-4)
    assert np.abs(whole).max() == pytest.approx(4)
    fraction = compute_matrices(7)[:, 0, 2].numpy() / 2
    assert kstest(fraction / 0.125, "norm").pvalue > 0.01


def test_colour_matrices_equal_those_of_the_paper():
    """Each colour transformation alone equals its 3x3 matrix of the paper on every pixel."""
    x = torch.randn(5, 3, 4, 4)
    v = torch.full((5,), 0.8)
    axis = np.ones(3) / np.sqrt(3)
    along = np.outer(axis, axis)
    normal = torch.special.ndtri(torch.tensor(0.8)).item()
    theta, cross = 0.6 * np.pi, np.cross(np.eye(3), axis)
    rotation = along + (np.eye(3) - along) * np.cos(theta) + cross * np.sin(theta)
    expected = {
        1: 2 ** (0.5 * normal) * np.eye(3),
        2: np.eye(3) - 2 * along,
        3: rotation,
        4: along + (np.eye(3) - along) * 2**normal,
    }
    for switch, matrix in expected.items():
        u = torch.ones(10, 5)
        u[switch], u[5:] = 0.0, v
        seen = augmentation._transform_colour(x, u, 0.5)
        assert torch.allclose(
            seen, torch.einsum("ij,njhw->nihw", torch.tensor(matrix).float(), x), atol=1e-5
        ), switch


def test_luma_flip_inverts_gray():
    """The luma flip of a gray image is its negative."""
    u = torch.ones(10, 2)
    u[2], u[7] = 0.0, 0.8
    x = torch.randn(2, 1, 3, 3)
    assert torch.allclose(augmentation._transform_colour(x, u, 0.5), -x)


def test_warp_has_two_derivatives():
    """The warp equals PyTorch's, and both derivatives equal finite differences."""
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(2, 1, 5, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    eye = torch.eye(3, dtype=torch.float64)[:2]
    matrix = eye + 0.2 * torch.randn(2, 2, 3, generator=generator, dtype=torch.float64)
    grid = affine_grid(matrix, [2, 1, 5, 5], align_corners=False)
    expected = grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    assert torch.equal(warp(x, matrix), expected)
    assert torch.autograd.gradcheck(lambda t: warp(t, matrix), x)
    assert torch.autograd.gradgradcheck(lambda t: warp(t, matrix) ** 3, x)


# --- pyramids ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [DifferentiableAugmentation, lambda: make_adaptive(0.9)])
@pytest.mark.parametrize("channels", [1, 3])
def test_augmented_pyramid_is_a_pyramid(kind, channels, images):
    """The coarse images of an augmented pyramid are the finest one, downscaled."""
    view, distorting = Pyramid(channels, 3), kind()
    GanLoss(view=view, augmentation=distorting)
    x = images[:, :channels]
    seen = distorting(view(x), 3, 4)
    assert torch.allclose(seen, view(seen[:, :channels]), atol=1e-5)
    assert not torch.allclose(seen, view(x), atol=1e-2)
    alone = kind()
    assert torch.allclose(seen[:, :channels], alone(x, 3, 4), atol=1e-5)


def test_augmentation_keeps_differences_within_a_pyramid(images):
    """A coarse image that differs from the downscaled finest one also differs afterwards."""
    view = Pyramid(3, 2)
    whole = view(images)
    other = whole.clone()
    other[:, 3:] += 0.5
    augment = DifferentiableAugmentation()
    GanLoss(view=view, augmentation=augment)
    first, second = augment(whole, 0, 0), augment(other, 0, 0)
    assert torch.equal(first[:, :3], second[:, :3])
    assert (second[:, 3:] - first[:, 3:]).mean() > 0.1
    assert torch.allclose(
        view.distort_images(other, lambda x, _: x, torch.zeros(1, COUNT)), other, atol=1e-5
    )


def test_augmentation_has_the_plain_view_by_default():
    """Without a pyramid an augmentation receives the images unchanged."""
    assert isinstance(Augmentation().view, type(GanLoss().view))
