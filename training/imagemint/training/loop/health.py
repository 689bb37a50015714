"""Checks of the averaged generator before a checkpoint is kept."""

import logging
from pathlib import Path

import torch
from torch import nn

from imagemint.engine.sampling import Distribution
from imagemint.training.datasets import LabelledImages
from imagemint.training.errors import LossNotFinite, ModeCollapse
from imagemint.training.loop.checkpoints import list_checkpoints, list_varied_checkpoints
from imagemint.training.loop.ema import recalibrate
from imagemint.training.loop.monitor import Monitor
from imagemint.training.loop.samples import Variety, draw_fixed_samples, measure_variety
from imagemint.training.loop.schedules import Schedule
from imagemint.training.loop.state import TrainingState
from imagemint.training.recipes.recipe import Recipe

_log = logging.getLogger(__name__)

REMEDY = "a smaller --learning-rate often helps, or a larger --penalty-weight where there is one"
RECALIBRATION_BATCHES = 40
# Samples of one class that vary less than the first share of what real ones do are a collapse.
# Below the second, the generator may ignore its latent: `cgan` with a class embedding of 64 had
# 0.38 after 64,000 images, and a recall of 0.05. See docs/notes/recipes-against-papers.md.
COLLAPSE_SHARE = 0.1
LOW_SHARE = 0.5


def inspect_generator(
    recipe: Recipe,
    data: LabelledImages,
    run: Path,
    state: TrainingState,
    *,
    monitor: Monitor | None,
    schedule: Schedule,
    interim: bool = False,
    scheduled: bool = True,
) -> nn.Module:
    """Returns the averaged generator, ready for use, after checking its fixed samples.

    Outside of the schedule, the check writes nothing to the log and does not count for the collapse
    watch, and an interim one writes no grid. Therefore a run that is stopped and resumed has the
    same files as one that is not.

    Args:
        recipe: recipe of the run.
        data: its images.
        run: its directory.
        state: its current state.
        monitor: draws and logs; None except in the first process.
        schedule: determines when a collapse ends the run.
        interim: whether the run stops here before its end.
        scheduled: whether a checkpoint is due here by the schedule.

    Raises:
        LossNotFinite: a tensor of the state is NaN or infinite.
        ModeCollapse: the samples of a class have been nearly equal for
            ``schedule.collapse_patience`` images.
    """
    labels = recipe.list_class_labels(data.class_labels)
    distribution = Distribution(recipe.latent)
    generator = recalibrate(
        state.G_ema,
        z_dim=recipe.z_dim,
        num_classes=len(labels),
        batches=min(RECALIBRATION_BATCHES, recipe.recalibration_batches),
        distribution=distribution,
    )
    samples, classes = draw_fixed_samples(generator, recipe.z_dim, len(labels), distribution)
    refuse_not_finite(state, generator, run)
    if monitor and not interim:
        monitor.draw(samples)
    if scheduled:
        found = measure_variety(samples, classes, data, labelled=recipe.condition == "class")
        if monitor:
            monitor.note_variety(found)
        watch_collapse(run, state, found, schedule)
    return generator


def watch_collapse(run: Path, state: TrainingState, found: Variety, schedule: Schedule) -> None:
    """Warns of a collapse, and ends the run if it does not pass.

    Many runs, including those of the original GAN, collapse for a while and recover, so a collapse
    first causes a warning. ``state.collapsed_since`` stores its beginning. Checkpoints continue,
    and the last one from before the collapse is kept.

    Raises:
        ModeCollapse: it has lasted for ``schedule.collapse_patience`` images.
    """
    if state.images_seen < schedule.collapse_grace:
        return
    if found.least >= COLLAPSE_SHARE:
        if state.collapsed_since is not None:
            _log.warning("after %d images the samples vary again", state.images_seen)
        state.collapsed_since = None
        if found.least < LOW_SHARE:
            _log.warning(
                "after %d images the samples of one class vary %.2f times as much as real ones:"
                " look at the rows of the grid; a smaller --c-dim helps, where there is one",
                *(state.images_seen, found.least),
            )
        return
    if state.collapsed_since is None:
        state.collapsed_since = state.images_seen
    what = (
        f"after {state.images_seen:,} images the samples of one class vary {found.least:.3f} times"
        f" as much as real ones (limit {COLLAPSE_SHARE})"
    )
    lasted = state.images_seen - state.collapsed_since
    if lasted >= schedule.collapse_patience:
        raise ModeCollapse(
            f"{what}, as for the last {lasted:,} images; {describe_kept_checkpoint(run)}"
        )
    _log.warning(
        "%s; the run ends if that lasts for another %d images (--collapse-patience)",
        *(what, schedule.collapse_patience - lasted),
    )


def refuse_not_finite(state: TrainingState, generator: nn.Module, run: Path) -> None:
    """Raises `LossNotFinite` if a tensor is not finite. Finite losses do not ensure that."""
    tensors = state.collect_tensors() | generator.state_dict(prefix="recalibrated/")
    faults = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if faults:
        raise LossNotFinite(
            f"after {state.images_seen:,} images {len(faults)} tensors, {faults[0]} first, hold NaN"
            f" or infinity; {describe_kept_checkpoint(run)}; {REMEDY}"
        )


def describe_kept_checkpoint(run: Path) -> str:
    """Returns the part of an error message about the last checkpoint of a failed run."""
    found = list_varied_checkpoints(run) or list_checkpoints(run)
    return (
        f"the last good checkpoint is kept, {found[-1]}" if found else "no checkpoint was saved yet"
    )
