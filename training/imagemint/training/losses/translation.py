"""The losses of translators: adversarial on patches, and terms that compare images.

A recipe composes a `TranslationLoss` from an `AdversarialLoss` and terms of G, as generators have
their `GanLoss`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagemint.training.losses.adversarial import AdversarialLoss
from imagemint.training.losses.gan_loss import Loss
from imagemint.training.networks.precision import Passes
from imagemint.training.networks.resnet import TwoWay


@dataclass
class Translated:
    """Sources and targets of a step, and the results of G. All images are in [-1, 1].

    Attributes:
        G: translator; a `TwoWay` where there is a way back.
        source: [N, S, H, W]; the mask, if any, is the last channel, 1 where it hides.
        target: [N, C, H', W']; of unpaired data, other images than the sources.
        fake: the results [N, C, H', W'] for ``source``.
        fake_source: for a `TwoWay`, the results [N, S, H, W] of the way back for ``target``.
        passes: runs the networks.
    """

    G: nn.Module
    source: Tensor
    target: Tensor
    fake: Tensor
    fake_source: Tensor | None
    passes: Passes

    @classmethod
    def of(cls, G: nn.Module, source: Tensor, target: Tensor, passes: Passes) -> "Translated":
        """Returns a step with the results of the current G, which keep their graph."""
        back = passes.run(G.back, target) if isinstance(G, TwoWay) else None
        return cls(G, source, target, passes.run(G, source), back, passes)

    @property
    def two_way(self) -> TwoWay:
        """The translator as a `TwoWay`.

        Raises:
            TypeError: it is not one.
        """
        if not isinstance(self.G, TwoWay):
            raise TypeError(f"{type(self.G).__name__} translates in one direction only")
        return self.G


class Term(nn.Module):
    """A further loss of G. Called with a `Translated`, it returns its parts by name.

    Their sum counts, times the weight.

    Args:
        weight: weight of the sum; 0 if it is not computed.
        after: number of images seen before it counts.
    """

    def __init__(self, weight: float = 1.0, *, after: int = 0) -> None:
        super().__init__()
        self.weight = weight
        self.after = after

    def compute_weight(self, images_seen: int) -> float:
        """Returns the weight after this number of images; at 0 the term is not computed."""
        return self.weight if images_seen >= self.after else 0.0

    def forward(self, batch: Translated) -> dict[str, Tensor]:
        """Returns scalars to be minimised, by the names they have in the log."""
        raise NotImplementedError


class L1(Term):
    """Mean absolute difference between result and target: Isola et al. (2016), equation 3."""

    def forward(self, batch: Translated) -> dict[str, Tensor]:
        """Returns the difference as ``l1``; values are in [-1, 1]."""
        return {"l1": F.l1_loss(batch.fake, batch.target)}


class L2(Term):
    """Mean squared difference between result and target, which maximises the PSNR.

    The content loss of SRResNet: Ledig et al. (2016), equation 4.
    """

    def forward(self, batch: Translated) -> dict[str, Tensor]:
        """Returns the difference as ``l2``; values are in [-1, 1]."""
        return {"l2": F.mse_loss(batch.fake, batch.target)}


class CycleConsistency(Term):
    """Round trips return the same image: Zhu et al. (2017), equation 2."""

    def forward(self, batch: Translated) -> dict[str, Tensor]:
        """Returns the mean absolute difference of both round trips, added up, as ``cycle``."""
        G, passes = batch.two_way, batch.passes
        if batch.fake_source is None:
            raise ValueError("the backward direction has not translated the targets")
        of_source = F.l1_loss(passes.run(G.back, batch.fake), batch.source)
        of_target = F.l1_loss(passes.run(G.there, batch.fake_source), batch.target)
        return {"cycle": of_source + of_target}


class IdentityLoss(Term):
    """Targets as sources stay unchanged: Zhu et al. (2017), section 5.2."""

    def forward(self, batch: Translated) -> dict[str, Tensor]:
        """Returns the mean absolute change of such images in both directions as ``identity``."""
        G, passes = batch.two_way, batch.passes
        of_target = F.l1_loss(passes.run(G.there, batch.target), batch.target)
        of_source = F.l1_loss(passes.run(G.back, batch.source), batch.source)
        return {"identity": of_source + of_target}


class TranslationLoss(nn.Module):
    """The losses of a translator and of its discriminators.

    The discriminators are modules by name: ``target`` judges results against targets, and
    ``source``, where there is a way back, its results against sources. The adversarial loss is the
    mean over all patches of all images.

    Args:
        adversarial: the adversarial losses.
        terms: further losses of G.
        weight: weight of the adversarial loss of G; 0: D is not trained, and the terms decide
            alone.
        after: images seen before D and the adversarial loss begin; G learns by the terms before.
        conditional: whether D also sees the source.
        pools: `ImagePool` by the name of a discriminator; it sees generated images through it.
    """

    def __init__(
        self,
        adversarial: AdversarialLoss,
        *,
        terms: Iterable[Term],
        weight: float = 1.0,
        after: int = 0,
        conditional: bool = False,
        pools: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.adversarial = adversarial
        self.terms = nn.ModuleList(terms)
        self.weight = weight
        self.after = after
        self.conditional = conditional
        self.pools = nn.ModuleDict(dict(pools or {}))

    def is_adversarial(self, images_seen: int) -> bool:
        """Returns whether D is trained and judges after this number of images."""
        return self.weight > 0 and images_seen >= self.after

    def discriminator_loss(self, D: nn.ModuleDict, batch: Translated) -> Loss:
        """Returns the loss of all discriminators, added up; nothing flows back to G."""
        losses = []
        for side, judge in D.items():
            real, fake, source = self._select_images(side, batch)
            fake = self.pools[side](fake) if side in self.pools else fake.detach()
            logits = (self._compute_logits(judge, each, source, batch) for each in (real, fake))
            losses.append(self.adversarial.discriminator(*logits))
        total = torch.stack(losses).sum()
        return Loss(total, total, [])

    def generator_loss(self, D: nn.ModuleDict, batch: Translated, images_seen: int) -> Loss:
        """Returns the loss of G: the adversarial one, where it counts, and its terms."""
        adversarial = batch.fake.new_zeros(())
        if self.is_adversarial(images_seen):
            for side, judge in D.items():
                real, fake, source = self._select_images(side, batch)
                with torch.no_grad():
                    known = (
                        self._compute_logits(judge, real, source, batch)
                        if self.adversarial.paired
                        else real.new_zeros(())
                    )
                logits = self._compute_logits(judge, fake, source, batch)
                adversarial = adversarial + self.adversarial.generator(known, logits)
        total = self.weight * adversarial
        found: list[tuple[str, Tensor]] = []
        for term in self.terms:
            if not isinstance(term, Term):
                raise TypeError(f"{type(term).__name__} is not a Term")
            weight = term.compute_weight(images_seen)
            if weight > 0:
                parts: dict[str, Tensor] = term(batch)
                total = total + weight * sum(parts.values())
                found += parts.items()
        return Loss(total, adversarial, found)

    def _select_images(self, side: str, batch: Translated) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns real images, generated ones, and the source that D sees beside them."""
        if side == "target":
            return batch.target, batch.fake, batch.source if self.conditional else None
        if side == "source" and batch.fake_source is not None:
            return batch.source, batch.fake_source, None
        raise ValueError(f"no images for the discriminator {side!r}")

    def _compute_logits(
        self, judge: nn.Module, x: Tensor, source: Tensor | None, batch: Translated
    ) -> Tensor:
        """Returns the logits of all patches of all images, [N h w]."""
        inputs = (x,) if source is None else (x, source)
        return batch.passes.run(judge, *inputs).flatten()
