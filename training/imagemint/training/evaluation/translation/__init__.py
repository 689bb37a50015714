"""Measures translators: their results beside the true images, and beside baselines."""

from imagemint.training.evaluation.translation.baselines import Baseline, find_baselines
from imagemint.training.evaluation.translation.evaluating import (
    Translator,
    evaluate_translation,
)

__all__ = ["Baseline", "Translator", "evaluate_translation", "find_baselines"]
