"""A generator that takes captions: a reader of captions, and a generator that takes attributes.

The reader finds which values of each attribute a caption allows. The graph draws one of them from
the latent by the frequencies of the data, so attributes that are not named vary. A generator that
takes attributes, such as `AttributeGenerator`, draws the picture.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagemint.training.networks.attributes import Frequencies

_READING_GAIN = 10.0
_LEAST = 1e-7  # above 0, so that a first value that is not allowed is never drawn


class CaptionReader(nn.Module):
    """Converts captions to logits for each value of each attribute, positive for allowed ones.

    Convolutions connect a colour with its noun. The maximum over the words ignores the place of a
    phrase, so the order of phrases does not matter.

    Its weights are stored as a tenth of their values, so that it learns ten times as fast as the
    networks of images, which have the same optimiser: at 6e-4 it read no caption correctly after
    500 steps.

    Args:
        words: number of words in the vocabulary.
        outputs: number of logits.
        width: channels of the embedding and of the convolutions.
        reach: number of words that a convolution sees.
    """

    def __init__(self, words: int, outputs: int, *, width: int = 64, reach: int = 5) -> None:
        super().__init__()
        self.embed = nn.Embedding(words + 1, width, padding_idx=0)
        self.convs = nn.ModuleList(
            nn.Conv1d(width, width, reach, padding=reach // 2) for _ in range(2)
        )
        self.hidden = nn.Linear(width, 2 * width)
        self.logits = nn.Linear(2 * width, outputs)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.div_(_READING_GAIN)

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns logits [N, outputs] for ``tokens`` int64 [N, L], padded with 0 at the end."""
        here = (tokens > 0)[:, None].to(self.embed.weight.dtype)
        h = self.embed(tokens).transpose(1, 2) * _READING_GAIN
        for conv in self.convs:
            weight, bias = _apply_gain(conv)
            # Masked, so that the number of padded places does not matter.
            h = (h + F.relu(F.conv1d(h, weight, bias, padding=weight.shape[2] // 2))) * here
        h = F.relu(h).amax(dim=2)
        h = F.relu(F.linear(h, *_apply_gain(self.hidden)))
        return F.linear(h, *_apply_gain(self.logits))


def _apply_gain(layer: nn.Module) -> tuple[Tensor, Tensor]:
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    return weight * _READING_GAIN, bias * _READING_GAIN


class CaptionGenerator(nn.Module):
    """Draws attributes that fit a caption from the latent, and a picture from the attributes.

    Args:
        z_dim: length of a latent. Its first elements, one for each attribute with the class as the
            first, decide what a caption leaves open.
        num_classes: number of classes, which are the first attribute.
        words: number of words in the vocabulary.
        frequencies: frequencies of the further attributes, at least one.
        painter: makes the generator of the pictures for a length of its latents. It is called with
            latents and with class and attributes int64 [N, 1 + A].
    """

    def __init__(
        self,
        z_dim: int,
        num_classes: int,
        *,
        words: int,
        frequencies: Frequencies,
        painter: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        classes = {"class": np.full((1, num_classes), 1 / num_classes)}
        tables = {**classes, **frequencies}
        self.sizes = [table.shape[1] for table in tables.values()]
        for k, table in enumerate(tables.values()):
            frequency = torch.from_numpy(table.astype(np.float32))
            self.register_buffer(f"frequency_{k}", frequency, persistent=False)
        self.reader = CaptionReader(words, sum(self.sizes))
        self.painter = painter(z_dim - 1)

    def read(self, tokens: Tensor) -> list[Tensor]:
        """Returns which values ``tokens`` int64 [N, L] allow, bool [N, values], by attribute.

        If no logit is positive, it is the most likely value.
        """
        parts = self.reader(tokens).split(self.sizes, dim=1)
        return [logits >= logits.amax(dim=1, keepdim=True).clamp_max(0) for logits in parts]

    def compute_codes(self, z: Tensor, allowed: list[Tensor] | None = None) -> Tensor:
        """Returns class and attributes int64 [N, 1 + A] that latents have.

        Each is drawn by the frequencies of those values that are allowed. Where these never occur
        together with the class, all values are allowed.

        Args:
            z: latents [N, z_dim].
            allowed: bool [N, values] for each attribute; None if all values are allowed.
        """
        u = (0.5 + 0.5 * torch.erf(z[:, : len(self.sizes)] / 2**0.5)).clamp_min(_LEAST)
        columns: list[Tensor] = []
        for k in range(len(self.sizes)):
            table = self.get_buffer(f"frequency_{k}")
            # Not `len(z)`, a constant for the exporter, which then traces again in a slower way.
            usual = table[columns[0]] if k else table.expand(z.shape[0], -1)
            if allowed is not None:
                masked = usual * allowed[k].to(usual.dtype)
                # A sum would be equivalent, but the engine probes sums for half a minute.
                usual = torch.where(masked.amax(dim=1, keepdim=True) > 0, masked, usual)
            limits = usual.cumsum(dim=1)
            place = u[:, k, None] * limits[:, -1:]
            columns.append((place > limits[:, :-1]).long().sum(dim=1))
        return torch.stack(columns, dim=1)

    def forward(self, z: Tensor, y: Tensor | None = None, tokens: Tensor | None = None) -> Tensor:
        """Returns what the painter draws; with z alone there is no condition.

        Args:
            z: latents [N, z_dim].
            y: class and attributes int64 [N, 1 + A], as in training, or classes [N].
            tokens: tokens of captions int64 [N, L], each padded with 0 at the end.
        """
        has_codes = y is not None and y.ndim == 2  # noqa: PLR2004 - axes
        codes = y if has_codes else self.compute_codes(z, self._find_allowed(y, tokens))
        images: Tensor = self.painter(z[:, 1:], codes)
        return images

    def _find_allowed(self, y: Tensor | None, tokens: Tensor | None) -> list[Tensor] | None:
        if tokens is not None:
            return self.read(tokens)
        if y is None:
            return None
        unrestricted = [torch.ones(len(y), size, device=y.device) for size in self.sizes[1:]]
        return [F.one_hot(y, self.sizes[0]), *unrestricted]
