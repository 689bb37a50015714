"""The game that two networks play: the losses of each, whichever networks they are.

A recipe composes a game of an `Objective`, further terms of D and of G, an augmentation of what D
sees, and hooks before a step and after D's. Parts with a state keep it in buffers, which
checkpoints save and restore.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from imagemint.training.distributed import Batchwise
from imagemint.training.losses.adversarial import OBJECTIVES, Objective
from imagemint.training.networks.players import Discriminator
from imagemint.training.networks.precision import PLAIN, Passes
from imagemint.training.networks.views import View

_NOTHING = torch.empty(0)


@dataclass
class Turn:
    """The inputs and results of one turn, from which a term takes what it needs.

    Attributes:
        seed: of the run; with ``position`` it addresses random numbers.
        position: turns of D before this one.
        G: generator.
        D: discriminator.
        z: latents [N, z_dim].
        y: labels of the real images int64 [N]; -1 where the recipe hides them.
        c: what the networks are told int64 [N], of real and fake images alike; None: nothing.
        real: real images [N, C, H, W]; once looked at, as D sees them.
        fake: generated images [N, C, H, W], likewise.
        real_images: in D's turn the real images before augmentation, by which R1 differentiates
            (Karras et al., 2020, and Huang et al., 2024, take it there); they may need a gradient.
        fake_images: the generated ones, for R2.
        view: form of the images.
        phi_real: D's features of the real images [N, F]; in G's turn only where it asks for them.
        phi_fake: D's features of the generated images [N, F].
        real_logits: [N]; in G's turn only where it asks for them.
        fake_logits: [N].
        passes: how D is run.
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
    phi_real: Tensor = field(default=_NOTHING)
    phi_fake: Tensor = field(default=_NOTHING)
    real_logits: Tensor = field(default=_NOTHING)
    fake_logits: Tensor = field(default=_NOTHING)
    real_images: Tensor = field(default=_NOTHING)
    fake_images: Tensor = field(default=_NOTHING)
    view: View = field(default_factory=View)
    passes: Passes = PLAIN

    def look_at_real(self, *, twice: bool = False) -> None:
        """Lets D judge the real images; with ``twice``, for a gradient that counts as a loss."""
        self.phi_real, self.real_logits = self.judged(self.real, twice=twice)

    def look_at_fake(self, *, twice: bool = False) -> None:
        """Lets D judge the generated images; ``twice`` as above."""
        self.phi_fake, self.fake_logits = self.judged(self.fake, twice=twice)

    def judged(self, x: Tensor, *, twice: bool) -> tuple[Tensor, Tensor]:
        """Returns D's features [N, F] and logits [N] of any images [N, C, H, W] of this turn."""
        phi = self.passes.features(self.D, x, self.c, twice=twice)
        return phi, self.D.logits(phi, self.c)

    def lead(self) -> float:
        """Returns the share of pairs in which D rates the real image above the generated one."""
        return (self.real_logits > self.fake_logits).float().mean().item()


class Term(nn.Module, Batchwise):
    """A further loss of a player: called with a `Turn`, it returns its parts by their names.

    Their sum counts, times `weight_at`.

    Attributes:
        by_images: whether it differentiates logits by the images that D sees.
        reads_real: whether, as a term of G, it needs D's view of the real images.

    Args:
        weight: of the sum.
        interval: steps between two; each counts as many times, as in StyleGAN 2.
    """

    by_images = False
    reads_real = False

    def __init__(self, weight: float = 1.0, interval: int = 1) -> None:
        super().__init__()
        self.weight = weight
        self.interval = interval

    def weight_at(self, images_seen: int) -> float:
        """Returns the weight after so many images; where it is 0 the term is not computed."""
        del images_seen
        return self.weight

    def forward(self, turn: Turn) -> dict[str, Tensor]:
        """Returns scalars to be minimised, by the names they have in the log."""
        raise NotImplementedError


class Augmentation(nn.Module, Batchwise):
    """What happens to images, real and generated alike, before D sees them. Here: nothing.

    Attributes:
        view: form of the images; set by `Game`.
        objective: of the game; set by `Game`.
    """

    view: View = View()
    objective: Objective = OBJECTIVES["non-saturating"]

    def forward(self, x: Tensor, seed: int, position: int) -> Tensor:
        """Returns images like ``x`` [N, C, H, W]; chance is a function of seed and position."""
        del seed, position
        return x

    def adapt(self, turn: Turn) -> dict[str, float]:
        """Adapts to what D made of its turn; returns figures for the log."""
        del turn
        return {}


class Game(nn.Module):
    """The losses of both players.

    Args:
        objective: the adversarial losses.
        terms_D: further losses of D.
        terms_G: further losses of G.
        adversarial_weight: of the adversarial loss of G, which its terms may replace.
        view: form in which G returns its images; None: as real ones are.
        augmentation: of what D sees; None: it sees images as they are.
        after_D: called with D after each of its steps; None: nothing is done to it.
        before_step: called with the images seen before each step; None: nothing is done.
    """

    def __init__(
        self,
        objective: Objective = OBJECTIVES["non-saturating"],
        *,
        terms_D: Iterable[Term] = (),
        terms_G: Iterable[Term] = (),
        adversarial_weight: float = 1.0,
        view: View | None = None,
        augmentation: Augmentation | None = None,
        after_D: Callable[[nn.Module], None] | None = None,
        before_step: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__()
        self.objective = objective
        self.terms_D = nn.ModuleList(terms_D)
        self.terms_G = nn.ModuleList(terms_G)
        self.adversarial_weight = adversarial_weight
        self.view = view or View()
        self.augmentation = augmentation or Augmentation()
        self.augmentation.view, self.augmentation.objective = self.view, objective
        self.after_D = after_D or (lambda _: None)
        self.before_step = before_step or (lambda _: None)

    def due(self, terms: nn.ModuleList, step: int, images_seen: int) -> list[tuple[Term, float]]:
        """Returns the terms that count in a step, with their weights."""
        return [
            (term, weight * term.interval)
            for term in _terms(terms)
            if step % term.interval == 0 and (weight := term.weight_at(images_seen)) > 0
        ]

    def show_discriminator(self, turn: Turn, *, by_images: bool) -> None:
        """Shows D both halves of a batch; with ``by_images`` its terms differentiate by them."""
        turn.view = self.view
        turn.real_images = self.view(turn.real).detach().requires_grad_(by_images)
        turn.fake_images = turn.fake.detach().requires_grad_(by_images)
        turn.real = self.augmentation(turn.real_images, turn.seed, 4 * turn.position)
        turn.fake = self.augmentation(turn.fake_images, turn.seed, 4 * turn.position + 1)
        turn.look_at_real(twice=by_images)
        turn.look_at_fake(twice=by_images)

    def show_generator(self, turn: Turn) -> None:
        """Shows D the generated images, and the real ones where G's losses look at them."""
        if self.objective.paired or any(term.reads_real for term in _terms(self.terms_G)):
            with torch.no_grad():
                real = self.view(turn.real)
                turn.real = self.augmentation(real, turn.seed, 4 * turn.position + 2)
                turn.look_at_real()
        turn.fake = self.augmentation(turn.fake, turn.seed, 4 * turn.position + 3)
        turn.look_at_fake()


def _terms(terms: nn.ModuleList) -> Iterator[Term]:
    for term in terms:
        if not isinstance(term, Term):
            raise TypeError(f"{type(term).__name__} is no Term")
        yield term
