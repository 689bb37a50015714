"""The training loop: one for all recipes."""

import logging
import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from imagemint.engine.sampling import Distribution
from imagemint.training.averaging import average_into, averaging_weight, recalibrated
from imagemint.training.checkpoints import (
    TrainingState,
    list_checkpoints,
    restore,
    save_checkpoint,
)
from imagemint.training.datasets import LabelledImages
from imagemint.training.errors import LossNotFinite, ModeCollapse, TrainingFailed
from imagemint.training.feed import Feed
from imagemint.training.game import Turn
from imagemint.training.monitor import Monitor
from imagemint.training.networks import Shape, draw
from imagemint.training.provenance import describe
from imagemint.training.randomness import drawn_codes, training_latents
from imagemint.training.recipes.recipe import Recipe
from imagemint.training.samples import fixed_samples, within_class_spread
from imagemint.training.schedules import Schedule, crossed, step_size

NetworkT = TypeVar("NetworkT", bound=nn.Module)
_log = logging.getLogger(__name__)

# Options that may change on --resume: they set how long the run is, not what a step computes
# before the decay begins.
FREE_ON_RESUME = {"images", "decay_share"}
# Generated images of one class vary at least this much of what real ones do, or it is a collapse.
_COLLAPSE_SHARE = 0.1
_RECALIBRATION_BATCHES = 40
_REMEDY = "a smaller --learning-rate often helps, or a larger --penalty-weight where there is one"


def train(
    recipe: Recipe,
    data: LabelledImages,
    run: Path,
    *,
    schedule: Schedule,
    device: torch.device,
    resume: bool = False,
    quiet: bool = False,
) -> TrainingState:
    """Trains to ``recipe.images`` and returns the final state; everything else lands in ``run``.

    On one CPU with a given number of threads the result is a function of recipe and data, bit for
    bit, however often the run was stopped and resumed. SIGINT and SIGTERM finish the step, save an
    interim checkpoint and return.

    Args:
        recipe: the options.
        data: training images; uint8 [N, H, W, C].
        run: directory of this run.
        schedule: how often to report and save, and how often to start over from what was good.
        device: where the networks live.
        resume: continue from the newest checkpoint of ``run``.
        quiet: no progress bar.

    Raises:
        CheckpointError: ``resume`` without a fitting checkpoint.
        LossNotFinite: a loss or a weight turned NaN or infinite, and no rollback is left; the last
            good checkpoint is kept.
        ModeCollapse: images of one class are all but the same; likewise.
    """
    state = initial_state(recipe, data, device)
    about = describe(recipe, data)
    if resume:
        restore(run, state, about, free=FREE_ON_RESUME)
    while True:
        try:
            _play(recipe, data, run, state, about, schedule=schedule, device=device, quiet=quiet)
        except TrainingFailed as failure:
            rollbacks = state.rollbacks + 1
            if rollbacks > schedule.rollbacks or not list_checkpoints(run):
                raise
            state = initial_state(recipe, data, device)
            restore(run, state, about, free=FREE_ON_RESUME)
            state.rollbacks = rollbacks
            _log.warning(
                "%s; rolled back to image %d with half the step size and another order (%d of %d)",
                *(failure, state.images_seen, rollbacks, schedule.rollbacks),
            )
        else:
            return state


def _play(
    recipe: Recipe,
    data: LabelledImages,
    run: Path,
    state: TrainingState,
    about: dict[str, Any],
    *,
    schedule: Schedule,
    device: torch.device,
    quiet: bool,
) -> None:
    """Plays from ``state`` to the end of the run, or until told to stop."""
    # --- the players, what they play for, and where their numbers come from ----------------------
    G, D, game = state.G, state.D, state.game
    k, batch_size, seed = recipe.discriminator_steps, recipe.batch_size, order_seed(recipe, state)
    num_codes = len(recipe.class_labels(data.class_labels))
    feed = Feed(data, np.array(recipe.shown_labels(data.labels)), seed, device)
    saved_at = state.images_seen if state.step else None

    with (
        torch.random.fork_rng(),
        _stop_on_signal() as stop,
        Monitor(run, recipe.images, state, quiet=quiet) as monitor,
    ):

        def snapshot(*, interim: bool = False) -> None:
            """Saves a checkpoint if the fixed samples are sound."""
            nonlocal saved_at
            generator = _judged(recipe, data, run, state, monitor, schedule, interim=interim)
            save_checkpoint(run, state, generator, about, interim=interim)
            saved_at = state.images_seen

        while state.images_seen < recipe.images and not stop:
            before = state.images_seen
            set_step_sizes(recipe, state)
            torch.manual_seed((seed + state.step) % 2**63)  # of dropout and the like: by position

            # --- D: k turns, each on fresh images and on fakes of the same condition -------------
            D.requires_grad_(requires_grad=True)
            for position in range(k * state.step, k * (state.step + 1)):
                real, y = feed.at(state.images_seen, batch_size)
                z = training_latents(
                    seed, position, batch_size, recipe.z_dim, Distribution(recipe.latent)
                ).to(device)
                c = y if recipe.condition == "class" else None
                if recipe.condition == "code":
                    c = drawn_codes(seed, position, batch_size, num_codes).to(device)
                with torch.set_grad_enabled(position % k == k - 1):  # G plays with the last ones
                    fake = draw(G, z, c)
                turn = Turn(seed, position, G, D, z, y, c, real, fake)
                due = game.due(game.terms_D, state.step, state.images_seen)
                game.look_as_D(turn, by_images=any(term.by_images for term, _ in due))
                loss_D = game.objective.discriminator(turn.real_logits, turn.fake_logits)
                total_D = loss_D
                for term, weight in due:
                    parts = term(turn)
                    total_D = total_D + weight * sum(parts.values())
                    monitor.note(**{name: part.item() for name, part in parts.items()})
                if recipe.skip_lead == 1 or turn.lead() <= recipe.skip_lead:
                    state.opt_D.zero_grad()
                    total_D.backward()
                    state.opt_D.step()
                    game.after_D(D)
                monitor.note(**game.augmentation.heed(turn))
                real_logit = turn.real_logits.mean().item()
                state.images_seen += batch_size

            # --- G: through the D just updated; the same fakes, G has not changed since ----------
            D.requires_grad_(requires_grad=False)
            turn = Turn(seed, position, G, D, z, y, c, real, fake)
            game.look_as_G(turn)
            loss_G = game.objective.generator(turn.real_logits, turn.fake_logits)
            total_G = loss_G
            for term, weight in game.due(game.terms_G, state.step, before):
                parts = term(turn)
                total_G = total_G + weight * sum(parts.values())
                monitor.note(**{name: part.item() for name, part in parts.items()})
            state.opt_G.zero_grad()
            total_G.backward()
            state.opt_G.step()

            # --- average, count, watch -----------------------------------------------------------
            state.step += 1
            share = averaging_weight(
                k * batch_size, recipe.ema_half_life, recipe.ema_ramp_up, state.images_seen
            )
            average_into(state.G_ema, G, share)
            losses = (total_D.item(), total_G.item())
            if not all(map(math.isfinite, losses)):
                raise LossNotFinite(
                    f"after {state.images_seen:,} images the losses of D and G are {losses};"
                    f" {_what_is_kept(run)}; {_REMEDY}"
                )
            monitor.step(loss_D.item(), loss_G.item(), real_logit)
            if crossed(before, state.images_seen, schedule.log_interval):
                monitor.log()
            if crossed(before, state.images_seen, schedule.snapshot_interval):
                snapshot()
        if saved_at != state.images_seen:
            snapshot(interim=state.images_seen < recipe.images)


def _judged(
    recipe: Recipe,
    data: LabelledImages,
    run: Path,
    state: TrainingState,
    monitor: Monitor,
    schedule: Schedule,
    *,
    interim: bool,
) -> nn.Module:
    """Returns the averaged generator ready for use, after a look at its fixed samples.

    A grid of them is drawn unless the snapshot is interim: off the schedule it would stay when the
    run is resumed.
    """
    labels = recipe.class_labels(data.class_labels)
    distribution = Distribution(recipe.latent)
    generator = recalibrated(
        state.G_ema,
        z_dim=recipe.z_dim,
        num_classes=len(labels),
        batches=_RECALIBRATION_BATCHES,
        distribution=distribution,
    )
    samples, classes = fixed_samples(generator, recipe.z_dim, len(labels), distribution)
    # Codes are not classes of the data: what varies within one is not known beforehand.
    by_class = recipe.condition == "class"
    real_classes = data.labels[:10_000] if by_class else np.zeros(min(len(data), 10_000), np.int64)
    spread = within_class_spread(samples, classes if by_class else np.zeros_like(classes))
    spread /= within_class_spread(data.images[:10_000], real_classes)
    if not interim:
        monitor.snapshot(samples, spread)
    _refuse_not_finite(state, generator, run)
    if state.images_seen >= schedule.collapse_grace and spread < _COLLAPSE_SHARE:
        raise ModeCollapse(
            f"after {state.images_seen:,} images the samples of one class vary"
            f" {spread:.3f} times as much as real ones (limit {_COLLAPSE_SHARE});"
            f" {_what_is_kept(run)}"
        )
    return generator


def _refuse_not_finite(state: TrainingState, generator: nn.Module, run: Path) -> None:
    """Raises `LossNotFinite` if a tensor is: finite losses say nothing of the step they caused."""
    tensors = state.tensors() | generator.state_dict(prefix="recalibrated/")
    faults = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if faults:
        raise LossNotFinite(
            f"after {state.images_seen:,} images {len(faults)} tensors, {faults[0]} first, hold NaN"
            f" or infinity; {_what_is_kept(run)}; {_REMEDY}"
        )


def _what_is_kept(run: Path) -> str:
    found = list_checkpoints(run)
    return (
        f"the last good checkpoint is kept, {found[-1]}" if found else "no checkpoint was saved yet"
    )


def order_seed(recipe: Recipe, state: TrainingState) -> int:
    """Returns the seed of order and latents, which each rollback changes."""
    return (recipe.seed + 0x9E3779B97F4A7C15 * state.rollbacks) % 2**64


def set_step_sizes(recipe: Recipe, state: TrainingState) -> None:
    """Sets the step sizes of both optimisers for the next step."""
    size = step_size(recipe, state.images_seen, state.rollbacks)
    own = recipe.discriminator_learning_rate
    of_D = size if own is None else size * (own / recipe.learning_rate)
    state.opt_G.param_groups[0]["lr"], state.opt_D.param_groups[0]["lr"] = size, of_D


def initial_state(recipe: Recipe, data: LabelledImages, device: torch.device) -> TrainingState:
    """Returns fresh networks and optimisers; the weights are a function of ``recipe.seed``."""
    shape = Shape(len(data.class_labels), data.images.shape[1], data.images.shape[-1])
    told = Shape(
        len(recipe.class_labels(data.class_labels)), shape.image_size, shape.image_channels
    )
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        G = _placed(recipe.generator(told), device)
        D = _placed(recipe.discriminator(shape), device)
        G_ema = _placed(recipe.generator(told), device)
        game = recipe.game(G, D, shape).to(device)
    G_ema.load_state_dict(G.state_dict())

    def optimizer(network: nn.Module) -> torch.optim.Optimizer:
        if recipe.optimizer == "rmsprop":
            return torch.optim.RMSprop(network.parameters(), recipe.learning_rate, recipe.beta2)
        betas = (recipe.beta1, recipe.beta2)
        return torch.optim.Adam(network.parameters(), recipe.learning_rate, betas, fused=True)

    return TrainingState(
        G=G,
        D=D,
        G_ema=G_ema.requires_grad_(requires_grad=False),
        opt_G=optimizer(G),
        opt_D=optimizer(D),
        game=game,
    )


def _placed(network: NetworkT, device: torch.device) -> NetworkT:
    # Channels last was 1.1 to 2.2 times as fast on the convolutions of this recipe on a CPU.
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return] # torch's stubs lack this overload


@contextmanager
def _stop_on_signal() -> Iterator[list[int]]:
    """Yields a list that becomes non-empty when SIGINT or SIGTERM asks to stop."""
    received: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        received.append(number)

    kinds = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(kind, remember) for kind in kinds]
    try:
        yield received
    finally:
        for kind, handler in zip(kinds, previous, strict=True):
            signal.signal(kind, handler)
