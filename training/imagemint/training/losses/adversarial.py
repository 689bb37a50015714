"""Adversarial losses and gradient penalties.

Every loss takes logits float32 [N] and returns a scalar to be minimised.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]
"""Takes (real logits [N], fake logits [N])."""


@dataclass(frozen=True)
class AdversarialLoss:
    """A pair of losses, of D and of G.

    Attributes:
        discriminator: loss of D.
        generator: loss of G.
        paired: whether G's loss needs the real logits, which cost one more pass through D.
        relative: whether only differences of logits count, so that a constant added to all of them
            changes nothing and the sign of one says nothing.
        middle: logit half-way between the targets of real and generated images.
        judgements: number of logits that D has for an image, K; with more than 1 the losses take
            logits [N, K].
    """

    discriminator: Loss
    generator: Loss
    paired: bool = False
    relative: bool = False
    middle: float = 0.0
    judgements: int = 1

    def compute_signs(self, real: Tensor, fake: Tensor) -> Tensor:
        """Returns for each real image whether D recognises it: 1, or -1 if not, or 0: [N].

        The mean is the overfitting of adaptive augmentation. It uses the sign of D(real) if that
        has a meaning, and otherwise that of D(real) - D(fake).

        Args:
            real: logits [N].
            fake: logits [N] of as many generated images.
        """
        return (real - fake if self.relative else real - self.middle).sign()


# --- the original GAN: Goodfellow et al., "Generative Adversarial Nets" (2014) ------------------


def cross_entropy_discriminator(real: Tensor, fake: Tensor, *, real_target: float = 1.0) -> Tensor:
    """Returns the binary cross-entropy of D, ``-log D(x) - log(1 - D(G(z)))``.

    With ``real_target`` below 1, only the target of real images is smoothed: Salimans et al.,
    "Improved Techniques for Training GANs" (2016), section 3.4.
    """
    of_real = F.softplus(-real) if real_target == 1 else F.softplus(real) - real_target * real
    return of_real.mean() + F.softplus(fake).mean()


def saturating_generator(real: Tensor, fake: Tensor) -> Tensor:
    """Returns the minimax loss of G, ``log(1 - D(G(z)))``, which is flat if D is certain."""
    del real
    return -F.softplus(fake).mean()


def non_saturating_generator(real: Tensor, fake: Tensor) -> Tensor:
    """Returns ``-log D(G(z))``, the loss in the paper's experiments, steep if D is certain."""
    del real
    return F.softplus(-fake).mean()


# --- later losses --------------------------------------------------------------------------------


def least_squares_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Returns the least-squares loss of D, targets 1 and 0: Mao et al., "LSGAN" (2016), eq. 9."""
    return 0.5 * (real - 1).square().mean() + 0.5 * fake.square().mean()


def least_squares_generator(real: Tensor, fake: Tensor) -> Tensor:
    """Returns the least-squares loss of G with target 1."""
    del real
    return 0.5 * (fake - 1).square().mean()


def wasserstein_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Returns minus the estimated earth mover's distance: Arjovsky et al., "WGAN" (2017).

    The estimate holds only for a Lipschitz D: add `regularizers.WeightClipping` or
    `regularizers.LipschitzPenalty`.
    """
    return fake.mean() - real.mean()


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Returns the hinge loss of D: Lim & Ye, "Geometric GAN" (2017)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def raise_generator(real: Tensor, fake: Tensor) -> Tensor:
    """Returns the loss of G for the hinge and the Wasserstein loss of D: ``-D(G(z))``."""
    del real
    return -fake.mean()


def relativistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Returns the relativistic pairing loss of D, ``E softplus(D(fake) - D(real))``.

    Jolicoeur-Martineau, "The relativistic discriminator" (2018); with R1 and R2 it converges
    locally: Huang et al., "The GAN is dead; long live the GAN!" (2024).
    """
    return F.softplus(fake - real).mean()


def relativistic_generator(real: Tensor, fake: Tensor) -> Tensor:
    """Returns the relativistic pairing loss of G, which mirrors that of D."""
    return F.softplus(real - fake).mean()


ADVERSARIAL_LOSSES = {
    "saturating": AdversarialLoss(cross_entropy_discriminator, saturating_generator),
    "non-saturating": AdversarialLoss(cross_entropy_discriminator, non_saturating_generator),
    "least-squares": AdversarialLoss(
        least_squares_discriminator, least_squares_generator, middle=0.5
    ),
    "wasserstein": AdversarialLoss(wasserstein_discriminator, raise_generator, relative=True),
    "hinge": AdversarialLoss(hinge_discriminator, raise_generator),
    "relativistic": AdversarialLoss(
        relativistic_discriminator, relativistic_generator, paired=True, relative=True
    ),
}


def smooth_labels(real_target: float) -> AdversarialLoss:
    """Returns the non-saturating loss with one-sided label smoothing, ``real_target`` in (0, 1]."""
    discriminator = partial(cross_entropy_discriminator, real_target=real_target)
    return AdversarialLoss(discriminator, non_saturating_generator)


def sum_judgements(
    loss: AdversarialLoss, judgements: int, columns: Sequence[int]
) -> AdversarialLoss:
    """Returns the sum of a loss over some judgements of D, whose logits are float32 [N, K].

    Args:
        loss: loss of each judgement by itself.
        judgements: their number K.
        columns: those that count.
    """

    def sum_columns(part: Loss) -> Loss:
        return lambda real, fake: torch.stack(
            [part(real[:, column], fake[:, column]) for column in columns]
        ).sum()

    return replace(
        loss,
        discriminator=sum_columns(loss.discriminator),
        generator=sum_columns(loss.generator),
        judgements=judgements,
    )


# --- gradient penalties --------------------------------------------------------------------------


Power = Callable[[Tensor], Tensor]
"""Takes a gradient by images and returns its squared norm for each, [N]."""


def _compute_power(gradient: Tensor) -> Tensor:
    return gradient.square().sum(dim=(1, 2, 3))


def _squared_gradient_norms(logits: Tensor, x: Tensor, power: Power = _compute_power) -> Tensor:
    """Returns |d logit / d x|^2 for each image, [N], itself differentiable."""
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return power(gradient)


def zero_centred_penalty(logits: Tensor, x: Tensor, power: Power = _compute_power) -> Tensor:
    """Returns the mean squared gradient norm of ``logits`` [N] at ``x`` [N, C, H, W].

    Of K judgements of an image, logits [N, K], the squared norms are added.

    It is R1 for real ``x``, and R2 for generated ``x``: Mescheder et al., "Which Training Methods
    for GANs do actually Converge?" (2018). Multiply it by gamma / 2.

    Args:
        logits: logits of D, computed from ``x``.
        x: images that need a gradient.
        power: squared norm of a gradient, if ``x`` has several pictures of each image.
    """
    judgements = logits.unbind(1) if logits.ndim > 1 else [logits]
    norms = [_squared_gradient_norms(judgement, x, power) for judgement in judgements]
    return torch.stack(norms).sum(dim=0).mean()


def one_centred_penalty(logits: Tensor, x: Tensor) -> Tensor:
    """Returns the mean squared distance of the gradient norm from 1.

    ``x`` lies between real and generated images. Gulrajani et al., "Improved Training of
    Wasserstein GANs" (2017). Multiply it by 10.
    """
    norms = _squared_gradient_norms(logits, x).add(1e-12).sqrt()  # the root has no derivative at 0
    return (norms - 1).square().mean()
