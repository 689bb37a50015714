"""Saves and reads checkpoints: safetensors and JSON, but no pickle.

``RUN/checkpoints/<images seen>/`` holds ``state.safetensors`` (both networks, the averaged
generator, both optimisers: all that resumes), ``generator.safetensors`` (the averaged generator,
ready for use) and ``checkpoint.json``. A directory is flushed to the disk and then appears by
renaming, so it is whole or absent. Damage from elsewhere is found by the digests: a damaged
checkpoint is renamed to ``<images seen>.damaged`` on resume, and the one before it is used.
An interim checkpoint, which a stopped run leaves, is removed when the next one is written:
a run stopped and resumed keeps the checkpoints of a run never stopped.
"""

import hashlib
import json
import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from imagemint.training.durable import flush, flush_directory
from imagemint.training.errors import CheckpointError
from imagemint.training.loop.state import TrainingState
from imagemint.training.recipes import RECIPES, TRANSLATION_RECIPES

_log = logging.getLogger(__name__)

FORMAT_VERSION = 1
_KEPT = 2
# What a checkpoint must have in common with the run that continues it, and what a difference means.
_COMPARED = {
    "recipe": "",
    "dataset": "",
    "dataset_sha256": " (the images, their labels or the making of the sources have changed)",
    "judge_sha256": " (the classifier has changed)",
}
_TORN = ".[0-9]*.[0-9]*"
# Keys of every description of this format. Others were added later: unlogged, interim, rollbacks,
# precision.
_WRITTEN = {"images_seen", "step", "state_sha256", "generator_sha256", "recipe", "options"}


def save_checkpoint(
    run: Path,
    state: TrainingState,
    generator: nn.Module,
    metadata: dict[str, Any],
    *,
    interim: bool = False,
) -> Path:
    """Writes a checkpoint of ``state`` below ``run``, and drops older ones.

    It keeps the newest two, the newest one from before a collapse, and only the newest interim one.

    Args:
        run: the run's directory.
        state: the state to resume from.
        generator: the averaged generator, ready for use, in evaluation mode.
        metadata: recipe, options, data and code, as JSON values; stored as they are.
        interim: whether the run stops here before its end, outside of its schedule.

    Raises:
        CheckpointError: the files cannot be written, such as on a full disk. Earlier checkpoints
            are kept.
    """
    final = run / "checkpoints" / f"{state.images_seen:010d}"
    part = final.with_name(f".{final.name}.{os.getpid()}")
    for torn in final.parent.glob(_TORN):  # left by a run that was killed while it saved
        shutil.rmtree(torn, ignore_errors=True)
    try:
        _write(part, state, generator, metadata, interim=interim)
        flush_directory(part)
        shutil.rmtree(final, ignore_errors=True)
        part.replace(final)
        flush([final.parent])
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        kept = list_checkpoints(run)
        last = f"the last one is {kept[-1]}" if kept else "there is none before it"
        raise CheckpointError(f"cannot write checkpoint {final}: {error}; {last}") from error
    _drop_old(run)
    return final


def _write(
    part: Path,
    state: TrainingState,
    generator: nn.Module,
    metadata: dict[str, Any],
    *,
    interim: bool,
) -> None:
    part.mkdir(parents=True)
    save_file(state.collect_tensors(), part / "state.safetensors")
    weights = {name: t.cpu().contiguous() for name, t in generator.state_dict().items()}
    save_file(weights, part / "generator.safetensors")
    description = {
        "format_version": FORMAT_VERSION,
        "images_seen": state.images_seen,
        "step": state.step,
        "rollbacks": state.rollbacks,
        "collapsed_since": state.collapsed_since,
        "unlogged": state.unlogged,
        "interim": interim,
        "state_sha256": _compute_sha256(part / "state.safetensors"),
        "generator_sha256": _compute_sha256(part / "generator.safetensors"),
        **metadata,
    }
    (part / "checkpoint.json").write_text(json.dumps(description, indent=2) + "\n")


def _drop_old(run: Path) -> None:
    *older, newest = list_checkpoints(run)
    interim = [path for path in older if _is_interim(path)]
    regular = [path for path in older if path not in interim] + [newest]
    varied = list_varied_checkpoints(run)[-1:]
    for old in interim + [path for path in regular[:-_KEPT] if path not in varied]:
        shutil.rmtree(old)


def list_varied_checkpoints(run: Path) -> list[Path]:
    """Returns the checkpoints below ``run`` whose samples varied, oldest first."""
    return [path for path in list_checkpoints(run) if not _is_collapsed(path)]


def drop_collapsed(run: Path) -> None:
    """Removes the checkpoints since a collapse, so that the newest one is from before it."""
    varied = list_varied_checkpoints(run)
    for path in list_checkpoints(run):
        if path not in varied:
            shutil.rmtree(path)


def _is_collapsed(checkpoint: Path) -> bool:
    try:
        return read_description(checkpoint).get("collapsed_since") is not None
    except CheckpointError:  # damaged; reading it reports the error
        return False


def _is_interim(checkpoint: Path) -> bool:
    try:
        return bool(read_description(checkpoint).get("interim"))
    except CheckpointError:  # damaged; it is deleted in its turn
        return False


def _compute_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_checkpoints(run: Path) -> list[Path]:
    """Returns the checkpoints below ``run``, oldest first, without reading them."""
    found = run.glob("checkpoints/*")
    numbered = (path for path in found if path.name.isascii() and path.name.isdigit())
    return sorted((path for path in numbered if path.is_dir()), key=lambda path: int(path.name))


def find_latest_checkpoint(run: Path) -> Path:
    """Returns the newest checkpoint below ``run``.

    Raises:
        CheckpointError: there is none.
    """
    found = list_checkpoints(run)
    if not found:
        raise CheckpointError(f"no checkpoint under {run / 'checkpoints'}: {_explain_absence(run)}")
    return found[-1]


def _explain_absence(run: Path) -> str:
    if not run.exists():
        return f"{run} does not exist"
    if (run / "classifier.json").is_file():
        return "it is a classifier, not a run of a generator"
    inner = sorted(path.parent.name for path in run.glob("*/checkpoints") if path.is_dir())
    if inner:
        return f"name a run in it, such as {run / inner[0]}"
    return "the run saved none yet, or it is no run"


def read_description(checkpoint: Path) -> dict[str, Any]:
    """Returns a checkpoint's JSON.

    Raises:
        CheckpointError: it is unreadable, incomplete, or has an unknown format.
    """
    path = checkpoint / "checkpoint.json"
    try:
        description: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(description, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    version = description.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: format version {version}, this code reads {FORMAT_VERSION}")
    missing = _WRITTEN - description.keys()
    if missing:
        raise CheckpointError(f"{path}: no {', '.join(sorted(missing))}")
    return description


def read_tensors(path: Path, expected_sha256: str) -> dict[str, Tensor]:
    """Returns the tensors of a file by name.

    Raises:
        CheckpointError: it is unreadable, or its digest is not the recorded one.
    """
    _check_digest(path, expected_sha256)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _check_digest(path: Path, expected_sha256: str) -> None:
    try:
        found = _compute_sha256(path)
    except OSError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if found != expected_sha256:
        raise CheckpointError(f"{path}: SHA-256 is {found}, recorded is {expected_sha256}")


def _set_aside(checkpoint: Path) -> None:
    aside = checkpoint.with_name(f"{checkpoint.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    with suppress(FileNotFoundError):  # another process of the run has already renamed it
        checkpoint.rename(aside)


def find_whole_checkpoint(run: Path) -> Path:
    """Returns the newest checkpoint below ``run`` whose files are whole; warns of later ones.

    Raises:
        CheckpointError: there is none; the message states the fault of each.
    """
    faults: list[str] = []
    for checkpoint in reversed(list_checkpoints(run)):
        try:
            description = read_description(checkpoint)
            for name in ("state", "generator"):
                _check_digest(checkpoint / f"{name}.safetensors", description[f"{name}_sha256"])
        except CheckpointError as fault:
            faults.append(str(fault))
            continue
        for each in faults:
            _log.warning("damaged checkpoint: %s", each)
        return checkpoint
    if faults:
        raise CheckpointError("no checkpoint is whole: " + "; ".join(faults))
    return find_latest_checkpoint(run)  # raises, because there is none


def find_fitting_checkpoint(run: Path, metadata: dict[str, Any], *, free: set[str]) -> Path:
    """Returns the newest whole checkpoint of ``run`` if ``metadata`` describes the same run.

    Args:
        run: the run's directory.
        metadata: the argument of `save_checkpoint`; recipe, data, precision and options must agree.
        free: options that may differ, because they do not affect the steps.

    Raises:
        CheckpointError: there is none, it is unreadable, or it was made with another recipe, data
            or options; the message names every difference.
    """
    checkpoint = find_whole_checkpoint(run)
    found = read_description(checkpoint)
    faults = [
        f"{key} is {found.get(key)!r} there and {metadata.get(key)!r} here{hint}"
        for key, hint in _COMPARED.items()
        if found.get(key) != metadata.get(key)
    ]
    found_precision, precision = (each.get("precision", "fp32") for each in (found, metadata))
    if found_precision != precision:
        faults.append(f"precision is {found_precision} there and {precision} here")
    theirs, ours = read_option_defaults(metadata["recipe"]) | found["options"], metadata["options"]
    faults += [
        f"option {key} is {theirs.get(key)!r} there and {ours.get(key)!r} here"
        for key in sorted(theirs.keys() | ours.keys())
        if key not in free and theirs.get(key) != ours.get(key)
    ]
    if faults:
        raise CheckpointError(f"{checkpoint} is of another run: " + "; ".join(faults))
    images_seen, images = int(checkpoint.name), metadata["options"]["images"]
    if images < min(images_seen, found["options"]["images"]):  # a run may end a few images later
        raise CheckpointError(
            f"{checkpoint} has shown {images_seen:,} images: a run cannot be shortened to"
            f" {images:,}"
        )
    return checkpoint


def read_option_defaults(recipe: str) -> dict[str, Any]:
    """Returns the value that each option has in a run that does not name it.

    {} for an unknown recipe. See `Recipe.values_before`.
    """
    for known in (RECIPES, TRANSLATION_RECIPES):
        if recipe in known:
            return known[recipe].complete_options({})
    return {}


def restore(run: Path, state: TrainingState, metadata: dict[str, Any], *, free: set[str]) -> None:
    """Fills ``state`` from the newest whole checkpoint of ``run``, if it fits.

    Newer damaged checkpoints are renamed, so that the run continues without them.

    Args:
        run: the run's directory.
        state: networks and optimisers as the recipe builds them.
        metadata: as for `find_fitting_checkpoint`.
        free: as for `find_fitting_checkpoint`.

    Raises:
        CheckpointError: no checkpoint fits, or its tensors are damaged.
    """
    checkpoint = find_fitting_checkpoint(run, metadata, free=free)
    for damaged in list_checkpoints(run):
        if int(damaged.name) > int(checkpoint.name):
            _set_aside(damaged)
    found = read_description(checkpoint)
    state.load_tensors(read_tensors(checkpoint / "state.safetensors", found["state_sha256"]))
    state.images_seen, state.step = found["images_seen"], found["step"]
    state.unlogged, state.rollbacks = found.get("unlogged", {}), found.get("rollbacks", 0)
    state.collapsed_since = found.get("collapsed_since")
