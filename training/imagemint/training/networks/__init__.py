"""Networks, named as in the papers; each module tells its source.

Letters used in the mathematics: ``z`` latent, ``y`` integer class, ``c`` what a network is told of
it (nothing: None), ``x`` image in [-1, 1] as float32 NCHW, ``phi`` features of an image, ``G``
generator, ``D`` discriminator.
"""

from imagemint.training.networks.convolutional import (
    ConditionalGenerator,
    ProjectionDiscriminator,
)
from imagemint.training.networks.players import Discriminator, Shape, draw

__all__ = [
    "ConditionalGenerator",
    "Discriminator",
    "ProjectionDiscriminator",
    "Shape",
    "draw",
]
