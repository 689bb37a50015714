"""Reads image data sets in tar shards, in the layout of WebDataset.

Files of one name, up to its first dot, are one sample: ``000017.jpg`` beside ``000017.cls``. See
https://github.com/webdataset/webdataset for the format. The shards are read once for the labels
and once for the pictures, a few at a time.
"""

import hashlib
import json
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagemint.training.datasets import columns
from imagemint.training.datasets.classes import Label, number_classes
from imagemint.training.datasets.download import add_file
from imagemint.training.datasets.images import UNLABELLED, LabelledImages, Split
from imagemint.training.datasets.listing import Listing, ReadOptions, add_digest, read_listing
from imagemint.training.datasets.pictures import AS_STORED, Encoded
from imagemint.training.datasets.shards import find_shards, name_shards
from imagemint.training.datasets.splits import choose_split, describe_unused_splits
from imagemint.training.datasets.tree import SUFFIXES, is_stray
from imagemint.training.errors import DatasetError

TARS = (".tar", ".tar.gz", ".tgz")
_LABELS = ("cls", "class", "label")
_TEXTS = ("txt", "text", "caption")
_FOLDER = "the folder in the shard"


@dataclass
class _Sample:
    """The data of one sample before its picture is read.

    Attributes:
        shard: the file.
        key: common part of the names of its members.
        pictures: offset and size of each picture in the shard, by suffix.
        fields: small members by suffix, and the fields of the JSON object.
    """

    shard: Path
    key: str
    pictures: dict[str, tuple[int, int]] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)


def load_webdataset(folder: Path, split: Split, options: ReadOptions) -> LabelledImages | None:
    """Returns a split from the tar shards below a folder; None if there are none.

    Shards belong to splits by their names, as Parquet files do. Labels are in ``.cls``, or in a
    field of ``.json`` with a usual name, or in what ``options.label_column`` names: a suffix or a
    field. Without any, they are the folders in the shard, if there are several. ``.txt`` holds
    texts, unless it is named as the label column.

    Args:
        folder: folder of the shards, or one shard, which has no splits.
        split: name of the split.
        options: suffix of pictures (``image_column``), labels, shape and strictness.

    Raises:
        DatasetError: not a tar file, no picture in it, a label is none of the classes, a shard is
            missing, there are several data sets, or as `read_listing`.
    """
    files = find_shards(folder, TARS)
    if not files:
        return None
    part = choose_split(files, split)
    name = f"{name_shards(folder)}/{split}"
    training = [sample for path in files["train"] for sample in _read_samples(path)]
    samples = training
    if part != "train":
        samples = [sample for path in files[part] for sample in _read_samples(path)]
    if not any(sample.pictures for sample in samples):
        raise DatasetError(f"{folder}: no picture in {', '.join(map(str, files[part]))}")
    column = _find_label_column(training, options.label_column)
    suffix = _choose_picture_suffix(samples, options.image_column)
    remarks = [*describe_unused_splits(files), *_list_remarks(training, column, suffix, options)]
    labels, names = _number_classes(samples, training, column, options)
    digest = hashlib.sha256()
    for path in files[part]:
        add_file(digest, path)
    digest.update(b"" if options.shape == AS_STORED else str(options.shape).encode())
    # Digests of shards read by the usual fields stay those of older versions.
    if suffix != _choose_picture_suffix(samples, None):
        digest.update(f"images {suffix}\n".encode())
    if column != _find_label_column(training, None):
        digest.update(f"labels {column}\n".encode())
    texts = tuple(str(_get_first_field(sample, _TEXTS) or "") for sample in samples)
    listing = Listing(
        place=name,
        sources=_read_pictures(samples, suffix),
        get_place=lambda row: f"{samples[row].shard.name}, {samples[row].key}",
        labels=labels,
        class_labels=names,
        texts=texts if any(texts) else (),
        digest=digest,
        remarks=tuple(remarks),
    )
    split_to_select = split if files.keys() == {"train"} else None
    data = read_listing(listing, name, options, split_to_select=split_to_select)
    return add_digest(data, split_to_select) if split_to_select else data


# --- shards ---------------------------------------------------------------------------------------


@contextmanager
def _open(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path) as archive:
            yield archive
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: not a whole tar file ({error})") from error


def _read_samples(path: Path) -> list[_Sample]:
    """Returns the samples of a shard in order, with everything but their pictures."""
    samples: dict[str, _Sample] = {}
    with _open(path) as archive:
        for member in archive:
            member_path = PurePosixPath(member.name)
            if not member.isfile() or any(is_stray(part) for part in member_path.parts):
                continue
            stem, _, suffix = member_path.name.partition(".")
            key = str(member_path.parent / stem)
            sample = samples.setdefault(key, _Sample(path, key))
            if f".{suffix.rpartition('.')[-1].lower()}" in SUFFIXES:
                sample.pictures[suffix.lower()] = (member.offset_data, member.size)
            elif content := archive.extractfile(member):
                sample.fields |= _parse_fields(
                    suffix.lower(), content.read(), f"{path}, {member.name}"
                )
        # tarfile treats an invalid header as the end.
        if _read(archive, archive.offset, tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"no member begins at byte {archive.offset}")
    return list(samples.values())


def _parse_fields(suffix: str, content: bytes, place: str) -> dict[str, Any]:
    """Returns the content of a small member: its text by suffix, or the fields of its JSON."""
    if suffix == "json":
        try:
            fields = json.loads(content)
        except ValueError as error:
            raise DatasetError(f"{place}: not JSON ({error})") from error
        return fields if isinstance(fields, dict) else {"json": fields}
    return {suffix: content.decode(errors="replace").strip()}


def _read_pictures(samples: Sequence[_Sample], suffix: str) -> Iterator[Encoded]:
    """Yields the picture of each sample; None for a sample without a picture."""
    for shard, own in groupby(samples, key=lambda sample: sample.shard):
        with _open(shard) as archive:
            for sample in own:
                first = next(iter(sample.pictures.values()), None)
                place = sample.pictures.get(suffix, first)
                # By offset, because tarfile searches a name from the beginning each time.
                yield _read(archive, *place) if place else None


def _read(archive: tarfile.TarFile, offset: int, size: int) -> bytes:
    file: Any = archive.fileobj  # the type in the stubs is writable, too
    file.seek(offset)
    content: bytes = file.read(size)
    return content


# --- what they tell -------------------------------------------------------------------------------


def _find_label_column(samples: Sequence[_Sample], requested: str | None) -> str | None:
    """Returns the field of labels, `_FOLDER` for folders in the shards, or None without labels."""
    names = list(dict.fromkeys(name for sample in samples for name in sample.fields))
    usual = (*_LABELS, *columns.LABELS)
    found = columns.find_column(names, usual, requested=requested, flag="--label-column")
    if found is None and len({PurePosixPath(sample.key).parent for sample in samples}) > 1:
        return _FOLDER
    return found


def _choose_picture_suffix(samples: Sequence[_Sample], requested: str | None) -> str:
    """Returns the suffix of the pictures to use if samples have several."""
    suffixes = list(dict.fromkeys(suffix for sample in samples for suffix in sample.pictures))
    if requested is None:
        return suffixes[0]
    found = columns.find_column(
        suffixes, (), requested=requested.lstrip("."), flag="--image-column"
    )
    return found or suffixes[0]


def _number_classes(
    samples: Sequence[_Sample],
    training: Sequence[_Sample],
    column: str | None,
    options: ReadOptions,
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if column is None:
        return np.zeros(len(samples), np.int64), UNLABELLED

    def number_samples(
        subset: Sequence[_Sample], known: tuple[str, ...] | None
    ) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        labels = [_read_label(sample, column) for sample in subset]
        return number_classes(labels, lambda n: f"{subset[n].shard}, {subset[n].key}", known=known)

    return number_samples(samples, options.class_labels or number_samples(training, None)[1])


def _read_label(sample: _Sample, column: str) -> Label | None:
    if column == _FOLDER:
        return PurePosixPath(sample.key).parent.name
    place = f"{sample.shard}, {sample.key}: {column}"
    return columns.as_label(sample.fields.get(column), place)


def _get_first_field(sample: _Sample, names: Sequence[str]) -> Any:  # noqa: ANN401 - a value of JSON
    return next((sample.fields[name] for name in names if name in sample.fields), None)


def _list_remarks(
    samples: Sequence[_Sample], column: str | None, suffix: str, options: ReadOptions
) -> Iterator[str]:
    if column is None and options.needs_labels:
        fields = dict.fromkeys(name for sample in samples for name in sample.fields)
        yield columns.describe_missing_labels(list(fields))
    elif column == _FOLDER:
        yield "labels are the folders in the shards, because no file or field holds any"
    suffixes = {it for sample in samples for it in sample.pictures if len(sample.pictures) > 1}
    if suffixes:
        yield f"of several pictures a sample, .{suffix} is taken; --image-column names another"
