"""The form in which images travel between the two networks."""

from collections.abc import Callable

from torch import Tensor

Distortion = Callable[[Tensor, Tensor], Tensor]
"""Takes pictures [M, C, H, W] and the random numbers [K, M] that decide what becomes of each."""


class View:
    """Images as they are: one picture [N, C, H, W] for each."""

    def __call__(self, x: Tensor) -> Tensor:
        """Returns real images ``x`` [N, C, H, W] in the form in which G returns its own."""
        return x

    def distort_images(self, x: Tensor, distort: Distortion, chances: Tensor) -> Tensor:
        """Returns images of this form with every picture distorted alike.

        Args:
            x: images in this form.
            distort: what is done to pictures.
            chances: random numbers [K, N], those of an image in a column.
        """
        return distort(x, chances)

    def power(self, gradient: Tensor) -> Tensor:
        """Returns the squared norm [N] of a gradient by images of this form."""
        return gradient.square().sum(dim=(1, 2, 3))
