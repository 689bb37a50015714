"""Whether a generator is sound enough to be kept."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from imagemint.engine.sampling import Distribution
from imagemint.training.averaging import recalibrated
from imagemint.training.checkpoints import TrainingState, list_checkpoints
from imagemint.training.datasets import LabelledImages
from imagemint.training.errors import LossNotFinite, ModeCollapse
from imagemint.training.monitor import Monitor
from imagemint.training.recipes.recipe import Recipe
from imagemint.training.samples import fixed_samples, within_class_spread
from imagemint.training.schedules import Schedule

REMEDY = "a smaller --learning-rate often helps, or a larger --penalty-weight where there is one"
# Generated images of one class vary at least this much of what real ones do, or it is a collapse.
_COLLAPSE_SHARE = 0.1
RECALIBRATION_BATCHES = 40


def inspected(
    recipe: Recipe,
    data: LabelledImages,
    run: Path,
    state: TrainingState,
    *,
    monitor: Monitor | None,
    schedule: Schedule,
    interim: bool,
) -> nn.Module:
    """Returns the averaged generator ready for use, after a look at its fixed samples.

    A grid of them is drawn unless the snapshot is interim: off the schedule it would stay when the
    run is resumed.

    Raises:
        LossNotFinite: a tensor of the state is NaN or infinite.
        ModeCollapse: the samples of one class are all but the same.
    """
    labels = recipe.class_labels(data.class_labels)
    distribution = Distribution(recipe.latent)
    generator = recalibrated(
        state.G_ema,
        z_dim=recipe.z_dim,
        num_classes=len(labels),
        batches=RECALIBRATION_BATCHES,
        distribution=distribution,
    )
    samples, classes = fixed_samples(generator, recipe.z_dim, len(labels), distribution)
    # Codes are not classes of the data: what varies within one is not known beforehand.
    by_class = recipe.condition == "class"
    real_classes = data.labels[:10_000] if by_class else np.zeros(min(len(data), 10_000), np.int64)
    spread = within_class_spread(samples, classes if by_class else np.zeros_like(classes))
    spread /= within_class_spread(data.images[:10_000], real_classes)
    if monitor and not interim:
        monitor.snapshot(samples, spread)
    _refuse_not_finite(state, generator, run)
    if state.images_seen >= schedule.collapse_grace and spread < _COLLAPSE_SHARE:
        raise ModeCollapse(
            f"after {state.images_seen:,} images the samples of one class vary"
            f" {spread:.3f} times as much as real ones (limit {_COLLAPSE_SHARE});"
            f" {what_is_kept(run)}"
        )
    return generator


def _refuse_not_finite(state: TrainingState, generator: nn.Module, run: Path) -> None:
    """Raises `LossNotFinite` if a tensor is: finite losses say nothing of the step they caused."""
    tensors = state.tensors() | generator.state_dict(prefix="recalibrated/")
    faults = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if faults:
        raise LossNotFinite(
            f"after {state.images_seen:,} images {len(faults)} tensors, {faults[0]} first, hold NaN"
            f" or infinity; {what_is_kept(run)}; {REMEDY}"
        )


def what_is_kept(run: Path) -> str:
    """Returns what to tell somebody whose run went wrong."""
    found = list_checkpoints(run)
    return (
        f"the last good checkpoint is kept, {found[-1]}" if found else "no checkpoint was saved yet"
    )
