"""Stacked MNIST: three digits, one in each colour channel, a thousand modes.

Metz et al., "Unrolled Generative Adversarial Networks" (2017); Srivastava et al., "VEEGAN" (2017).
Its pictures are not published; each is drawn from MNIST.
"""

import numpy as np

from imagemint.training.datasets.download import compute_digest
from imagemint.training.datasets.images import LabelledImages

STACK = 3
_STREAM = 7


def stack_digits(digits: LabelledImages, count: int, seed: int = 0) -> LabelledImages:
    """Returns RGB images whose channels are three independently drawn gray images.

    Stack i is a function of digits, seed and i, so a smaller data set is the beginning of a larger
    one. Labels are the numbers that the digits form, red first: ten classes give a thousand.

    Args:
        digits: gray images [N, H, W, 1] of K classes.
        count: number of stacks; each has 2,352 bytes for MNIST. Papers use 25,600 to 128,000 and
            more.
        seed: determines the digits of each stack.
    """
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, _STREAM], np.uint64)))
    rows = rng.integers(0, len(digits), (count, STACK))
    K = len(digits.class_labels)
    return LabelledImages(
        name=digits.name.replace("mnist", "stacked-mnist"),
        images=digits.images[rows, :, :, 0].transpose(0, 2, 3, 1).copy(),
        labels=digits.labels[rows] @ np.array([K * K, K, 1]),
        class_labels=tuple(
            red + green + blue
            for red in digits.class_labels
            for green in digits.class_labels
            for blue in digits.class_labels
        ),
        sha256=compute_digest([f"{digits.sha256} {count} {seed}".encode()]),
        license=digits.license,
    )
