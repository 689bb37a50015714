"""Further losses of the players, each after a paper."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagemint.training.game import Term, Turn
from imagemint.training.losses import Objective, one_centred_penalty, zero_centred_penalty
from imagemint.training.randomness import Stream, other_classes, uniforms
from imagemint.training.schedules import CosineRamp

# --- gradient penalties of D ---------------------------------------------------------------------


class ZeroCentredPenalties(Term):
    """R1 and R2: the squared gradient norm of D at real and at generated images.

    Mescheder et al. (2018); both, with gamma falling from one weight to another: Huang et al.,
    "The GAN is dead; long live the GAN!" (2024), appendix.

    Args:
        gamma: weight of each, halved, as the images go by.
        interval: steps between two.
        r2: whether generated images count as well.
    """

    by_images = True

    def __init__(self, gamma: CosineRamp, interval: int, *, r2: bool = True) -> None:
        super().__init__(interval=interval)
        self.gamma = gamma
        self.r2 = r2

    def weight_at(self, images_seen: int) -> float:
        """Returns half of gamma."""
        return self.gamma.at(images_seen) / 2

    def forward(self, turn: Turn) -> dict[str, Tensor]:
        """Returns ``r1``, and ``r2``."""
        found = {"r1": zero_centred_penalty(turn.real_logits, turn.real)}
        if self.r2:
            found["r2"] = zero_centred_penalty(turn.fake_logits, turn.fake)
        return found


class LipschitzPenalty(Term):
    """WGAN-GP: gradient norms of 1 on the lines between real and generated images.

    Gulrajani et al., "Improved Training of Wasserstein GANs" (2017).
    """

    def forward(self, turn: Turn) -> dict[str, Tensor]:
        """Returns ``gp``."""
        count = len(turn.real)
        share = uniforms(turn.seed, Stream.INTERPOLATION, turn.position, count, 1, 1, 1)
        between = turn.fake.detach().lerp(turn.real.detach(), share.to(turn.real.device))
        between.requires_grad_()
        return {"gp": one_centred_penalty(turn.D(between, turn.c), between)}


class WeightClipping:
    """The Lipschitz bound of the first WGAN: every weight of D within [-limit, limit].

    Arjovsky et al., "Wasserstein GAN" (2017), who call it "a clearly terrible way". Not a loss: it
    comes after a step of D.

    Args:
        limit: 0.01 in the paper.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit

    @torch.no_grad()
    def __call__(self, D: nn.Module) -> None:
        """Clips in place."""
        for parameter in D.parameters():
            parameter.clamp_(-self.limit, self.limit)


# --- what is told of the class -------------------------------------------------------------------


class Mismatch(Term):
    """Real images with another class than theirs, which D has to tell from those with their own.

    Reed et al., "Generative Adversarial Text to Image Synthesis" (2016). Only for a D whose
    features do not depend on the class: it uses them again and so costs next to nothing.
    """

    def __init__(self, weight: float, objective: Objective, num_classes: int) -> None:
        super().__init__(weight)
        self.objective = objective
        self.num_classes = num_classes

    def forward(self, turn: Turn) -> dict[str, Tensor]:
        """Returns ``mismatch``."""
        wrong = other_classes(turn.seed, turn.position, turn.y, self.num_classes)
        logits = turn.D.logits(turn.phi_real, wrong)
        return {"mismatch": self.objective.discriminator(turn.real_logits, logits)}
