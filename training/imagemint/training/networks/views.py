"""The form of images between the two networks."""

from collections.abc import Callable

from torch import Tensor

Distortion = Callable[[Tensor, Tensor], Tensor]
"""Distorts pictures [M, C, H, W] with random numbers [K, M]."""


class View:
    """Plain images: one picture [N, C, H, W] for each."""

    def __call__(self, x: Tensor) -> Tensor:
        """Returns real images ``x`` [N, C, H, W] in the form in which G returns its own."""
        return x

    def distort_images(self, x: Tensor, distort: Distortion, chances: Tensor) -> Tensor:
        """Returns images of this form with every picture distorted in the same way.

        Args:
            x: images in this form.
            distort: distorts pictures.
            chances: random numbers [K, N], with a column for each image.
        """
        return distort(x, chances)

    def power(self, gradient: Tensor) -> Tensor:
        """Returns the squared norm [N] of a gradient by images of this form."""
        return gradient.square().sum(dim=(1, 2, 3))
