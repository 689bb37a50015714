"""Measures generators: a run, a bundle, a running server, or a set of images."""

from imagemint.training.evaluation.comparing import Compared, compare
from imagemint.training.evaluation.extractors import open_extractor
from imagemint.training.evaluation.judging import Judging, Protocol, evaluate, evaluate_under_all
from imagemint.training.evaluation.real_images import load_real_images
from imagemint.training.evaluation.sources import RunSource, open_source
from imagemint.training.evaluation.translation import (
    evaluate_translator,
    open_judge,
    open_translator,
)

__all__ = [
    "Compared",
    "Judging",
    "Protocol",
    "RunSource",
    "compare",
    "evaluate",
    "evaluate_translator",
    "evaluate_under_all",
    "load_real_images",
    "open_extractor",
    "open_judge",
    "open_source",
    "open_translator",
]
