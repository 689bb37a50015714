"""Augmentation of what D sees, through which G's gradient flows.

Both kinds show D the same distortions of real and generated images, so that they do not leak into
what is generated: few images can then train a D for long.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from imagemint.training.game import Augmentation, Turn
from imagemint.training.processes import Processes
from imagemint.training.randomness import Stream, uniforms

_CUTOUT_SHARE = 0.5
_SHIFT_SHARE = 0.125


class DifferentiableAugmentation(Augmentation):
    """Colour, translation and cutout, always on.

    Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training" (2020), the policy
    ``color,translation,cutout``.
    """

    def forward(self, x: Tensor, seed: int, position: int) -> Tensor:
        """Returns distorted images like ``x`` [N, C, H, W]."""
        u = _chances(self.processes, x, seed, position, 7).to(x.device)
        x = _coloured(x, u[0], u[1], u[2])
        return _cut_out(_shifted(x, u[3], u[4]), u[5], u[6])


def _chances(processes: Processes, x: Tensor, seed: int, position: int, number: int) -> Tensor:
    """So many numbers in [0, 1) for each image of ``x``: [number, N]."""
    drawn = uniforms(seed, Stream.AUGMENTATION, position, number, len(x) * processes.count)
    return processes.mine(drawn, dim=1)


def _coloured(x: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Brightness by up to 0.5, saturation up to doubled, contrast from half to three halves."""
    b, s, c = (each[:, None, None, None] for each in (brightness, saturation, contrast))
    x = x + (b - 0.5)
    gray = x.mean(dim=1, keepdim=True)
    x = (x - gray) * (2 * s) + gray if x.shape[1] > 1 else x
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return (x - mean) * (c + 0.5) + mean


def _shifted(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """By up to an eighth of the size in both directions, black where nothing comes in."""
    rows, columns = (
        torch.arange(size, device=x.device) + ((2 * u - 1) * (_SHIFT_SHARE * size)).round()[:, None]
        for u, size in ((down, x.shape[2]), (right, x.shape[3]))
    )
    # Gathering from an image padded by one pixel, to whose border everything outside is clamped.
    padded = F.pad(x + 1, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    i = (rows.long() + 1).clamp(0, x.shape[2] + 1)
    j = (columns.long() + 1).clamp(0, x.shape[3] + 1)
    image = torch.arange(len(x), device=x.device)[:, None, None]
    return padded[image, i[:, :, None], j[:, None, :]].permute(0, 3, 1, 2) - 1


def _cut_out(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Grays a square of half the size, wherever its centre falls."""
    kept = []
    for u, size in ((down, x.shape[2]), (right, x.shape[3])):
        centre = (u * size).floor()[:, None]
        away = (torch.arange(size, device=x.device) + 0.5 - centre).abs()
        kept.append(away > _CUTOUT_SHARE * size / 2)
    return x * (kept[0][:, :, None] | kept[1][:, None, :])[:, None]


class AdaptiveAugmentation(Augmentation):
    """Each distortion of each image with a probability that follows how much D overfits.

    Karras et al., "Training Generative Adversarial Networks with Limited Data" (2020): where the
    logits of real images are mostly positive, D knows them by heart, and the probability rises. Of
    the paper's transformations the geometric and the colour ones: mirroring, quarter turns, shifts
    by whole pixels; scale, rotation, stretching; brightness, contrast, hue, saturation.

    Args:
        target: mean sign of the logits of real images to aim at, 0.6 in the paper.
        pace: images over which the probability may go from 0 to 1.
    """

    p: Tensor

    def __init__(self, target: float, pace: int = 500_000) -> None:
        super().__init__()
        self.target = target
        self.pace = pace
        self.register_buffer("p", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor, seed: int, position: int) -> Tensor:
        """Returns distorted images like ``x`` [N, C, H, W]; those left alone pass unchanged."""
        p = float(self.p)
        if p == 0:
            return x
        u = _chances(self.processes, x, seed, position, 22)
        matrix, moved = _geometry(u[:14], p)
        coloured = _colours(x, u[14:].to(x.device), p)
        grid = F.affine_grid(matrix[:, :2].to(x.device), list(x.shape), align_corners=False)
        warped = F.grid_sample(
            coloured, grid, mode="bilinear", padding_mode="reflection", align_corners=False
        )
        return torch.where(moved.to(x.device)[:, None, None, None], warped, coloured)

    def heed(self, turn: Turn) -> dict[str, float]:
        """Moves the probability towards the target; returns it."""
        overfit = self.processes.agreed(turn.real_logits.detach().sign().mean().item())
        shown = len(turn.real) * self.processes.count
        step = math.copysign(shown / self.pace, overfit - self.target)
        self.p.add_(step).clamp_(0, 1)
        return {"augment_p": float(self.p)}


def _geometry(u: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Affine maps [N, 3, 3] from places in the new image to places in the old, and where one is."""
    count = u.shape[1]
    on = u[:7] < p
    amount = u[7:] * 2 - 1
    one, zero = torch.ones(count), torch.zeros(count)
    mirrored = torch.where(on[0], -one, one)
    quarters = torch.where(on[1], (u[8] * 4).floor(), zero) * (math.pi / 2)
    shift = [torch.where(on[2], amount[k] * _SHIFT_SHARE * 2, zero) for k in (2, 3)]
    scale = torch.where(on[3], (amount[4] * 0.2 * math.log(2) * 2).exp(), one)
    turned = torch.where(on[4], amount[5] * math.pi, zero)
    stretch = torch.where(on[5], (amount[6] * 0.2 * math.log(2) * 2).exp(), one)
    angle = quarters + turned
    cos, sin = angle.cos(), angle.sin()
    a, b = scale * stretch, scale / stretch
    rows = [mirrored * a * cos, -a * sin, shift[0], mirrored * b * sin, b * cos, shift[1]]
    matrix = torch.stack([*rows, zero, zero, one], dim=1).reshape(count, 3, 3)
    return matrix, on[:6].any(dim=0)


def _colours(x: Tensor, u: Tensor, p: float) -> Tensor:
    on, amount = u[:4] < p, u[4:] * 2 - 1

    def chosen(k: int, value: Tensor, otherwise: float) -> Tensor:
        return torch.where(on[k], value, torch.full_like(value, otherwise))[:, None, None, None]

    alone = ~on.any(dim=0)[:, None, None, None]
    before = x
    x = x + chosen(0, amount[0] * 0.4, 0.0)
    x = x * chosen(1, (amount[1] * 0.5 * math.log(2) * 2).exp(), 1.0)
    if x.shape[1] == 1:
        return torch.where(alone, before, x)
    gray = x.mean(dim=1, keepdim=True)
    angle = chosen(2, amount[2] * math.pi, 0.0)
    tint = x - gray
    # Turning about the gray axis: the tint stays in its plane (Rodrigues' formula).
    around = (tint.roll(1, dims=1) - tint.roll(-1, dims=1)) / math.sqrt(3)
    tint = tint * angle.cos() + around * angle.sin()
    x = gray + tint * chosen(3, (amount[3] * math.log(2) * 2).exp(), 1.0)
    return torch.where(alone, before, x)  # rounding would change even those left alone
