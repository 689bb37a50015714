"""Networks, named as in the papers; each module names its source.

Letters used in the mathematics: ``z`` latent, ``y`` integer class, ``c`` the condition
(None: no condition), ``x`` image in [-1, 1] as float32 NCHW, ``phi`` features of an image, ``w``
intermediate latent, ``G`` generator, ``D`` discriminator.
"""

from imagemint.training.networks.attributes import AttributeDiscriminator, AttributeGenerator
from imagemint.training.networks.captions import CaptionGenerator, CaptionReader
from imagemint.training.networks.convolutional import (
    ConditionalGenerator,
    ConvolutionalDiscriminator,
    ProjectionDiscriminator,
    VirtuallyNormalisedGenerator,
)
from imagemint.training.networks.layers import MinibatchDeviation, MinibatchDiscrimination
from imagemint.training.networks.mlp import MlpDiscriminator, MlpGenerator
from imagemint.training.networks.multiscale import (
    MultiScaleDiscriminator,
    MultiScaleGenerator,
    Pyramid,
    make_pyramid,
)
from imagemint.training.networks.patch import PatchDiscriminator
from imagemint.training.networks.players import Discriminator, Shape, draw
from imagemint.training.networks.progressive import (
    GrowingDiscriminator,
    GrowingGenerator,
    Grown,
    compute_level,
    count_growing_images,
)
from imagemint.training.networks.residual import ResidualDiscriminator, ResidualGenerator
from imagemint.training.networks.resnet import ResnetGenerator, TwoWay
from imagemint.training.networks.semi_supervised import (
    DenseGenerator,
    DenseSemiSupervisedDiscriminator,
    SemiSupervisedDiscriminator,
)
from imagemint.training.networks.stacked import StackedDiscriminator, StackedGenerator
from imagemint.training.networks.style import StyleGenerator
from imagemint.training.networks.super_resolution import SRResNet
from imagemint.training.networks.unet import UNet
from imagemint.training.networks.views import View

__all__ = [
    "AttributeDiscriminator",
    "AttributeGenerator",
    "CaptionGenerator",
    "CaptionReader",
    "ConditionalGenerator",
    "ConvolutionalDiscriminator",
    "DenseGenerator",
    "DenseSemiSupervisedDiscriminator",
    "Discriminator",
    "GrowingDiscriminator",
    "GrowingGenerator",
    "Grown",
    "MinibatchDeviation",
    "MinibatchDiscrimination",
    "MlpDiscriminator",
    "MlpGenerator",
    "MultiScaleDiscriminator",
    "MultiScaleGenerator",
    "PatchDiscriminator",
    "ProjectionDiscriminator",
    "Pyramid",
    "ResidualDiscriminator",
    "ResidualGenerator",
    "ResnetGenerator",
    "SRResNet",
    "SemiSupervisedDiscriminator",
    "Shape",
    "StackedDiscriminator",
    "StackedGenerator",
    "StyleGenerator",
    "TwoWay",
    "UNet",
    "View",
    "VirtuallyNormalisedGenerator",
    "compute_level",
    "count_growing_images",
    "draw",
    "make_pyramid",
]
