"""Datasets for PyTorch over a server or an engine. It needs torch, which no extra of a client has.

`SyntheticStream` yields images in order, once each over all workers and ranks. `SyntheticImages`
has them by index. `mix` adds synthetic images to a data set of real ones.
"""

try:
    import torch  # noqa: F401 - here, so that the error says what to install
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "imagemint.client.torch needs PyTorch; install torch as https://pytorch.org says"
    ) from error

from imagemint.client.image_source import ImageSource, ServerSource, SourceIdentity, SourceImages
from imagemint.client.torch.images import SyntheticImages
from imagemint.client.torch.mixing import MixedImages, MixedSampler, mix
from imagemint.client.torch.stream import SyntheticStream

__all__ = [
    "ImageSource",
    "MixedImages",
    "MixedSampler",
    "ServerSource",
    "SourceIdentity",
    "SourceImages",
    "SyntheticImages",
    "SyntheticStream",
    "mix",
]
