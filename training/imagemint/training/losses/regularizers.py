"""Regularizers and further losses of both networks, each from a paper."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagemint.training.losses.adversarial import (
    AdversarialLoss,
    one_centred_penalty,
    zero_centred_penalty,
)
from imagemint.training.losses.gan_loss import Batch, Regularizer
from imagemint.training.losses.ramp import CosineRamp
from imagemint.training.rng import Stream, draw_other_classes, draw_uniforms

# --- gradient penalties of D ---------------------------------------------------------------------


class ZeroCentredPenalties(Regularizer):
    """R1 and R2: squared gradient norms of D at real and at generated images.

    Mescheder et al. (2018); both, with gamma falling from one weight to another: Huang et al., "The
    GAN is dead; long live the GAN!" (2024), appendix. As there, the gradient is with respect to the
    images before augmentation, and to every picture of a pyramid at its own size.

    Args:
        gamma: weight of each, halved, as the images go by.
        interval: steps between two computations.
        r2: whether generated images count, too.
    """

    by_images = True

    def __init__(self, gamma: CosineRamp, interval: int, *, r2: bool = True) -> None:
        super().__init__(interval=interval)
        self.gamma = gamma
        self.r2 = r2

    def compute_weight(self, images_seen: int) -> float:
        """Returns half of gamma."""
        return self.gamma.compute_value(images_seen) / 2

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns ``r1``, and ``r2``."""
        power = batch.view.power
        found = {"r1": zero_centred_penalty(batch.real_logits, batch.real_images, power)}
        if self.r2:
            found["r2"] = zero_centred_penalty(batch.fake_logits, batch.fake_images, power)
        return found


class LipschitzPenalty(Regularizer):
    """WGAN-GP: gradient norms of 1 on the lines between real and generated images.

    Gulrajani et al., "Improved Training of Wasserstein GANs" (2017). The lines are between images
    as D sees them, augmented where there is an augmentation: the bound is on D, not on both.
    """

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns ``gp``."""
        count = len(batch.real) * self.processes.world_size
        share = draw_uniforms(batch.seed, Stream.INTERPOLATION, batch.position, count, 1, 1, 1)
        share = self.processes.select_local_part(share).to(batch.real.device)
        between = batch.fake.detach().lerp(batch.real.detach(), share).requires_grad_()
        _, logits = batch.judge(between, double_backward=True)
        return {"gp": one_centred_penalty(logits, between)}


class LogitDrift(Regularizer):
    """Keeps D's logits near 0, which a loss of differences leaves free to drift.

    Karras et al., "Progressive Growing of GANs" (2017), appendix A.1: the mean square of the logits
    of real images, with a weight of 0.001.
    """

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns ``drift``."""
        return {"drift": batch.real_logits.square().mean()}


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


# --- losses that involve the class ----------------------------------------------------------------


class Mismatch(Regularizer):
    """Trains D to reject real images that are paired with a wrong class.

    Reed et al., "Generative Adversarial Text to Image Synthesis" (2016). It is only for a D whose
    features do not depend on the class: it reuses them and costs very little.
    """

    def __init__(self, weight: float, adversarial: AdversarialLoss, num_classes: int) -> None:
        super().__init__(weight)
        self.adversarial = adversarial
        self.num_classes = num_classes

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns ``mismatch``."""
        y = self.processes.all_gather(batch.y)
        other_classes = draw_other_classes(batch.seed, batch.position, y, self.num_classes)
        other_classes = self.processes.select_local_part(other_classes)
        logits = batch.D.logits(batch.phi_real, other_classes)
        return {"mismatch": self.adversarial.discriminator(batch.real_logits, logits)}


class Reconstruction(Regularizer):
    """Pulls the image of G towards the real image with the same condition, both not augmented.

    Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks" (2016). It
    needs a condition that decides the picture. With the class alone it is 0.
    """

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns ``reconstruction``: the mean absolute difference of values in [-1, 1]."""
        has_codes = batch.c is not None and batch.c.ndim == 2  # noqa: PLR2004 - axes
        difference = F.l1_loss(batch.fake_images, batch.real_images.detach())
        return {"reconstruction": difference if has_codes else 0 * difference}


class AuxiliaryClassifier(Regularizer):
    """Trains D to classify images, and G to make images of the requested class.

    Odena et al., "Conditional Image Synthesis with Auxiliary Classifier GANs" (2016). D's head
    ``classes`` learns from images, real ones or all; G wants its own to be recognised.

    Args:
        weight: weight of the cross-entropies.
        real: whether real images count: in D's turn.
        fake: whether generated images count: in G's turn, and in D's as in the paper.
    """

    def __init__(self, weight: float, *, real: bool, fake: bool) -> None:
        super().__init__(weight)
        self.real, self.fake = real, fake

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns ``class_fake`` and ``class_real``, those that count."""
        head = batch.D.heads["classes"]
        found = {}
        if self.fake:
            found["class_fake"] = F.cross_entropy(head(batch.phi_fake), _require_condition(batch))
        if self.real:
            found["class_real"] = F.cross_entropy(head(batch.phi_real), batch.y)
        return found


class Supervision(Regularizer):
    """Cross-entropy of D's K classes on images with a visible label.

    Salimans et al., "Improved Techniques for Training GANs" (2016), section 5. The images are the
    labelled ones of the batch or, without any, the real ones whose label is not hidden. A batch
    without visible labels counts nothing.
    """

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns ``supervised``."""
        phi, y = batch.phi_real, batch.y
        if len(batch.labelled):
            phi, y = batch.judge(batch.labelled, double_backward=False)[0], batch.y_labelled
        scores = batch.D.heads["classes"](phi)
        # Over all processes, because the batch counts as a whole: processes with more visible
        # labels count more.
        count = (
            self.processes.all_reduce_sum((y >= 0).sum()).clamp_min(1) / self.processes.world_size
        )
        entropy = F.cross_entropy(scores, y, ignore_index=-1, reduction="sum")
        return {"supervised": entropy / count}


class MutualInformation(Regularizer):
    """A lower bound of the mutual information between an image and its codes, by a head of D.

    Chen et al., "InfoGAN" (2016). The categorical code is the condition; the continuous ones are
    the first elements of the latent, normal where the paper has them uniform, so that one seed
    draws all. Counts for D, whose heads ``code`` and ``continuous`` learn it, and for G.

    The bound is the log-likelihood of the codes. That of the continuous ones, Gaussian with a
    variance of 1, as in the authors' code for MNIST, is the sum of the squared distances of all
    codes, halved.

    Args:
        weight: lambda of the paper.
        continuous: number of elements of the latent that are codes.
        continuous_weight: weight of the continuous codes, beside the categorical one.
    """

    def __init__(self, weight: float, continuous: int, continuous_weight: float = 1.0) -> None:
        super().__init__(weight)
        self.continuous = continuous
        self.continuous_weight = continuous_weight

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns ``code``, the cross-entropy, and ``continuous``, half the squared distance."""
        heads = batch.D.heads
        found = {"code": F.cross_entropy(heads["code"](batch.phi_fake), _require_condition(batch))}
        if self.continuous:
            difference = heads["continuous"](batch.phi_fake) - batch.z[:, : self.continuous]
            found["continuous"] = (
                self.continuous_weight * 0.5 * difference.square().sum(dim=1).mean()
            )
        return found


def _require_condition(batch: Batch) -> Tensor:
    if batch.c is None:
        raise ValueError("the recipe has no condition")
    return batch.c


# --- the improved techniques: Salimans et al., "Improved Techniques for Training GANs" (2016) -----


class FeatureMatching(Regularizer):
    """Matches the mean features of generated and of real images; section 3.1.

    In the paper it is G's whole loss: set `GanLoss.adversarial_weight` to 0 for that. The squared
    distance is averaged over the features where the paper sums, so that the weight does not depend
    on the network's width. If it is G's only loss, Adam takes out this constant factor, as long as
    gradients are large beside its epsilon. Beside other losses the factor changes the weight.
    """

    reads_real = True

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns ``features``."""
        fake, real = (
            self.processes.all_reduce_mean(phi.mean(dim=0))
            for phi in (batch.phi_fake, batch.phi_real)
        )
        return {"features": F.mse_loss(fake, real)}


class HistoricalAverage(Regularizer):
    """Keeps the parameters of a network near their historical average; section 3.3.

    Args:
        weight: weight of the squared distance.
        player: network of the parameters.
        name: name of the part in the log.
    """

    count: Tensor

    def __init__(self, weight: float, player: nn.Module, name: str) -> None:
        super().__init__(weight)
        # In a tuple; otherwise the module would become a part of this one and be saved twice.
        self.player = (player,)
        self.name = name
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.means = nn.ParameterList(
            nn.Parameter(p.detach().clone(), requires_grad=False) for p in player.parameters()
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the squared distance, and adds the current parameters to the mean."""
        del batch
        pairs = list(zip(self.player[0].parameters(), self.means, strict=True))
        distance = torch.stack([(current - mean).square().sum() for current, mean in pairs]).sum()
        with torch.no_grad():
            self.count += 1
            for current, mean in pairs:
                mean.lerp_(current, 1 / float(self.count))
        return {self.name: distance}
