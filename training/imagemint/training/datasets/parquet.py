"""Reads image data sets in Parquet files, as on the Hugging Face hub.

They differ in what they call their columns (``image`` or ``img``, ``label``, ``category`` or
``fine_label``), in whether classes have names, in whether pictures are inside or beside the file,
and in where the files of a split lie. Files are read a few rows at a time, whatever their size.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from imagemint.training.datasets import columns
from imagemint.training.datasets.classes import Label, number_classes
from imagemint.training.datasets.download import add_file
from imagemint.training.datasets.images import UNLABELLED, LabelledImages, Split
from imagemint.training.datasets.listing import (
    AS_IS,
    Listing,
    ReadOptions,
    add_digest,
    read_listing,
)
from imagemint.training.datasets.pictures import AS_STORED, Encoded
from imagemint.training.datasets.shards import find_shards, name_shards
from imagemint.training.datasets.splits import choose_split, describe_unused_splits
from imagemint.training.errors import DatasetError

if TYPE_CHECKING:
    from hashlib import _Hash

    import pyarrow as pa
    import pyarrow.parquet as pq

_ROWS = 32  # rows read at a time


def parse_image_parquet(
    files: bytes | Path | Sequence[bytes | Path],
    name: str,
    options: ReadOptions = ReadOptions(strict=True),  # noqa: B008 - immutable
) -> LabelledImages:
    """Returns the images of Parquet files in the Hugging Face image layout.

    The image column is a struct with ``bytes`` and ``path``, bytes, or paths relative to the file;
    any format Pillow reads. The schema's ``huggingface`` metadata tell which column it is, else its
    name or type. Labels are integers with class names in the metadata, or integers or strings that
    are names themselves. Without a label column all images are of one class. Column ``text`` is
    taken along. Shards may differ in the order and in the integer types of their columns.

    Args:
        files: one file or its content, or the shards of a split in their order.
        name: data set and split.
        options: columns, shape, names of classes and strictness.

    Raises:
        DatasetError: the file is not Parquet, has no column of images, pictures of several sizes or
            a label out of range, or, with ``strict``, an unreadable picture or a missing label. The
            message names the row.
    """
    shards = [files] if isinstance(files, bytes | Path) else list(files)
    return _read([_Shard(shard, name, options) for shard in shards], name, options)


def load_parquet_folder(
    folder: Path, split: Split, options: ReadOptions = AS_IS
) -> LabelledImages | None:
    """Returns a split from the Parquet files below a folder; None if there are none.

    A file belongs to the split that its name begins with, or that a folder above it is called;
    where there is no test split, validation takes its place, and where there is none either, every
    tenth picture of each class. Classes without names are those of the training split.

    Args:
        folder: folder of the files, or one file, which has no splits.
        split: name of the split.
        options: as for `parse_image_parquet`.

    Raises:
        DatasetError: as in `parse_image_parquet`; a shard is missing, or there are several data
            sets.
    """
    files = find_shards(folder, (".parquet",))
    if not files:
        return None
    part = choose_split(files, split)
    name = f"{name_shards(folder)}/{split}"
    shards = [_Shard(path, str(path), options) for path in files[part]]
    known = None
    if part != "train":
        training = [_Shard(path, str(path), options) for path in files["train"]]
        known = _read_classes(training, str(folder), options)[1]
    split_to_select = split if files.keys() == {"train"} else None
    remarks = describe_unused_splits(files)
    return _read(
        shards, name, options, known=known, split_to_select=split_to_select, remarks=remarks
    )


def _read(
    shards: Sequence["_Shard"],
    name: str,
    options: ReadOptions,
    *,
    known: tuple[str, ...] | None = None,
    split_to_select: Split | None = None,
    remarks: tuple[str, ...] = (),
) -> LabelledImages:
    labels, names = _read_classes(shards, name, options, known)
    if shards[0].label_column is None and options.needs_labels:
        others = [each for each in shards[0].schema.names if each != shards[0].image_column]
        remarks = (*remarks, columns.describe_missing_labels(others))
    digest = hashlib.sha256()
    for shard in shards:
        shard.add_to(digest)
    digest.update(b"" if options.shape == AS_STORED else str(options.shape).encode())
    digest.update("".join(f"{column}\n" for column in shards[0].unusual_columns).encode())
    listing = Listing(
        place=name,
        sources=(picture for shard in shards for picture in shard.read_pictures()),
        get_place=lambda row: f"row {row}",
        labels=labels,
        class_labels=names,
        texts=tuple(text for shard in shards for text in shard.read_texts()),
        digest=digest,
        remarks=remarks,
    )
    data = read_listing(listing, name, options, split_to_select=split_to_select)
    if split_to_select is None:
        return data
    # For compatibility, broken rows do not count in the selection of test pictures.
    return add_digest(
        data, split_to_select, *([f"{len(data.broken)} broken"] if data.broken else [])
    )


def _read_classes(
    shards: Sequence["_Shard"],
    name: str,
    options: ReadOptions,
    known: tuple[str, ...] | None = None,
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Returns the labels int64 [N] of all rows and the names of the classes."""
    if shards[0].label_column is None:
        return np.zeros(sum(shard.num_rows for shard in shards), np.int64), UNLABELLED
    declared = shards[0].label_names
    return number_classes(
        [label for shard in shards for label in shard.read_labels()],
        lambda row: f"{name}, row {row}",
        declared=declared,
        known=options.class_labels or (None if declared else known),
    )


class _Shard:
    """One Parquet file.

    Args:
        file: path or content of the file.
        place: the place for errors.
        options: columns that the user names.

    Attributes:
        unusual_columns: columns that differ from those that are read without these options.
    """

    def __init__(self, file: bytes | Path, place: str, options: ReadOptions) -> None:
        self._file = file
        self._place = place
        with self._open() as opened:
            self.schema: pa.Schema = opened.schema_arrow
            self.num_rows: int = opened.metadata.num_rows
            features = _read_features(self.schema)
            names = self.schema.names
            self.image_column = _find_image_column(self.schema, features, options.image_column)
            find_labels = partial(
                columns.find_column,
                [name for name in names if name != self.image_column],
                columns.LABELS,
                flag="--label-column",
                declared=[name for name, it in features.items() if it.get("_type") == "ClassLabel"],
            )
            self.label_column = find_labels(requested=options.label_column)
            # Digests of files read by the usual columns stay those of older versions.
            self.unusual_columns = [
                f"{kind} {found}"
                for kind, found, usual in (
                    ("images", self.image_column, _find_usual_image_column(self.schema, features)),
                    ("labels", self.label_column, find_labels()),
                )
                if found != usual
            ]
        description = features.get(self.label_column or "", {})
        self.label_names: tuple[str, ...] = tuple(description.get("names") or ())

    @contextmanager
    def _open(self) -> Iterator["pq.ParquetFile"]:
        """Opens the file; converts errors to a `DatasetError` that names it."""
        import pyarrow as pa  # noqa: PLC0415 - 100 ms that a run on IDX data need not pay
        import pyarrow.parquet as pq  # noqa: PLC0415 - likewise

        source = pa.BufferReader(self._file) if isinstance(self._file, bytes) else self._file
        try:
            with pq.ParquetFile(source) as opened:
                yield opened
        except DatasetError as error:
            raise DatasetError(f"{self._place}: {error}") from error
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise DatasetError(
                f"{self._place}: not a Parquet file in the image layout ({error})"
            ) from error

    def add_to(self, digest: "_Hash") -> None:
        """Adds the content of the file to a digest."""
        if isinstance(self._file, bytes):
            digest.update(self._file)
            return
        add_file(digest, self._file)

    def read_labels(self) -> list[Label | None]:
        """Returns the label of each row."""
        column = self.label_column
        if column is None:
            raise DatasetError(f"{self._place}: no column of labels, unlike the other files")
        place = f"{self._place}: column {column}"
        return [columns.as_label(value, place) for value in self._read_column(column)]

    def read_texts(self) -> list[str]:
        """Returns the text of each row, or nothing without a column of texts."""
        if "text" not in self.schema.names:
            return []
        return [str(value or "") for value in self._read_column("text")]

    def read_pictures(self) -> Iterator[Encoded]:
        """Yields the picture of each row."""
        for value in self._read_column(self.image_column):
            yield self._read_picture(value)

    def _read_column(self, name: str) -> Iterator[Any]:
        with self._open() as opened:
            for batch in opened.iter_batches(batch_size=_ROWS, columns=[name]):
                yield from batch.column(0).to_pylist()

    def _read_picture(self, value: Any) -> Encoded:  # noqa: ANN401 - a cell of a table
        if isinstance(value, dict):
            content, path = value.get("bytes"), value.get("path")
            value = path if content is None else content
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return] # by the type of the column: bytes or None
        if not isinstance(self._file, Path):
            return DatasetError(f"not in the file, which gives a path, {value}")
        path = self._file.parent / value
        return path if path.is_file() else DatasetError(f"no file {value}, nor its content")


# --- columns --------------------------------------------------------------------------------------


def _read_features(schema: "pa.Schema") -> dict[str, dict[str, Any]]:
    """Returns the description of the columns in the metadata; {} if there is none."""
    metadata = (schema.metadata or {}).get(b"huggingface")
    features = json.loads(metadata).get("info", {}).get("features", {}) if metadata else {}
    return {
        name: description
        for name, description in features.items()
        if isinstance(description, dict) and name in schema.names
    }


def _find_image_column(
    schema: "pa.Schema", features: dict[str, dict[str, Any]], requested: str | None
) -> str:
    """Returns the column of pictures: by metadata, by name, by type, or the one of file names."""
    found = _find_usual_image_column(schema, features)
    if requested is not None:
        found = columns.find_column(schema.names, (), requested=requested, flag="--image-column")
    if found is None:
        raise DatasetError(
            f"no column of images among {', '.join(schema.names) or 'none'};"
            " --image-column names it"
        )
    if _classify_type(schema.field(found).type) is None:
        raise DatasetError(
            f"column {found} holds {schema.field(found).type}, should hold encoded pictures or"
            " paths of files"
        )
    return found


def _find_usual_image_column(
    schema: "pa.Schema", features: dict[str, dict[str, Any]]
) -> str | None:
    """Returns the column of pictures that is read if the user names none."""
    kinds = {field.name: _classify_type(field.type) for field in schema}
    declared = [
        name for name, description in features.items() if description.get("_type") == "Image"
    ]
    binary = [name for name, kind in kinds.items() if kind == "bytes"]
    files = [name for name, kind in kinds.items() if kind == "path"]
    found = columns.find_column(schema.names, columns.PICTURES, declared=declared)
    found = found or (binary[0] if len(binary) == 1 else None)
    return found or columns.find_column(files, columns.FILES)


def _classify_type(type_: "pa.DataType") -> Literal["bytes", "path"] | None:
    """Returns how a column of this Arrow type can hold pictures; None if it cannot."""
    import pyarrow.types as pt  # noqa: PLC0415 - as in `_Shard`

    if pt.is_dictionary(type_):
        return _classify_type(type_.value_type)
    if pt.is_struct(type_):
        return "bytes" if {"bytes", "path"} & {field.name for field in type_} else None
    if pt.is_null(type_) or "binary" in str(type_):
        return "bytes"
    return "path" if "string" in str(type_) else None
