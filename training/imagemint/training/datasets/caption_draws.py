"""Draws new captions of the people in a batch in each step of training."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imagemint.engine.captions import normalize
from imagemint.training.datasets.avatar_wordings import (
    CAPTIONS,
    READ,
    Caption,
    decode_person,
    draw_caption,
)
from imagemint.training.rng import Stream, make_rng


class CaptionDraws:
    """Draws captions of people, and the values that these captions allow.

    Args:
        count: captions of each person.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self, people: Tensor, seed: int, position: int) -> tuple[Tensor, Tensor]:
        """Returns tokens int64 [N, L] and the allowed values float32 [N, values].

        Args:
            people: class and attributes int64 [M, 1 + A]; N is M times the count.
            seed: seed of the run.
            position: position of the step.
        """
        rng = make_rng(seed, Stream.CAPTIONS, position)
        captions = [
            draw_caption(*decode_person(row), rng)
            for row in people.cpu().numpy()
            for _ in range(self.count)
        ]
        tokens = CAPTIONS.encode([normalize(caption.text) for caption in captions])
        tokens = tokens[:, : max(int((tokens > 0).sum(axis=1).max()), 1)]
        allowed = np.stack([_list_allowed(caption) for caption in captions])
        return torch.from_numpy(tokens), torch.from_numpy(allowed)


def _list_allowed(caption: Caption) -> NDArray[np.float32]:
    return np.array(
        [
            name not in caption.allowed or value in caption.allowed[name]
            for name, values in READ.items()
            for value in values
        ],
        np.float32,
    )
