"""The training loop, one for all recipes.

`train` builds the state, runs the loop, and rolls back when a run fails. `_run_loop` is the
algorithm: a step of both networks, which the task defines, the moving average, the records.
"""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from imagemint.training.distributed import SINGLE_PROCESS, Distributed
from imagemint.training.errors import ModeCollapse, TrainingFailed
from imagemint.training.loop.checkpoints import (
    drop_collapsed,
    list_checkpoints,
    list_varied_checkpoints,
    restore,
)
from imagemint.training.loop.ema import compute_ema_weight, update_ema
from imagemint.training.loop.monitor import forget_after
from imagemint.training.loop.recorder import Measure, Recorder
from imagemint.training.loop.schedules import Schedule, compute_learning_rate
from imagemint.training.loop.start import fork_rng
from imagemint.training.loop.state import TrainingState
from imagemint.training.loop.stats import Stats
from imagemint.training.loop.stopping import StopRequest, stop_on_signal
from imagemint.training.loop.task import Task
from imagemint.training.networks.precision import PLAIN, Passes
from imagemint.training.recipes.options import RunOptions
from imagemint.training.rng import draw_torch_seed

_log = logging.getLogger(__name__)

# Options that may change on --resume: they set how long the run is, not what a step computes
# before the decay begins.
FREE_ON_RESUME = {"images", "decay_share"}


def train(
    task: Task,
    run: Path,
    *,
    schedule: Schedule,
    device: torch.device,
    passes: Passes = PLAIN,
    processes: Distributed = SINGLE_PROCESS,
    resume: bool = False,
    measure: Measure | None = None,
    on_begin: Callable[[], None] = lambda: None,
    quiet: bool = False,
) -> TrainingState:
    """Trains to the end of the run and returns the final state; writes all results to ``run``.

    On one CPU with a fixed number of threads the result is a function of the task, bit for bit,
    no matter how often the run was stopped and resumed. The first SIGINT or SIGTERM finishes
    the step, saves an interim checkpoint and returns; the second one aborts at once.

    With several processes, each computes a part of every batch, and the result equals that of one
    process up to rounding; only dropout differs. All processes call this function with the same
    arguments and share ``run``. Rank 0 writes.

    Args:
        task: the task: the options and the data.
        run: directory of this run.
        schedule: how often to log and save, and how often to roll back.
        device: device of the networks.
        passes: runs the networks with a precision, compiled or not.
        processes: the collectives of the run. Default: a single process.
        resume: whether to continue from the newest checkpoint of ``run``.
        measure: returns figures of a generator, which are logged at every checkpoint.
        on_begin: called on rank 0 once the run can start, before its first step.
        quiet: whether to show no progress bar.

    Raises:
        CheckpointError: there is no suitable checkpoint for ``resume``.
        DamagedLog: a line in the middle of the log of the run is unreadable.
        LossNotFinite: a loss or a weight became NaN or infinite, and no rollback is left. The last
            good checkpoint is kept.
        Diverged: the losses are finite but far beyond their usual size. The last good checkpoint
            is kept.
        ModeCollapse: images of one class have been nearly equal for longer than the schedule
            allows. The last good checkpoint is kept.
        ProcessesError: the processes cannot share a batch of this size, or this network.
    """
    for option, size in task.list_batch_sizes().items():
        processes.compute_local_batch_size(size, option)
    state = task.make_initial_state(device, processes)
    metadata = task.describe(passes.precision)
    if resume:
        restore(run, state, metadata, free=FREE_ON_RESUME)
    processes.on_rank_zero(partial(forget_after, run, state.images_seen))
    processes.on_rank_zero(on_begin)
    processes.on_rank_zero(partial(task.begin, run))
    # Outside the attempts: a signal that arrives while one fails still ends the run.
    with stop_on_signal() as stop:
        while True:
            try:
                _run_loop(
                    *(task, run, state, metadata),
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
                checkpoints = list_varied_checkpoints(run) if collapsed else list_checkpoints(run)
                if is_over or not checkpoints:
                    raise
                if collapsed:
                    processes.barrier()  # every rank has listed the checkpoints
                    processes.on_rank_zero(partial(drop_collapsed, run))
                state = task.make_initial_state(device, processes)
                restore(run, state, metadata, free=FREE_ON_RESUME)
                processes.on_rank_zero(partial(forget_after, run, state.images_seen))
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
    task: Task,
    run: Path,
    state: TrainingState,
    metadata: dict[str, Any],
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
    options = task.options
    seed = compute_order_seed(options, state)
    step = task.prepare_step(state, seed=seed, device=device, passes=passes, processes=processes)
    stats = Stats(processes)

    with (
        fork_rng(device),
        Recorder(
            *(task, run, state, metadata),
            schedule=schedule,
            processes=processes,
            measure=measure,
            quiet=quiet,
        ) as recorder,
    ):
        stop = False
        while state.images_seen < options.images and not stop:
            before = state.images_seen
            set_learning_rates(options, state)
            # For dropout and noise: a function of the position, different in each process.
            torch.manual_seed(draw_torch_seed(seed, state.step, processes.rank))
            step(stats)
            state.step += 1

            # --- moving average of the generator -------------------------------------------------
            weight = compute_ema_weight(
                *(state.images_seen - before, options.ema_half_life, options.ema_ramp_up),
                state.images_seen,
            )
            update_ema(state.G_ema, state.G, weight)

            # --- log, grid, checkpoint -----------------------------------------------------------
            recorder.record_step(stats.collect())
            stop = processes.average(stop_request.requested) > 0
        recorder.save_end()


def compute_order_seed(options: RunOptions, state: TrainingState) -> int:
    """Returns the seed of data order and latents, which each rollback changes."""
    return (options.seed + 0x9E3779B97F4A7C15 * state.rollbacks) % 2**64


def set_learning_rates(options: RunOptions, state: TrainingState) -> None:
    """Sets the learning rates of both optimisers for the next step."""
    rate_G = compute_learning_rate(options, state.images_seen, state.rollbacks)
    own = options.discriminator_learning_rate
    rate_D = rate_G if own is None else rate_G * (own / options.learning_rate)
    state.opt_G.param_groups[0]["lr"], state.opt_D.param_groups[0]["lr"] = rate_G, rate_D
