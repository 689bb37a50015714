"""Determines the settings of a resumed run: those of the run, overridden by the user."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from imagemint.training.datasets import DATASETS, LabelledImages
from imagemint.training.errors import CheckpointError
from imagemint.training.loop.checkpoints import (
    find_whole_checkpoint,
    read_description,
    read_option_defaults,
)

_log = logging.getLogger(__name__)

NOT_REMEMBERED = frozenset({"out", "data", "dry_run", "quiet", "device", "resume"})
"""Settings of the machine and of one call, which a run does not record."""
_OF_DATA = (
    *("dataset", "label_column", "image_column", "labels_file", "strict"),
    *("size", "channels", "per_class", "pairs", "judge"),
)
_SETTINGS = "settings"
_SCHEDULE = "schedule"


SettingsT = TypeVar("SettingsT", bound=BaseModel)


def list_settings_to_record(
    settings: BaseModel, recipe_options: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the settings that ``options.json`` records for a resume, as JSON values by name.

    Args:
        settings: settings of the command.
        recipe_options: the options of the recipe, which the checkpoints hold.
    """
    excluded = NOT_REMEMBERED | recipe_options.keys()
    kept = settings.model_dump(mode="json", by_alias=True, exclude=set(excluded))
    for name in ("dataset", "labels_file", "classifier", "judge"):
        # A published data set goes before a folder of its name.
        is_path = kept.get(name) and not (name == "dataset" and kept[name] in DATASETS)
        if is_path and Path(kept[name]).expanduser().exists():
            # The resume may run in another directory.
            kept[name] = str(Path(kept[name]).expanduser().absolute())
    return kept


def resume_settings(
    settings: SettingsT, run: Path, known_datasets: Mapping[str, object]
) -> SettingsT:
    """Returns the settings of a run, overridden by those that the user gives.

    Args:
        settings: settings of the command; only the fields that are set count.
        run: directory of the run.
        known_datasets: names of the published data sets. A run that is older than this function
            tells no more than the name of its data.

    Raises:
        CheckpointError: there is no complete checkpoint, the run does not record its data, or its
            options are not those of this recipe.
    """
    description = read_description(find_whole_checkpoint(run))
    kept = read_settings(run)
    if "dataset" not in kept:
        name = str(description.get("dataset", "")).partition("/")[0]
        if name in known_datasets:
            kept["dataset"] = name
        elif "data_set" not in settings.model_fields_set:
            raise CheckpointError(f"{run} does not record where its data are: name the --dataset")
        kept |= {"size": description["image_size"], "channels": description["image_channels"]}
    explicit = settings.model_dump(by_alias=True, exclude_unset=True)
    values = {
        **read_option_defaults(description["recipe"]),
        **description["options"],
        **kept,
        **explicit,
    }
    names = {field.alias or name for name, field in type(settings).model_fields.items()}
    try:
        return type(settings).model_validate({k: v for k, v in values.items() if k in names})
    except ValidationError as error:
        raise CheckpointError(f"{run}: {error}") from error


def describe_changes(run: Path, settings: Mapping[str, Any]) -> str:
    """Returns the settings of the data that differ from those of a run, as the end of an error.

    The checkpoints tell the digest of the data alone, which says nothing to a person.

    Args:
        run: directory of the run.
        settings: as `list_settings_to_record` returns them.
    """
    kept = read_settings(run)
    changed = [
        f"--{name.replace('_', '-')} was {kept[name]!r} and is {settings[name]!r}"
        for name in _OF_DATA
        if name in kept and name in settings and kept[name] != settings[name]
    ]
    return "".join(f"; {each}" for each in changed)


def read_class_order(run: Path, data: LabelledImages) -> tuple[str, ...] | None:
    """Returns the classes of a run in its order; None if the data have the same order.

    Classes are sorted by the numbers in their names, and folders without pictures are none. Older
    runs sorted them as text and counted such folders. A run without classes does not tell its
    order, so it is taken to be that of older runs if the digest of the data differs.
    """
    description = read_description(find_whole_checkpoint(run))
    recorded = tuple(description.get("class_labels") or ())
    if recorded and "code 0" not in recorded and recorded != data.class_labels:
        return recorded
    if description.get("dataset_sha256") != data.sha256:
        return recorded or tuple(sorted(data.class_labels))
    return None


def read_settings(run: Path) -> dict[str, Any]:
    """Returns the settings that ``options.json`` keeps; {} if it is missing.

    {} also if it is unreadable, with a warning.
    """
    path = run / "options.json"
    try:
        written = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        written = error
    if not isinstance(written, dict):
        _log.warning(
            "%s is damaged (%s): the run continues with the options of its checkpoint; others,"
            " such as --log-interval and --classifier, have their defaults unless you give them",
            *(path, "not a JSON object" if not isinstance(written, Exception) else written),
        )
        return {}
    kept: dict[str, Any] = written.get(_SETTINGS) or dict(written.get(_SCHEDULE) or {})
    return kept
