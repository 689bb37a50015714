"""Data sets of image-to-image models: pairs, unpaired collections and sequences of images."""

from imagemint.training.datasets.translations.forms import SourceForm
from imagemint.training.datasets.translations.motion import MovingImages
from imagemint.training.datasets.translations.pairs import DegradedImages, Pairs
from imagemint.training.datasets.translations.tasks import TASKS, load_pairs
from imagemint.training.datasets.translations.unpaired import UnpairedImages

__all__ = [
    "TASKS",
    "DegradedImages",
    "MovingImages",
    "Pairs",
    "SourceForm",
    "UnpairedImages",
    "load_pairs",
]
