"""The losses of generator and discriminator, independent of their architectures.

A recipe composes a `GanLoss` from an `AdversarialLoss`, further terms of D and of G, an
augmentation of what D sees, and hooks before a step and after D's. Parts with a state keep it in
buffers, which checkpoints save and restore.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from imagemint.training.distributed import Batchwise
from imagemint.training.losses.adversarial import ADVERSARIAL_LOSSES, AdversarialLoss
from imagemint.training.networks.players import Discriminator
from imagemint.training.networks.precision import PLAIN, Passes
from imagemint.training.networks.views import View

_NOTHING = torch.empty(0)


@dataclass
class Batch:
    """The inputs and results of one step of one network. Each loss term reads what it needs.

    Attributes:
        seed: seed of the run; with ``position`` it addresses random numbers.
        position: number of D steps before this one.
        G: generator.
        D: discriminator.
        z: latents [N, z_dim].
        y: labels of the real images int64 [N]; -1 where the recipe hides them.
        c: condition int64 [N], the same for real and generated images; None for no condition.
        labelled: images with a visible label [M, C, H, W] besides the real ones; empty for recipes
            without them.
        y_labelled: their labels int64 [M].
        real: real images [N, C, H, W]; augmented after D has judged them.
        fake: generated images [N, C, H, W], likewise.
        real_images: the real images before augmentation. In D's turn R1 differentiates by them
            (Karras et al., 2020, and Huang et al., 2024, take it there); they may need a gradient.
        fake_images: the generated ones, for R2.
        view: form of the images.
        phi_real: D's features of the real images [N, F]; in G's turn only if a loss needs them.
        phi_fake: D's features of the generated images [N, F].
        real_logits: logits [N], or [N, K] if D makes K judgements; in G's turn only if a loss needs
            them.
        fake_logits: logits likewise.
        passes: runs D.
    """

    seed: int
    position: int
    G: nn.Module
    D: Discriminator
    z: Tensor
    y: Tensor
    c: Tensor | None
    real: Tensor
    fake: Tensor
    labelled: Tensor = field(default=_NOTHING)
    y_labelled: Tensor = field(default=_NOTHING)
    phi_real: Tensor = field(default=_NOTHING)
    phi_fake: Tensor = field(default=_NOTHING)
    real_logits: Tensor = field(default=_NOTHING)
    fake_logits: Tensor = field(default=_NOTHING)
    real_images: Tensor = field(default=_NOTHING)
    fake_images: Tensor = field(default=_NOTHING)
    view: View = field(default_factory=View)
    passes: Passes = PLAIN

    def judge_real(self, *, double_backward: bool = False) -> None:
        """Computes D's output for the real images.

        With ``double_backward``, a gradient penalty may use it.
        """
        self.phi_real, self.real_logits = self.judge(self.real, double_backward=double_backward)

    def judge_fake(self, *, double_backward: bool = False) -> None:
        """Computes D's output for the generated images; ``double_backward`` as for `judge_real`."""
        self.phi_fake, self.fake_logits = self.judge(self.fake, double_backward=double_backward)

    def judge(self, x: Tensor, *, double_backward: bool) -> tuple[Tensor, Tensor]:
        """Returns D's features [N, F] and logits [N] or [N, K] of images [N, C, H, W]."""
        phi = self.passes.compute_features(self.D, x, self.c, double_backward=double_backward)
        return phi, self.D.logits(phi, self.c)

    def lead(self) -> float:
        """Returns the share of pairs in which D rates the real image above the generated one."""
        return (self.real_logits > self.fake_logits).float().mean().item()


class Regularizer(nn.Module, Batchwise):
    """A further loss of a network. Called with a `Batch`, it returns its parts by name.

    Their sum counts, times `compute_weight`.

    Attributes:
        by_images: whether it differentiates logits with respect to the images.
        reads_real: whether, as a term of G, it needs D's view of the real images.

    Args:
        weight: weight of the sum.
        interval: computed every ``interval`` steps and multiplied by it, as in StyleGAN 2.
    """

    by_images = False
    reads_real = False

    def __init__(self, weight: float = 1.0, interval: int = 1) -> None:
        super().__init__()
        self.weight = weight
        self.interval = interval

    def compute_weight(self, images_seen: int) -> float:
        """Returns the weight after this number of images; at 0 the term is not computed."""
        del images_seen
        return self.weight

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns scalars to be minimised, by the names they have in the log."""
        raise NotImplementedError


class Augmentation(nn.Module, Batchwise):
    """Changes real and generated images before D sees them. This base class changes nothing.

    Attributes:
        view: form of the images; set by `GanLoss`.
        adversarial: adversarial loss of the run; set by `GanLoss`.
    """

    view: View = View()
    adversarial: AdversarialLoss = ADVERSARIAL_LOSSES["non-saturating"]

    def forward(self, x: Tensor, seed: int, position: int) -> Tensor:
        """Returns augmented images [N, C, H, W], a function of ``x``, seed and position."""
        del seed, position
        return x

    def adapt(self, batch: Batch) -> dict[str, float]:
        """Adapts the strength to the logits of a D step; returns values for the log."""
        del batch
        return {}


@dataclass
class Loss:
    """The loss of one network in one step.

    Attributes:
        total: scalar to differentiate.
        adversarial: its adversarial part, before the weight.
        terms: its other parts, before their weights, by their names in the log.
    """

    total: Tensor
    adversarial: Tensor
    terms: list[tuple[str, Tensor]]


class GanLoss(nn.Module):
    """The losses of both networks.

    Args:
        adversarial: the adversarial losses.
        terms_D: further losses of D.
        terms_G: further losses of G.
        adversarial_weight: weight of the adversarial loss of G, which its terms may replace.
        view: form in which G returns its images; None for that of real images.
        augmentation: augmentation of the images that D sees; None for no augmentation.
        after_D: called with D after each of its steps; None to do nothing.
        before_step: called with the images seen before each step; None to do nothing.
    """

    def __init__(
        self,
        adversarial: AdversarialLoss = ADVERSARIAL_LOSSES["non-saturating"],
        *,
        terms_D: Iterable[Regularizer] = (),
        terms_G: Iterable[Regularizer] = (),
        adversarial_weight: float = 1.0,
        view: View | None = None,
        augmentation: Augmentation | None = None,
        after_D: Callable[[nn.Module], None] | None = None,
        before_step: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__()
        self.adversarial = adversarial
        self.terms_D = nn.ModuleList(terms_D)
        self.terms_G = nn.ModuleList(terms_G)
        self.adversarial_weight = adversarial_weight
        self.view = view or View()
        self.augmentation = augmentation or Augmentation()
        self.augmentation.view, self.augmentation.adversarial = self.view, adversarial
        self.after_D = after_D or (lambda _: None)
        self.before_step = before_step or (lambda _: None)

    def list_due_terms(
        self, terms: nn.ModuleList, step: int, images_seen: int
    ) -> list[tuple[Regularizer, float]]:
        """Returns the terms that are computed in a step, with their weights."""
        return [
            (term, weight * term.interval)
            for term in _iterate_terms(terms)
            if step % term.interval == 0 and (weight := term.compute_weight(images_seen)) > 0
        ]

    def discriminator_loss(self, batch: Batch, step: int, images_seen: int) -> Loss:
        """Returns the loss of D in a step; leaves D's features and logits in ``batch``."""
        due = self.list_due_terms(self.terms_D, step, images_seen)
        self.show_discriminator(batch, by_images=any(term.by_images for term, _ in due))
        loss = self.adversarial.discriminator(batch.real_logits, batch.fake_logits)
        return _add_terms(loss, loss, due, batch)

    def generator_loss(self, batch: Batch, step: int, images_seen: int) -> Loss:
        """Returns the loss of G in a step; leaves D's features and logits in ``batch``."""
        due = self.list_due_terms(self.terms_G, step, images_seen)
        self.show_generator(batch, reads_real=any(term.reads_real for term, _ in due))
        loss = self.adversarial.generator(batch.real_logits, batch.fake_logits)
        return _add_terms(loss, self.adversarial_weight * loss, due, batch)

    def show_discriminator(self, batch: Batch, *, by_images: bool) -> None:
        """Computes D's output for both halves of a batch; ``by_images`` allows penalties on it."""
        batch.view = self.view
        batch.real_images = self.view(batch.real).detach().requires_grad_(by_images)
        batch.fake_images = batch.fake.detach().requires_grad_(by_images)
        batch.real = self.augmentation(batch.real_images, batch.seed, 4 * batch.position)
        batch.fake = self.augmentation(batch.fake_images, batch.seed, 4 * batch.position + 1)
        batch.judge_real(double_backward=by_images)
        batch.judge_fake(double_backward=by_images)

    def show_generator(self, batch: Batch, *, reads_real: bool) -> None:
        """Computes D's output for the generated images, and the real ones if G's losses need it.

        Args:
            batch: inputs of the step; gets the output.
            reads_real: whether a term of the step needs D's output for the real images.
        """
        batch.real_images, batch.fake_images = self.view(batch.real), batch.fake
        if self.adversarial.paired or reads_real:
            with torch.no_grad():
                batch.real = self.augmentation(
                    batch.real_images, batch.seed, 4 * batch.position + 2
                )
                batch.judge_real()
        batch.fake = self.augmentation(batch.fake, batch.seed, 4 * batch.position + 3)
        batch.judge_fake()


def _add_terms(
    adversarial: Tensor, total: Tensor, due: list[tuple[Regularizer, float]], batch: Batch
) -> Loss:
    found: list[tuple[str, Tensor]] = []
    for term, weight in due:
        parts: dict[str, Tensor] = term(batch)
        total = total + weight * sum(parts.values())
        found += parts.items()
    return Loss(total, adversarial, found)


def _iterate_terms(terms: nn.ModuleList) -> Iterator[Regularizer]:
    for term in terms:
        if not isinstance(term, Regularizer):
            raise TypeError(f"{type(term).__name__} is not a Regularizer")
        yield term
