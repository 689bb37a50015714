"""Augmentations of the images that D sees, through which G's gradient flows.

Both kinds distort real and generated images in the same way, so that the distortions do not appear
in generated images. A D can then train for long with few images.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from imagemint.training.distributed import Distributed
from imagemint.training.losses.affine import warp
from imagemint.training.losses.gan_loss import Augmentation, Batch
from imagemint.training.rng import Stream, draw_uniforms

_SHIFT_PART = 8  # images are shifted by up to an eighth of their size
_CUTOUT_PART = 2

# --- always on -----------------------------------------------------------------------------------


class DifferentiableAugmentation(Augmentation):
    """Colour, translation and cutout, always on.

    Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training" (2020), the policy
    ``color,translation,cutout`` of their code, with its ranges. Uncovered and cut-out pixels are 0,
    a middle gray.
    """

    def forward(self, x: Tensor, seed: int, position: int) -> Tensor:
        """Returns distorted images like ``x`` [N, C, H, W]."""
        u = _draw_chances(self.processes, x, seed, position, 7).to(x.device)
        return self.view.distort_images(x, _apply_policy, u)


def _draw_chances(
    processes: Distributed, x: Tensor, seed: int, position: int, number: int
) -> Tensor:
    """Returns random numbers in [0, 1) for each image of ``x``: [number, N]."""
    uniforms = draw_uniforms(
        seed, Stream.AUGMENTATION, position, number, len(x) * processes.world_size
    )
    return processes.select_local_part(uniforms, dim=1)


def _apply_policy(x: Tensor, u: Tensor) -> Tensor:
    x = _jitter_colour(x, u[0], u[1], u[2])
    return _cut_out(_shift(x, u[3], u[4]), u[5], u[6])


def _jitter_colour(x: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Changes brightness by up to 0.5, saturation by 0 to 2, and contrast by 0.5 to 1.5."""
    b, s, c = (each[:, None, None, None] for each in (brightness, saturation, contrast))
    x = x + (b - 0.5)
    gray = x.mean(dim=1, keepdim=True)
    x = (x - gray) * (2 * s) + gray if x.shape[1] > 1 else x
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return (x - mean) * (c + 0.5) + mean


def _shift(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Shifts by up to an eighth of the size, rounded; all integers are equally likely."""
    rows, columns = (
        torch.arange(size, device=x.device)
        + _to_integers(u, int(size / _SHIFT_PART + 0.5))[:, None]
        for u, size in ((down, x.shape[2]), (right, x.shape[3]))
    )
    # Gather from an image padded by one pixel; places outside are clamped to its border.
    padded = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    i = (rows.long() + 1).clamp(0, x.shape[2] + 1)
    j = (columns.long() + 1).clamp(0, x.shape[3] + 1)
    image = torch.arange(len(x), device=x.device)[:, None, None]
    return padded[image, i[:, :, None], j[:, None, :]].permute(0, 3, 1, 2)


def _to_integers(u: Tensor, most: int) -> Tensor:
    """Returns a whole number from -most to most for each ``u`` in [0, 1)."""
    return (u * (2 * most + 1)).floor() - most


def _cut_out(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Sets a square of half the size, with its centre anywhere, to gray."""
    kept = []
    for u, size in ((down, x.shape[2]), (right, x.shape[3])):
        side = size // _CUTOUT_PART
        first = (u * (size + 1 - side % 2)).floor()[:, None] - side // 2
        place = torch.arange(size, device=x.device)
        kept.append((place < first) | (place >= first + side))
    return x * (kept[0][:, :, None] | kept[1][:, None, :])[:, None]


# --- adaptive ------------------------------------------------------------------------------------


class AdaptiveAugmentation(Augmentation):
    """Applies each distortion with a probability that depends on how much D overfits.

    Karras et al., "Training Generative Adversarial Networks with Limited Data" (2020), its pixel
    blitting, geometric and colour transformations (``bgc``) with the distributions of appendix B:
    mirroring, quarter turns, shifts by whole pixels; scale, rotation, stretching, shifts by
    fractions; brightness, contrast, luma flip, hue, saturation. If D recognises real images
    (`losses.AdversarialLoss.compute_signs`), it overfits, and the probability rises.

    Resampling is bilinear. The authors first upsample through a wavelet filter, which prevents
    aliasing. It would be most of the work at 28 to 64 pixels.

    Args:
        target: target of the mean sign, 0.6 in the paper.
        pace: images over which the probability may go from 0 to 1.
    """

    p: Tensor

    def __init__(self, target: float, pace: int = 500_000) -> None:
        super().__init__()
        self.target = target
        self.pace = pace
        self.register_buffer("p", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor, seed: int, position: int) -> Tensor:
        """Returns distorted images like ``x`` [N, C, H, W]; undistorted ones are unchanged."""
        if float(self.p) == 0:
            return x
        u = _draw_chances(self.processes, x, seed, position, _GEOMETRY + _COLOURS)
        return self.view.distort_images(x, self._distort, u)

    def _distort(self, x: Tensor, u: Tensor) -> Tensor:
        p = float(self.p)
        coloured = _transform_colour(x, u[_GEOMETRY:].to(x.device), p)
        matrix, moved = _compute_maps(u[:_GEOMETRY], p, x.shape[2])
        distorted = warp(coloured, matrix[:, :2].to(x.device))
        return torch.where(moved.to(x.device)[:, None, None, None], distorted, coloured)

    def adapt(self, batch: Batch) -> dict[str, float]:
        """Moves the probability towards the target, and returns it."""
        signs = self.adversarial.compute_signs(
            batch.real_logits.detach(), batch.fake_logits.detach()
        )
        overfit = self.processes.average(signs.mean().item())
        images = len(batch.real) * self.processes.world_size
        step = math.copysign(images / self.pace, overfit - self.target)
        self.p.add_(step).clamp_(0, 1)
        return {"augment_p": float(self.p)}


_GEOMETRY, _COLOURS = 18, 10  # random numbers that each group takes
_LOG2_SCALE, _LOG2_STRETCH, _FRACTION = 0.2, 0.2, 0.125
_BRIGHTNESS, _LOG2_CONTRAST, _LOG2_SATURATION = 0.2, 0.5, 1.0


def _to_normal(u: Tensor) -> Tensor:
    """Returns standard normal numbers of uniform ones."""
    normal: Tensor = torch.special.ndtri(u.double().clamp(1e-9, 1 - 1e-9)).float()
    return normal


def _compute_maps(u: Tensor, p: float, size: int) -> tuple[Tensor, Tensor]:
    """Returns affine maps [N, 3, 3] from new to old places, and which images have one.

    Places are from -1 to 1. The order is that of the paper: each map is to the right of those
    before.
    """
    turning = 1 - math.sqrt(max(1 - p, 0))  # before or after stretching: together p
    chance = torch.tensor([p, p, p, p, turning, p, turning, p])[:, None]
    active, v = u[:8] < chance, u[8:]
    one = torch.ones_like(v[0])

    def choose(k: int, value: Tensor, otherwise: float = 0.0) -> Tensor:
        return torch.where(active[k], value, otherwise * one)

    mirrored = 1 - 2 * choose(0, (v[0] * 2).floor())
    scale = choose(3, torch.exp2(_to_normal(v[4]) * _LOG2_SCALE), 1.0)
    stretch = choose(5, torch.exp2(_to_normal(v[6]) * _LOG2_STRETCH), 1.0)
    quarters, before, after = (
        choose(1, (v[1] * 4).floor() * (math.pi / 2)),
        choose(4, (v[5] * 2 - 1) * math.pi),
        choose(6, (v[7] * 2 - 1) * math.pi),
    )
    pixel = 2 / size
    shifts = [choose(2, ((2 * v[k] - 1) * size / _SHIFT_PART).round() * pixel) for k in (2, 3)]
    fraction = [choose(7, _to_normal(v[k]) * (2 * _FRACTION)) for k in (8, 9)]
    matrix = _make_scaling(mirrored, one) @ _make_rotation(quarters) @ _make_translation(*shifts)
    matrix = matrix @ _make_scaling(1 / scale, 1 / scale) @ _make_rotation(before)
    matrix = (
        matrix
        @ _make_scaling(1 / stretch, stretch)
        @ _make_rotation(after)
        @ _make_translation(*fraction)
    )
    return matrix, active.any(dim=0)


def _stack_matrices(*numbers: Tensor) -> Tensor:
    matrices: Tensor = torch.stack(numbers, dim=1).unflatten(1, (3, 3))
    return matrices


def _make_scaling(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _stack_matrices(x, zero, zero, zero, y, zero, zero, zero, one)


def _make_rotation(angle: Tensor) -> Tensor:
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    return _stack_matrices(
        *(angle.cos(), -angle.sin(), zero),
        *(angle.sin(), angle.cos(), zero),
        *(zero, zero, one),
    )


def _make_translation(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _stack_matrices(one, zero, x, zero, one, y, zero, zero, one)


def _transform_colour(x: Tensor, u: Tensor, p: float) -> Tensor:
    """Transforms the colours of each pixel; hue and saturation do not affect gray images."""
    active, v = u[:5] < p, u[5:]

    def choose(k: int, value: Tensor, otherwise: float) -> Tensor:
        return torch.where(active[k], value, torch.full_like(value, otherwise))[:, None, None, None]

    alone = ~active.any(dim=0)[:, None, None, None]
    before = x
    x = x + choose(0, _to_normal(v[0]) * _BRIGHTNESS, 0.0)
    x = x * choose(1, torch.exp2(_to_normal(v[1]) * _LOG2_CONTRAST), 1.0)
    gray = x.mean(dim=1, keepdim=True)
    tint = x - gray
    # Luma flip: a reflection about the plane across the gray axis. The tint stays.
    gray = gray * (1 - 2 * choose(2, (v[2] * 2).floor(), 0.0))
    if x.shape[1] > 1:
        angle = choose(3, (v[3] * 2 - 1) * math.pi, 0.0)
        # Turning about the gray axis: the tint stays in its plane (Rodrigues' formula).
        around = (tint.roll(1, dims=1) - tint.roll(-1, dims=1)) / math.sqrt(3)
        tint = tint * angle.cos() + around * angle.sin()
        tint = tint * choose(4, torch.exp2(_to_normal(v[4]) * _LOG2_SATURATION), 1.0)
    return torch.where(alone, before, gray + tint)  # rounding would change even undistorted images
