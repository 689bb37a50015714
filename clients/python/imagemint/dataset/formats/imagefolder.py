"""Class folders: `train/<class>/<index>.png`, for torchvision and Hugging Face datasets.

If images have captions or scores, `train/metadata.jsonl` has a line for each image, as Hugging Face
datasets reads it (https://huggingface.co/docs/datasets/image_load). Column `label` is the class:
where there is such a file, `datasets` does not take labels from the folders.
"""

import json
import re
from collections.abc import Iterable
from functools import lru_cache

from imagemint.client.images import ImageBatch
from imagemint.dataset.formats import SPLIT, NewFiles, name_part
from imagemint.dataset.pictures import CAPTION, SUFFIXES, Picture, encode_batch
from imagemint.dataset.plan import Plan, Shard

# Names that every file system accepts.
_PLAIN = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_+. -]{0,99}(?<![. ])")


def name_file(plan: Plan, shard: Shard) -> None:
    """Returns None: each image has its own file."""
    del plan, shard


def name_joined(plan: Plan) -> str | None:
    """Returns the file with captions and scores."""
    return f"{SPLIT}/metadata.jsonl" if plan.columns else None


def match_files() -> str:
    """Returns the pattern of the files."""
    return f"{SPLIT}/**"


def write(plan: Plan, shard: Shard, batches: Iterable[ImageBatch], files: NewFiles) -> None:
    """Writes the images of a shard."""
    lines = []
    for batch in batches:
        for picture in encode_batch(plan, batch):
            name = _name_picture(plan, picture.index, picture.class_id)
            files.add(f"{SPLIT}/{name}", picture.data)
            if plan.columns:
                lines.append(_describe(plan, name, picture))
    if plan.columns:
        files.add(name_part(shard), "".join(lines).encode())


def _describe(plan: Plan, name: str, picture: Picture) -> str:
    """Returns the line of an image."""
    found: dict[str, object] = {"file_name": name}
    if picture.class_id is not None:
        found["label"] = plan.class_labels[picture.class_id]
    if picture.caption is not None:
        found[CAPTION] = picture.caption
    found |= {"serial": picture.serial, "index": picture.index, **(picture.scores or {})}
    return json.dumps(found, ensure_ascii=False) + "\n"


def name_folders(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the folder of each class: its label, or its index if a label cannot be a name."""
    if all(map(_PLAIN.fullmatch, labels)) and len({label.casefold() for label in labels}) == len(
        labels
    ):
        return labels
    width = len(str(len(labels) - 1))
    return tuple(f"{class_id:0{width}d}" for class_id in range(len(labels)))


_name_folders = lru_cache(maxsize=8)(name_folders)


def _name_picture(plan: Plan, index: int, class_id: int | None) -> str:
    name = f"{plan.spell_index(index)}.{SUFFIXES[plan.image_format]}"
    if class_id is None:
        return name
    return f"{_name_folders(plan.class_labels)[class_id]}/{name}"
