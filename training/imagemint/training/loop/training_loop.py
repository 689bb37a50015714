"""The training loop, one for all recipes.

`train` builds the state, runs the loop, and rolls back when a run fails. `_run_loop` is the
algorithm: k discriminator steps, one generator step, the moving average, the records.
"""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imagemint.training.datasets import LabelledImages
from imagemint.training.distributed import SINGLE_PROCESS, Distributed
from imagemint.training.errors import ModeCollapse, TrainingFailed
from imagemint.training.loop.batches import BatchSource
from imagemint.training.loop.checkpoints import (
    drop_collapsed,
    list_checkpoints,
    list_varied_checkpoints,
    restore,
)
from imagemint.training.loop.ema import ema_weight, update_ema
from imagemint.training.loop.provenance import describe
from imagemint.training.loop.recorder import Measure, Recorder
from imagemint.training.loop.schedules import Schedule, learning_rate_at
from imagemint.training.loop.start import fork_rng, initial_state
from imagemint.training.loop.state import TrainingState
from imagemint.training.loop.stats import Stats
from imagemint.training.loop.stopping import StopRequest, stop_on_signal
from imagemint.training.networks.precision import PLAIN, Passes
from imagemint.training.recipes.recipe import Recipe
from imagemint.training.rng import torch_seed

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
    measure: Measure | None = None,
    quiet: bool = False,
) -> TrainingState:
    """Trains to ``recipe.images`` and returns the final state; writes all results to ``run``.

    On one CPU with a fixed number of threads the result is a function of recipe and data, bit for
    bit, no matter how often the run was stopped and resumed. The first SIGINT or SIGTERM finishes
    the step, saves an interim checkpoint and returns; the second one aborts at once.

    With several processes, each computes a part of every batch, and the result equals that of one
    process up to rounding; only dropout differs. All processes call this function with the same
    arguments and share ``run``. Rank 0 writes.

    Args:
        recipe: the options.
        data: training images; uint8 [N, H, W, C].
        run: directory of this run.
        schedule: how often to log and save, and how often to roll back.
        device: where the networks are.
        passes: how the networks run: precision, compiled or not.
        processes: the collectives of the run. Default: a single process.
        resume: continue from the newest checkpoint of ``run``.
        measure: returns figures of a generator, which are logged at every checkpoint.
        quiet: no progress bar.

    Raises:
        CheckpointError: ``resume`` without a fitting checkpoint.
        LossNotFinite: a loss or a weight became NaN or infinite, and no rollback is left. The last
            good checkpoint is kept.
        Diverged: the losses are finite but far beyond their usual size. The last good checkpoint
            is kept.
        ModeCollapse: images of one class have been nearly equal for longer than the schedule
            allows. The last good checkpoint is kept.
        ProcessesError: the processes cannot share a batch of this size, or this network.
    """
    processes.local_batch_size(recipe.batch_size)
    state = initial_state(recipe, data, device, processes)
    about = describe(recipe, data, passes.precision)
    if resume:
        restore(run, state, about, free=FREE_ON_RESUME)
    # Outside the attempts: a signal that arrives while one fails still ends the run.
    with stop_on_signal() as stop:
        while True:
            try:
                _run_loop(
                    *(recipe, data, run, state, about),
                    stop_request=stop,
                    schedule=schedule,
                    device=device,
                    passes=passes,
                    processes=processes,
                    measure=measure,
                    quiet=quiet,
                )
            except TrainingFailed as failure:
                processes.barrier()  # rank 0 still draws its plots
                rollbacks = state.rollbacks + 1
                is_over = rollbacks > schedule.rollbacks or processes.average(stop.requested) > 0
                collapsed = isinstance(failure, ModeCollapse)
                good = list_varied_checkpoints(run) if collapsed else list_checkpoints(run)
                if is_over or not good:
                    raise
                if collapsed:
                    processes.barrier()  # every rank has listed the checkpoints
                    processes.on_rank_zero(partial(drop_collapsed, run))
                state = initial_state(recipe, data, device, processes)
                restore(run, state, about, free=FREE_ON_RESUME)
                state.rollbacks = rollbacks
                _log.warning(
                    "%s; rolled back to image %d with half the learning rate and another order"
                    " (%d of %d)",
                    *(failure, state.images_seen, rollbacks, schedule.rollbacks),
                )
            else:
                processes.barrier()
                return state


def _run_loop(
    recipe: Recipe,
    data: LabelledImages,
    run: Path,
    state: TrainingState,
    about: dict[str, Any],
    *,
    stop_request: StopRequest,
    schedule: Schedule,
    device: torch.device,
    passes: Passes,
    processes: Distributed,
    measure: Measure | None,
    quiet: bool,
) -> None:
    """Trains from ``state`` to the end of the run, or until a signal asks to stop."""
    G, D, gan_loss = state.G, state.D, state.gan_loss
    seed = order_seed(recipe, state)
    batches = BatchSource(
        *(recipe, data, state), seed=seed, device=device, processes=processes, passes=passes
    )
    stats = Stats(processes)

    with (
        fork_rng(device),
        Recorder(
            *(recipe, data, run, state, about),
            schedule=schedule,
            processes=processes,
            measure=measure,
            quiet=quiet,
        ) as recorder,
    ):
        stop = False
        while state.images_seen < recipe.images and not stop:
            before = state.images_seen
            set_learning_rates(recipe, state)
            gan_loss.before_step(before)
            # For dropout and noise: a function of the position, different in each process.
            torch.manual_seed(torch_seed(seed, state.step, processes.rank))

            # --- discriminator: k steps, each on new real and generated images -------------------
            D.requires_grad_(requires_grad=True)
            positions = discriminator_positions(recipe, state)
            for position in positions:
                batch = batches.draw(position, with_gradient=position == positions[-1])
                judged = replace(batch)  # G starts below from the images as they are here
                loss_D = gan_loss.discriminator_loss(judged, state.step, state.images_seen)
                stats.extend(loss_D.terms)
                if recipe.skip_lead == 1 or processes.average(judged.lead()) <= recipe.skip_lead:
                    _update(state.opt_D, loss_D.total, D, processes)
                    gan_loss.after_D(D)
                stats.add(**gan_loss.augmentation.adapt(judged))
                state.images_seen += recipe.batch_size

            # --- generator: one step on the last images, against the updated discriminator -------
            D.requires_grad_(requires_grad=False)
            loss_G = gan_loss.generator_loss(batch, state.step, before)
            stats.extend(loss_G.terms)
            _update(state.opt_G, loss_G.total, G, processes)

            # --- moving average of the generator -------------------------------------------------
            state.step += 1
            weight = ema_weight(
                *(state.images_seen - before, recipe.ema_half_life, recipe.ema_ramp_up),
                state.images_seen,
            )
            update_ema(state.G_ema, G, weight)

            # --- log, grid, checkpoint -----------------------------------------------------------
            stats.add(loss_D=loss_D.adversarial, loss_G=loss_G.adversarial)
            stats.add(real_logit=judged.real_logits.mean())
            recorder.record_step(stats.collect())
            stop = processes.average(stop_request.requested) > 0
        recorder.save_end()


def discriminator_positions(recipe: Recipe, state: TrainingState) -> range:
    """Returns the positions of the discriminator steps that precede the next generator step."""
    first = recipe.discriminator_steps_before(state.step)
    return range(first, first + recipe.discriminator_steps_at(state.step))


def _update(
    optimizer: torch.optim.Optimizer, loss: Tensor, network: nn.Module, processes: Distributed
) -> None:
    """Makes one optimiser step on the loss of the whole batch."""
    optimizer.zero_grad()
    loss.backward()
    processes.average_gradients(network.parameters())
    optimizer.step()


def order_seed(recipe: Recipe, state: TrainingState) -> int:
    """Returns the seed of data order and latents, which each rollback changes."""
    return (recipe.seed + 0x9E3779B97F4A7C15 * state.rollbacks) % 2**64


def set_learning_rates(recipe: Recipe, state: TrainingState) -> None:
    """Sets the learning rates of both optimisers for the next step."""
    rate_G = learning_rate_at(recipe, state.images_seen, state.rollbacks)
    own = recipe.discriminator_learning_rate
    rate_D = rate_G if own is None else rate_G * (own / recipe.learning_rate)
    state.opt_G.param_groups[0]["lr"], state.opt_D.param_groups[0]["lr"] = rate_G, rate_D
