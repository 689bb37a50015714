"""Trials: load and probe bundles in a separate process, which can be killed."""

from imagemint.engine.trial.trials import PLAIN_BYTES, TrialOptions, Trials, is_plain

__all__ = ["PLAIN_BYTES", "TrialOptions", "Trials", "is_plain"]
