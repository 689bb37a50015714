"""Measures translators: compares their results with the true images and with baselines."""

from imagemint.training.evaluation.translation.baselines import Baseline, find_baselines
from imagemint.training.evaluation.translation.evaluating import (
    Translator,
    evaluate_translation,
    evaluate_translator,
)
from imagemint.training.evaluation.translation.opening import open_judge, open_translator

__all__ = [
    "Baseline",
    "Translator",
    "evaluate_translation",
    "evaluate_translator",
    "find_baselines",
    "open_judge",
    "open_translator",
]
