"""Adversarial objectives and zero-centred gradient penalties.

Every loss takes logits float32 [N] and returns a scalar to be minimised.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


def relativistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Relativistic pairing loss of D, ``E f(D(fake) - D(real))`` with softplus as ``f``.

    Jolicoeur-Martineau, "The relativistic discriminator" (2018); with R1 and R2 it converges
    locally: Huang et al., "The GAN is dead; long live the GAN!" (2024).
    """
    return F.softplus(fake - real).mean()


def relativistic_generator(real: Tensor, fake: Tensor) -> Tensor:
    """Relativistic pairing loss of G, the mirror image of the discriminator's."""
    return F.softplus(real - fake).mean()


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of D: Lim & Ye, "Geometric GAN" (2017)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_generator(real: Tensor, fake: Tensor) -> Tensor:
    """Loss of G that belongs to the hinge loss of D; the real logits play no part in it."""
    del real
    return -fake.mean()


@dataclass(frozen=True)
class Objective:
    """The pair of losses that G and D play; both take (real logits, fake logits)."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]


OBJECTIVES = {
    "relativistic": Objective(relativistic_discriminator, relativistic_generator),
    "hinge": Objective(hinge_discriminator, hinge_generator),
}


def zero_centred_penalty(logits: Tensor, x: Tensor) -> Tensor:
    """Mean squared gradient norm of ``logits`` [N] at ``x`` [N, C, H, W], which needs a gradient.

    R1 when ``x`` is real, R2 when it is generated: Mescheder et al., "Which Training Methods for
    GANs do actually Converge?" (2018). Weigh it by gamma / 2.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()
