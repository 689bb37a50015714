"""Class folders: `train/<class>/<index>.png`, for torchvision and Hugging Face datasets."""

import re
from collections.abc import Iterable
from functools import lru_cache

from imagemint.client.images import ImageBatch
from imagemint.dataset.formats import SPLIT, NewFiles
from imagemint.dataset.pictures import SUFFIXES, encode_batch
from imagemint.dataset.plan import Plan, Shard

# Names that every file system accepts.
_PLAIN = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_+. -]{0,99}(?<![. ])")


def name_file(plan: Plan, shard: Shard) -> None:
    """Returns None: each image has its own file."""
    del plan, shard


def match_files() -> str:
    """Returns the pattern of the files."""
    return f"{SPLIT}/**"


def write(plan: Plan, shard: Shard, batches: Iterable[ImageBatch], files: NewFiles) -> None:
    """Writes the images of a shard."""
    del shard
    for batch in batches:
        for picture in encode_batch(plan, batch):
            files.add(_name_picture(plan, picture.index, picture.class_id), picture.data)


def name_folders(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the folder of each class: its label, or its index if a label cannot be a name."""
    if all(map(_PLAIN.fullmatch, labels)) and len({each.casefold() for each in labels}) == len(
        labels
    ):
        return labels
    width = len(str(len(labels) - 1))
    return tuple(f"{class_id:0{width}d}" for class_id in range(len(labels)))


_name_folders = lru_cache(maxsize=8)(name_folders)


def _name_picture(plan: Plan, index: int, class_id: int | None) -> str:
    name = f"{plan.spell_index(index)}.{SUFFIXES[plan.image_format]}"
    if class_id is None:
        return f"{SPLIT}/{name}"
    return f"{SPLIT}/{_name_folders(plan.class_labels)[class_id]}/{name}"
