"""The training loop."""

import json
import math
import platform
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from imagemint.training.averaging import average_into, averaging_weight, recalibrated
from imagemint.training.checkpoints import (
    TrainingState,
    list_checkpoints,
    restore,
    save_checkpoint,
)
from imagemint.training.datasets import LabelledImages
from imagemint.training.errors import LossNotFinite, ModeCollapse
from imagemint.training.losses import OBJECTIVES, zero_centred_penalty
from imagemint.training.monitor import Monitor
from imagemint.training.randomness import ShuffledOrder, other_classes, training_latents
from imagemint.training.recipes.mnist import MnistRecipe
from imagemint.training.samples import fixed_samples, within_class_spread

NetworkT = TypeVar("NetworkT", bound=nn.Module)

# Options that may change on --resume: they set how long the run is, not what a step computes
# before the decay begins.
FREE_ON_RESUME = {"images", "decay_share"}
# Generated images of one class vary at least this much of what real ones do, or it is a collapse.
_COLLAPSE_SHARE = 0.1
_RECALIBRATION_BATCHES = 40
_REMEDY = "a smaller --learning-rate or a larger --penalty-weight often helps"


@dataclass(frozen=True)
class Schedule:
    """How often a run reports and saves.

    Attributes:
        log_interval: images between two rows of the log.
        snapshot_interval: images between two checkpoints, each with its grid of samples.
        collapse_grace: images before collapse is judged; early samples are all alike.
    """

    log_interval: int = 6_400
    snapshot_interval: int = 64_000
    collapse_grace: int = 128_000


def train(  # noqa: C901, PLR0915 - one linear story, with headings
    recipe: MnistRecipe,
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
        schedule: how often to report and save.
        device: where the networks live.
        resume: continue from the newest checkpoint of ``run``.
        quiet: no progress bar.

    Raises:
        CheckpointError: ``resume`` without a fitting checkpoint.
        LossNotFinite: a loss or a weight turned NaN or infinite; the last good checkpoint is kept.
        ModeCollapse: images of one class are all but the same; likewise.
    """
    # --- networks, optimisers, data -------------------------------------------------------------
    state = initial_state(recipe, data, device)
    about = describe(recipe, data)
    if resume:
        restore(run, state, about, free=FREE_ON_RESUME)
    objective = OBJECTIVES[recipe.objective]
    images = torch.tensor(data.images).permute(0, 3, 1, 2).contiguous().to(device)
    labels = torch.tensor(data.labels).to(device)
    order = ShuffledOrder(len(data), recipe.seed)
    real_spread = within_class_spread(data.images[:10_000], data.labels[:10_000])
    G, D, opt_G, opt_D = state.G, state.D, state.opt_G, state.opt_D
    saved_at = state.images_seen if resume else None

    with _stop_on_signal() as stop, Monitor(run, recipe.images, state, quiet=quiet) as monitor:

        def snapshot(*, interim: bool = False) -> None:
            """Draws the fixed samples, judges them, and saves a checkpoint if they are sound."""
            nonlocal saved_at
            generator, samples, classes = _judged_samples(recipe, state, len(data.class_labels))
            spread = within_class_spread(samples, classes) / real_spread
            if not interim:  # a grid off the schedule would stay when the run is resumed
                monitor.snapshot(samples, spread)
            _refuse_not_finite(state, generator, run)
            if state.images_seen >= schedule.collapse_grace and spread < _COLLAPSE_SHARE:
                raise ModeCollapse(
                    f"after {state.images_seen:,} images the samples of one class vary"
                    f" {spread:.3f} times as much as real ones (limit {_COLLAPSE_SHARE});"
                    f" {_what_is_kept(run)}"
                )
            save_checkpoint(run, state, generator, about, interim=interim)
            saved_at = state.images_seen

        while state.images_seen < recipe.images and not stop:
            for optimizer in (opt_G, opt_D):
                optimizer.param_groups[0]["lr"] = step_size(recipe, state.images_seen)

            # --- one batch: real images, and fakes of the same classes --------------------------
            batch = torch.from_numpy(order.indices(state.images_seen, recipe.batch_size))
            y = labels[batch]
            real = _to_network(images[batch])
            z = training_latents(recipe.seed, state.step, recipe.batch_size, recipe.z_dim)
            fake = G(z.to(device), y)

            # --- D: adversarial loss, and every so often both penalties ------------------------
            gamma = penalty_weight(recipe, state.images_seen)
            penalise = gamma > 0 and state.step % recipe.penalty_interval == 0
            D.requires_grad_(requires_grad=True)
            real.requires_grad_(penalise)
            seen_fake = fake.detach().requires_grad_(penalise)
            phi = D.features(real)
            real_logits, fake_logits = D.logits(phi, y), D(seen_fake, y)
            loss_D = objective.discriminator(real_logits, fake_logits)
            total_D = loss_D
            if recipe.mismatch_weight > 0:
                wrong = other_classes(recipe.seed, state.step, y, len(data.class_labels))
                mismatch = objective.discriminator(real_logits, D.logits(phi, wrong))
                total_D = total_D + recipe.mismatch_weight * mismatch
                monitor.mismatch(mismatch.item())
            if penalise:
                r1 = zero_centred_penalty(real_logits, real)
                r2 = zero_centred_penalty(fake_logits, seen_fake)
                weight = gamma / 2 * recipe.penalty_interval
                total_D = total_D + weight * (r1 + r2)
                monitor.penalties(r1.item(), r2.item())
            opt_D.zero_grad()
            total_D.backward()
            opt_D.step()

            # --- G: through the D just updated; the same fakes, G has not changed since ---------
            D.requires_grad_(requires_grad=False)
            with torch.no_grad():
                real_logits = D(real, y)
            loss_G = objective.generator(real_logits, D(fake, y))
            opt_G.zero_grad()
            loss_G.backward()
            opt_G.step()

            # --- average, count, watch ----------------------------------------------------------
            state.step += 1
            state.images_seen += recipe.batch_size
            average_into(
                state.G_ema,
                G,
                averaging_weight(
                    recipe.batch_size, recipe.ema_half_life, recipe.ema_ramp_up, state.images_seen
                ),
            )
            losses = (loss_D.item(), loss_G.item())
            if not all(map(math.isfinite, losses)):
                raise LossNotFinite(
                    f"after {state.images_seen:,} images the losses of D and G are {losses};"
                    f" {_what_is_kept(run)}; {_REMEDY}"
                )
            monitor.step(*losses, real_logits.mean().item())
            if _crossed(state, recipe, schedule.log_interval):
                monitor.log()
            if _crossed(state, recipe, schedule.snapshot_interval):
                snapshot()
        if saved_at != state.images_seen:
            snapshot(interim=state.images_seen < recipe.images)
    return state


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


def _to_network(images: Tensor) -> Tensor:
    """Turns uint8 [B, C, H, W] into float32 in [-1, 1], channels last in memory."""
    scaled = images.float().div_(127.5).sub_(1)
    return scaled.contiguous(memory_format=torch.channels_last)


def initial_state(recipe: MnistRecipe, data: LabelledImages, device: torch.device) -> TrainingState:
    """Returns fresh networks and optimisers; the weights are a function of ``recipe.seed``."""
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        networks = recipe.networks(len(data.class_labels), data.images.shape[-1])
        G_ema = recipe.networks(len(data.class_labels), data.images.shape[-1])[0]
    G, D = _placed(networks[0], device), _placed(networks[1], device)
    G_ema.load_state_dict(G.state_dict())

    def adam(network: nn.Module) -> torch.optim.Adam:
        betas = (recipe.beta1, recipe.beta2)
        return torch.optim.Adam(network.parameters(), recipe.learning_rate, betas, fused=True)

    return TrainingState(
        G=G,
        D=D,
        G_ema=_placed(G_ema, device).requires_grad_(requires_grad=False),
        opt_G=adam(G),
        opt_D=adam(D),
    )


def _placed(network: NetworkT, device: torch.device) -> NetworkT:
    # Channels last was 1.1 to 2.2 times as fast on the convolutions of this recipe on a CPU.
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return] # torch's stubs lack this overload


def step_size(recipe: MnistRecipe, images_seen: int) -> float:
    """Returns Adam's step size: constant, then a half cosine down to zero at the end."""
    decayed = recipe.decay_share * recipe.images
    left = recipe.images - images_seen
    if decayed == 0 or left >= decayed:
        return recipe.learning_rate
    return recipe.learning_rate * 0.5 * (1 - math.cos(math.pi * left / decayed))


def penalty_weight(recipe: MnistRecipe, images_seen: int) -> float:
    """Returns gamma of the penalties: from the first weight to the final one, along a cosine.

    Huang et al., "The GAN is dead; long live the GAN!" (2024), appendix.
    """
    first, final = recipe.penalty_weight, recipe.final_penalty_weight
    progress = min(images_seen / recipe.burn_in, 1.0) if recipe.burn_in else 1.0
    return final + (first - final) * 0.5 * (1 + math.cos(math.pi * progress))


def _crossed(state: TrainingState, recipe: MnistRecipe, interval: int) -> bool:
    """Whether the last step crossed a multiple of ``interval`` images."""
    before = state.images_seen - recipe.batch_size
    return state.images_seen // interval > before // interval


def _judged_samples(
    recipe: MnistRecipe, state: TrainingState, num_classes: int
) -> tuple[nn.Module, NDArray[np.uint8], NDArray[np.int64]]:
    """Returns the averaged generator ready for use, and its fixed samples with their classes."""
    generator = recalibrated(
        state.G_ema, z_dim=recipe.z_dim, num_classes=num_classes, batches=_RECALIBRATION_BATCHES
    )
    return generator, *fixed_samples(generator, recipe.z_dim, num_classes)


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


def describe(recipe: MnistRecipe, data: LabelledImages) -> dict[str, Any]:
    """Returns what a checkpoint and ``options.json`` say of a run, as JSON values."""
    return {
        "recipe": recipe.name,
        "options": {name: getattr(recipe, name) for name in MnistRecipe.model_fields},
        "dataset": data.name,
        "dataset_sha256": data.sha256,
        "class_labels": list(data.class_labels),
        "image_size": data.images.shape[1],
        "image_channels": data.images.shape[-1],
        "code_revision": _code_revision(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "threads": torch.get_num_threads(),
    }


def write_options(run: Path, about: dict[str, Any]) -> None:
    """Writes the complete options of a run beside its results."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "options.json").write_text(json.dumps(about, indent=2) + "\n")


def _code_revision() -> str:
    """Returns the git commit of this code, with ``+`` when it has local changes, or ''."""
    here = Path(__file__).parent
    git = ["git", "-C", str(here)]
    try:
        head = subprocess.run(  # noqa: S603 - fixed arguments
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(  # noqa: S603 - fixed arguments
            [*git, "status", "--porcelain", "--untracked-files=no", "--", str(here)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+" if changed else "")
