"""Stacked MNIST, composed from MNIST: the benchmark of mode coverage."""

import hashlib

import numpy as np

from imagemint.training.datasets import LabelledImages

IMAGES = 128_000
_STREAM = 7


def stack_digits(digits: LabelledImages, count: int, seed: int = 0) -> LabelledImages:
    """Returns RGB images whose channels are three gray images drawn independently.

    Metz et al., "Unrolled Generative Adversarial Networks" (2016). Labels are three-digit numbers,
    red first: 10 classes give 1000. A function of the digits and the seed.

    Args:
        digits: gray images.
        count: images to compose; the literature takes 25,600 to 128,000 and more.
        seed: decides which are stacked.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, _STREAM]))
    rows = rng.integers(0, len(digits), (count, 3))
    K = len(digits.class_labels)
    labels = (digits.labels[rows] * np.array([K * K, K, 1])).sum(axis=1)
    return LabelledImages(
        name=digits.name.replace("mnist", "stacked-mnist"),
        images=digits.images[rows, :, :, 0].transpose(0, 2, 3, 1).copy(),
        labels=labels,
        class_labels=tuple(
            a + b + c
            for a in digits.class_labels
            for b in digits.class_labels
            for c in digits.class_labels
        ),
        sha256=hashlib.sha256(f"{digits.sha256} {count} {seed}".encode()).hexdigest(),
    )
