"""The training loop: one for all recipes."""

import logging
import math
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imagemint.engine.sampling import Distribution
from imagemint.training.datasets import LabelledImages
from imagemint.training.datasets.loader import ImageLoader
from imagemint.training.distributed import SINGLE_PROCESS, Distributed
from imagemint.training.errors import LossNotFinite, ModeCollapse, TrainingFailed
from imagemint.training.loop.checkpoints import (
    drop_collapsed,
    list_checkpoints,
    list_varied_checkpoints,
    restore,
    save_checkpoint,
)
from imagemint.training.loop.divergence import LossWatch
from imagemint.training.loop.ema import ema_weight, update_ema
from imagemint.training.loop.health import REMEDY, describe_kept_checkpoint, inspect_generator
from imagemint.training.loop.monitor import Monitor
from imagemint.training.loop.provenance import describe
from imagemint.training.loop.schedules import Schedule, has_crossed, learning_rate_at
from imagemint.training.loop.start import fork_rng, initial_state
from imagemint.training.loop.state import TrainingState
from imagemint.training.loop.stats import Stats
from imagemint.training.loop.stopping import StopRequest, stop_on_signal
from imagemint.training.losses.gan_loss import Batch, Regularizer
from imagemint.training.networks.precision import PLAIN, Passes
from imagemint.training.recipes.recipe import Recipe
from imagemint.training.rng import draw_codes, draw_latents, torch_seed

_log = logging.getLogger(__name__)

# Options that may change on --resume: they set how long the run is, not what a step computes
# before the decay begins.
FREE_ON_RESUME = {"images", "decay_share"}


def train(
    recipe: Recipe,
    data: LabelledImages,
    run: Path,
    *,
    schedule: Schedule,
    device: torch.device,
    passes: Passes = PLAIN,
    processes: Distributed = SINGLE_PROCESS,
    resume: bool = False,
    quiet: bool = False,
) -> TrainingState:
    """Trains to ``recipe.images`` and returns the final state; everything else lands in ``run``.

    On one CPU with a given number of threads the result is a function of recipe and data, bit for
    bit, however often the run was stopped and resumed. SIGINT and SIGTERM finish the step, save an
    interim checkpoint and return; the second of them aborts at once.

    Several processes share every batch, and the result is that of one, up to rounding; but what
    dropout drops is each one's own. All call this alike and see the same ``run``; the first writes.

    Args:
        recipe: the options.
        data: training images; uint8 [N, H, W, C].
        run: directory of this run.
        schedule: how often to report and save, and how often to start over from what was good.
        device: where the networks live.
        passes: how they are run forwards: precision, compiled or not.
        processes: those that share the run.
        resume: continue from the newest checkpoint of ``run``.
        quiet: no progress bar.

    Raises:
        CheckpointError: ``resume`` without a fitting checkpoint.
        LossNotFinite: a loss or a weight turned NaN or infinite, and no rollback is left; the last
            good checkpoint is kept.
        Diverged: losses are finite, and beyond all measure; likewise.
        ModeCollapse: images of one class have been all but the same for longer than the schedule
            allows; likewise.
        ProcessesError: several processes cannot share a batch of this size, or this network.
    """
    processes.local_batch_size(recipe.batch_size)
    state = initial_state(recipe, data, device, processes)
    about = describe(recipe, data, passes.precision)
    if resume:
        restore(run, state, about, free=FREE_ON_RESUME)
    # Around all attempts: a request that comes while one fails ends the run all the same.
    with stop_on_signal() as stop:
        while True:
            try:
                _play(
                    *(recipe, data, run, state, about),
                    asked_to_stop=stop,
                    schedule=schedule,
                    device=device,
                    passes=passes,
                    processes=processes,
                    quiet=quiet,
                )
            except TrainingFailed as failure:
                processes.barrier()  # for the first, which still draws what there is to draw
                rollbacks = state.rollbacks + 1
                is_over = rollbacks > schedule.rollbacks or processes.average(stop.requested) > 0
                collapsed = isinstance(failure, ModeCollapse)
                good = list_varied_checkpoints(run) if collapsed else list_checkpoints(run)
                if is_over or not good:
                    raise
                if collapsed:
                    processes.barrier()  # until all have looked
                    processes.on_rank_zero(partial(drop_collapsed, run))
                state = initial_state(recipe, data, device, processes)
                restore(run, state, about, free=FREE_ON_RESUME)
                state.rollbacks = rollbacks
                _log.warning(
                    "%s; rolled back to image %d with half the step size and another order"
                    " (%d of %d)",
                    *(failure, state.images_seen, rollbacks, schedule.rollbacks),
                )
            else:
                processes.barrier()
                return state


def _play(  # noqa: C901, PLR0915 - one linear story, with headings
    recipe: Recipe,
    data: LabelledImages,
    run: Path,
    state: TrainingState,
    about: dict[str, Any],
    *,
    asked_to_stop: StopRequest,
    schedule: Schedule,
    device: torch.device,
    passes: Passes,
    processes: Distributed,
    quiet: bool,
) -> None:
    """Plays from ``state`` to the end of the run, or until a signal asks to stop."""
    # --- the players, what they play for, and where their numbers come from ----------------------
    G, D, gan_loss = state.G, state.D, state.gan_loss
    batch_size, seed = recipe.batch_size, order_seed(recipe, state)
    num_codes = len(recipe.class_labels(data.class_labels))
    loader = ImageLoader(data, recipe.network_labels(data), seed, device, processes)
    figures = Stats(processes)
    saved_at = state.images_seen if state.step else None
    ready: nn.Module = state.G_ema  # the averaged generator, once prepared for a checkpoint
    first = processes.rank == 0  # who watches, writes and speaks for all

    with (
        fork_rng(device),
        Monitor(run, recipe.images, state, quiet=quiet) if first else nullcontext() as monitor,
    ):
        losses = LossWatch(run, schedule.divergence_factor)

        def write_row() -> None:
            """Writes a row of the log if its losses are of the usual size."""
            losses.check(state)
            if monitor:
                losses.add(monitor.log())

        def look(**occasion: bool) -> None:
            """Prepares the averaged generator for a checkpoint, if its samples are sound."""
            nonlocal ready
            losses.check(state)
            ready = inspect_generator(
                recipe, data, run, state, monitor=monitor, schedule=schedule, **occasion
            )

        def save(*, interim: bool = False) -> None:
            """Saves a checkpoint with the generator that was prepared."""
            save_checkpoint(run, state, ready, about, interim=interim)

        stop = False
        while state.images_seen < recipe.images and not stop:
            before = state.images_seen
            set_learning_rates(recipe, state)
            gan_loss.before_step(state.images_seen)
            # For dropout and the like: by position, and different in each process.
            torch.manual_seed(torch_seed(seed, state.step, processes.rank))

            # --- D: k turns, each on fresh images and on fakes of the same condition -------------
            D.requires_grad_(requires_grad=True)
            k, turns = (
                recipe.discriminator_steps_at(state.step),
                recipe.discriminator_steps_before(state.step),
            )
            for position in range(turns, turns + k):
                real, y = loader.at(state.images_seen, batch_size)
                z = draw_latents(
                    seed, position, batch_size, recipe.z_dim, Distribution(recipe.latent)
                )
                codes = draw_codes(seed, position, batch_size, num_codes or 1)
                z, codes = (
                    processes.local_part(z).to(device),
                    processes.local_part(codes).to(device),
                )
                c = {"none": None, "class": y, "code": codes}[recipe.condition]
                with torch.set_grad_enabled(
                    position == turns + k - 1
                ):  # G plays with the last ones
                    fake = passes.draw(G, z, c)
                batch = Batch(seed, position, G, D, z, y, c, real, fake, passes=passes)
                due = gan_loss.due(gan_loss.terms_D, state.step, state.images_seen)
                gan_loss.show_discriminator(batch, by_images=any(term.by_images for term, _ in due))
                loss_D = gan_loss.adversarial.discriminator(batch.real_logits, batch.fake_logits)
                total_D = _with_terms(loss_D, due, batch, figures)
                if recipe.skip_lead == 1 or processes.average(batch.lead()) <= recipe.skip_lead:
                    state.opt_D.zero_grad()
                    total_D.backward()
                    processes.average_gradients(D.parameters())
                    state.opt_D.step()
                    gan_loss.after_D(D)
                figures.note(**gan_loss.augmentation.adapt(batch))
                real_logit = batch.real_logits.mean()
                state.images_seen += batch_size

            # --- G: through the D just updated; the same fakes, G has not changed since ----------
            D.requires_grad_(requires_grad=False)
            batch = Batch(seed, position, G, D, z, y, c, real, fake, passes=passes)
            gan_loss.show_generator(batch)
            loss_G = gan_loss.adversarial.generator(batch.real_logits, batch.fake_logits)
            due = gan_loss.due(gan_loss.terms_G, state.step, before)
            total_G = _with_terms(gan_loss.adversarial_weight * loss_G, due, batch, figures)
            state.opt_G.zero_grad()
            total_G.backward()
            processes.average_gradients(G.parameters())
            state.opt_G.step()

            # --- average, count, watch -----------------------------------------------------------
            state.step += 1
            share = ema_weight(
                k * batch_size, recipe.ema_half_life, recipe.ema_ramp_up, state.images_seen
            )
            update_ema(state.G_ema, G, share)
            figures.note(loss_D=loss_D, loss_G=loss_G, real_logit=real_logit)
            settled = figures.collect()
            _refuse_not_finite(settled, state, run)
            if monitor:
                monitor.step(settled)
            snapshot_due = has_crossed(before, state.images_seen, schedule.snapshot_interval)
            if snapshot_due:
                processes.on_rank_zero(look)  # before the row, which tells what was seen
            if has_crossed(before, state.images_seen, schedule.log_interval):
                processes.on_rank_zero(write_row)
            if snapshot_due:
                processes.on_rank_zero(save)
                saved_at = state.images_seen
            stop = processes.average(asked_to_stop.requested) > 0
        if saved_at != state.images_seen:
            interim = state.images_seen < recipe.images
            processes.on_rank_zero(partial(look, interim=interim, scheduled=False))
            processes.on_rank_zero(partial(save, interim=interim))


def _with_terms(
    loss: Tensor, due: list[tuple[Regularizer, float]], batch: Batch, figures: Stats
) -> Tensor:
    """Returns the adversarial loss with the terms that are due, which the log is told apart."""
    for term, weight in due:
        parts: dict[str, Tensor] = term(batch)
        loss = loss + weight * sum(parts.values())
        figures.note(**parts)
    return loss


def _refuse_not_finite(settled: list[tuple[str, float]], state: TrainingState, run: Path) -> None:
    faults = [f"{name} is {figure}" for name, figure in settled if not math.isfinite(figure)]
    if faults:
        raise LossNotFinite(
            f"after {state.images_seen:,} images {' and '.join(dict.fromkeys(faults))};"
            f" {describe_kept_checkpoint(run)}; {REMEDY}"
        )


def order_seed(recipe: Recipe, state: TrainingState) -> int:
    """Returns the seed of order and latents, which each rollback changes."""
    return (recipe.seed + 0x9E3779B97F4A7C15 * state.rollbacks) % 2**64


def set_learning_rates(recipe: Recipe, state: TrainingState) -> None:
    """Sets the step sizes of both optimisers for the next step."""
    size = learning_rate_at(recipe, state.images_seen, state.rollbacks)
    own = recipe.discriminator_learning_rate
    of_D = size if own is None else size * (own / recipe.learning_rate)
    state.opt_G.param_groups[0]["lr"], state.opt_D.param_groups[0]["lr"] = size, of_D
