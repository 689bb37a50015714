"""Style transfer by optimisation of the pixels of one image."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from imagemint.training.losses.style import StyleOptions, make_style_terms
from imagemint.training.losses.translation import Term, Translated
from imagemint.training.networks.precision import PLAIN


@dataclass(frozen=True)
class Stylized:
    """An image in another style.

    Attributes:
        image: [1, C, H, W] in [-1, 1].
        before: losses of the content itself, by name, without weights; ``total`` with them.
        after: losses of the image.
        seconds: duration of the optimisation.
    """

    image: Tensor
    before: dict[str, float]
    after: dict[str, float]
    seconds: float


def stylize(
    content: Tensor,
    style: Tensor,
    judge: nn.Sequential,
    shape: tuple[int, int, int],
    *,
    options: StyleOptions | None = None,
    steps: int = 100,
) -> Stylized:
    """Returns the content in the style of a picture.

    Gatys et al., "Image Style Transfer Using Convolutional Neural Networks" (2016): L-BFGS on the
    pixels, from the content on, here with a loss of total variation.

    Args:
        content: [1, C, H, W] in [-1, 1].
        style: [1, C, h, w] in [-1, 1].
        judge: layers of a trained classifier in order, in evaluation mode.
        shape: height, width and channels of the images that it was trained on.
        options: weights of the losses, and tiles.
        steps: steps of L-BFGS, each with up to 20 evaluations of the losses in the line search.
    """
    options = options or StyleOptions()
    terms = make_style_terms(judge, shape, style, options)
    # L-BFGS takes a view of the gradient, which channels-last memory does not allow.
    image = content.clone(memory_format=torch.contiguous_format).requires_grad_()
    optimizer = torch.optim.LBFGS([image], max_iter=steps, line_search_fn="strong_wolfe")

    def evaluate() -> Tensor:
        optimizer.zero_grad()
        total = _compute_total(terms, content, image)[0]
        total.backward()
        return total

    begin = time.perf_counter()
    optimizer.step(evaluate)
    seconds = time.perf_counter() - begin
    result = image.detach().clamp(-1, 1)
    return Stylized(
        result,
        measure_losses(terms, content, content),
        measure_losses(terms, content, result),
        seconds,
    )


@torch.no_grad()
def measure_losses(terms: Sequence[Term], content: Tensor, image: Tensor) -> dict[str, float]:
    """Returns each loss of an image by name, without its weight, and the weighted ``total``."""
    total, parts = _compute_total(terms, content, image)
    return {name: value.item() for name, value in parts.items()} | {"total": total.item()}


def _compute_total(
    terms: Sequence[Term], content: Tensor, image: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    batch = Translated(nn.Identity(), content, content, image, None, PLAIN)
    total = image.new_zeros(())
    found: dict[str, Tensor] = {}
    for term in terms:
        parts: dict[str, Tensor] = term(batch)
        total = total + term.weight * torch.stack(list(parts.values())).sum()
        found |= parts
    return total, found
