"""Measures translators: compares their results with the true images and with baselines."""

from imagemint.training.evaluation.translation.baselines import Baseline, find_baselines
from imagemint.training.evaluation.translation.evaluating import (
    Translator,
    evaluate_translation,
)
from imagemint.training.evaluation.translation.runs import (
    evaluate_translator_run,
    is_translator_run,
    open_judge,
)

__all__ = [
    "Baseline",
    "Translator",
    "evaluate_translation",
    "evaluate_translator_run",
    "find_baselines",
    "is_translator_run",
    "open_judge",
]
