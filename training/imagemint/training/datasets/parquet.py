"""Image data sets in Parquet files, as the Hugging Face hub has them.

They differ in what they call their columns (``image`` or ``img``, ``label``, ``labels`` or
``fine_label``), in whether classes have names, and in where the files of a split lie.
"""

import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imagemint.training.datasets.download import digest_of
from imagemint.training.datasets.images import UNLABELLED, LabelledImages, Split
from imagemint.training.datasets.pictures import (
    AS_STORED,
    HELD_OUT,
    Shape,
    complain,
    decode_all,
    stack,
)
from imagemint.training.errors import DatasetError

if TYPE_CHECKING:
    import pyarrow as pa

_IMAGES = ("image", "img", "picture", "jpg", "png")
_LABELS = ("label", "labels", "fine_label", "class", "target")
_SPLITS = {"train": "train", "test": "test", "validation": "validation", "valid": "validation"}
_DEEPEST = 3  # folder/config/split/0000.parquet
_NUMBERED = re.compile(r"-\d+-of-(\d+)(-\w+)?$")


def parse_image_parquet(
    content: bytes | Sequence[bytes],
    name: str,
    shape: Shape = AS_STORED,
    *,
    class_labels: tuple[str, ...] | None = None,
    strict: bool = True,
) -> LabelledImages:
    """Returns the images of Parquet files in the Hugging Face image layout.

    The image column is a struct with ``bytes``, or bytes (any format Pillow reads); the schema's
    ``huggingface`` metadata tell which it is, else its name. Labels are integers with class names
    in the metadata, or integers or strings that are names themselves; without a label column all
    images are of one class. Column ``text`` is taken along.

    Args:
        content: of one file, or of the shards of a split in their order.
        name: data set and split.
        shape: what the pictures are brought to; as stored, they must share one size.
        class_labels: names of the classes where the file has none; None: the values found.
        strict: let a broken picture be an error; otherwise it is left out, named and counted.

    Raises:
        DatasetError: not Parquet, no column of images, with ``strict`` an unreadable picture,
            pictures of several sizes, or a label that is missing or out of range; by row.
    """
    import pyarrow as pa  # noqa: PLC0415 - 100 ms that a run on IDX data need not pay
    import pyarrow.parquet as pq  # noqa: PLC0415

    contents = [content] if isinstance(content, bytes) else list(content)
    try:
        table = pa.concat_tables([pq.read_table(io.BytesIO(each)) for each in contents])
        encoded = _encoded(table)
        labels, names = _labels(table, class_labels)
        told = "text" in table.column_names
        texts = [str(text or "") for text in table.column("text").to_pylist()] if told else []
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{name}: not a Parquet file in the image layout ({error})") from error
    decoded = decode_all(encoded, shape)
    rows = [row for row, it in enumerate(decoded) if not isinstance(it, DatasetError)]
    broken = [f"row {row}: {it}" for row, it in enumerate(decoded) if isinstance(it, DatasetError)]
    complain(name, broken, len(decoded), strict=strict)
    pictures = [it for it in decoded if not isinstance(it, DatasetError)]
    treated = [] if shape == AS_STORED else [str(shape).encode()]
    return LabelledImages(
        name=name,
        images=stack(pictures, lambda index: f"{name}, row {rows[index]}"),
        labels=labels[rows],
        class_labels=names,
        sha256=digest_of([*contents, *treated]),
        texts=tuple(texts[row] for row in rows) if told else (),
        broken=tuple(broken),
    )


def load_parquet_folder(
    folder: Path, split: Split, *, shape: Shape = AS_STORED, strict: bool = False
) -> LabelledImages | None:
    """Returns a split from the Parquet files below a folder; None if there are none.

    A file belongs to the split that its name begins with, or that a folder above it is called;
    where there is no test split, validation takes its place, and where there is none either, every
    tenth picture of each class. Classes without names are those of the training split.

    Raises:
        DatasetError: as `parse_image_parquet`; a shard is missing, or there are several data sets.
    """
    files = _files(folder)
    if not files:
        return None
    if "train" not in files:
        raise DatasetError(f"{folder}: no Parquet file of the training split")
    part = next((each for each in (split, "validation") if each in files), "train")
    known = None if part == "train" else _values(files["train"])
    data = parse_image_parquet(
        [path.read_bytes() for path in files[part]],
        f"{folder.name}/{split}",
        shape,
        class_labels=known,
        strict=strict,
    )
    return data if len(files) > 1 else _held_out(data, split)


def _files(folder: Path) -> dict[str, list[Path]]:
    """The files of each split, in order."""
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.parquet")):
        parts = path.relative_to(folder).with_suffix("").parts
        if len(parts) > _DEEPEST or any(part.startswith(".") for part in parts):
            continue
        words = [re.split(r"[-_.]", parts[-1])[0], *parts[:-1]]
        split = next((_SPLITS[word] for word in words if word in _SPLITS), "train")
        files.setdefault(split, []).append(path)
    for found in files.values():
        homes = sorted({str(path.parent.relative_to(folder)) for path in found})
        if len(homes) > 1:
            raise DatasetError(f"{folder} holds several data sets: name one of {', '.join(homes)}")
        promised = _NUMBERED.search(found[0].stem)
        if promised and int(promised[1]) != len(found):
            raise DatasetError(f"{found[0]}: {len(found)} of {int(promised[1])} files are there")
    return files


def _held_out(data: LabelledImages, split: Split) -> LabelledImages:
    """Every tenth picture of each class, or all the others, of data that nobody divided."""
    tenth = np.zeros(len(data), bool)
    for label in range(len(data.class_labels)):
        tenth[np.flatnonzero(data.labels == label)[HELD_OUT - 1 :: HELD_OUT]] = True
    rows = np.flatnonzero(tenth if split == "test" else ~tenth)
    return replace(
        data,
        images=data.images[rows],
        labels=data.labels[rows],
        texts=tuple(data.texts[row] for row in rows) if data.texts else (),
        sha256=digest_of([f"{data.sha256} {split}".encode()]),
    )


# --- columns --------------------------------------------------------------------------------------


def _features(schema: "pa.Schema") -> dict[str, Any]:
    """What the metadata say of the columns; {} where there are none."""
    told = (schema.metadata or {}).get(b"huggingface")
    features = json.loads(told).get("info", {}).get("features", {}) if told else {}
    return {name: about for name, about in features.items() if isinstance(about, dict)}


def _column(schema: "pa.Schema", kind: str, usual: tuple[str, ...]) -> str | None:
    """The column of a kind: one of the usual names, the metadata's word going before ours."""
    typed = [name for name, about in _features(schema).items() if about.get("_type") == kind]
    found = [name for name in (*usual, *typed) if name in schema.names]
    return next((name for name in found if name in typed), found[0] if found else None)


def _encoded(table: "pa.Table") -> list[bytes | None]:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415

    name = _column(table.schema, "Image", _IMAGES)
    if name is None:
        raise ValueError(f"no column of images among {', '.join(table.column_names) or 'none'}")
    column = table.column(name).combine_chunks()
    if pa.types.is_struct(column.type):
        column = pc.struct_field(column, "bytes")
    encoded: list[bytes | None] = column.cast(pa.binary()).to_pylist()
    return encoded


def _labels(
    table: "pa.Table", known: tuple[str, ...] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The labels int64 [N], -1 where one is missing or of no class, and the names of the classes.

    Args:
        table: with or without a column of labels.
        known: names of the classes where the metadata tell none.
    """
    name = _column(table.schema, "ClassLabel", _LABELS)
    if name is None:
        return np.zeros(len(table), np.int64), UNLABELLED
    values = table.column(name).to_pylist()
    wrong = next((value for value in values if not isinstance(value, int | str | None)), None)
    if wrong is not None:
        raise TypeError(f"{name} holds {wrong!r}, should hold integers or strings")
    names = tuple(_features(table.schema).get(name, {}).get("names") or ())
    if names and not any(isinstance(value, str) for value in values):
        return np.array([-1 if value is None else value for value in values], np.int64), names
    names = names or known or _distinct(values)
    index = {text: label for label, text in enumerate(names)}
    return np.array([index.get(str(value), -1) for value in values], np.int64), names


def _distinct(values: Sequence[int | str | None]) -> tuple[str, ...]:
    """Labels that are names themselves, integers in their order."""
    there = {value for value in values if value is not None}
    return tuple(str(value) for value in sorted(there, key=lambda it: (isinstance(it, str), it)))


def _values(shards: Sequence[Path]) -> tuple[str, ...] | None:
    """The labels that appear in the files of a split; None where there is no column of them."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        name = _column(pq.read_schema(shards[0]), "ClassLabel", _LABELS)
        if name is None:
            return None
        tables = [pq.read_table(shard, columns=[name]) for shard in shards]
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise DatasetError(f"{shards[0]}: not a Parquet file ({error})") from error
    return _distinct(pa.concat_tables(tables).column(name).to_pylist())
