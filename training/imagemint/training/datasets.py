"""Labelled images in memory, from IDX and image-Parquet files.

A data set is looked for in each folder of a search path (``--data`` or ``IMAGEMINT_DATA``, then
the user's cache) and downloaded into the cache when it stands in neither.
"""

import gzip
import hashlib
import http.client
import io
import json
import math
import os
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagemint.training.errors import DatasetError

Split = Literal["train", "test"]
_DOWNLOAD_TIMEOUT_S = 60
_IDX_UBYTE = 0x08


@dataclass(frozen=True)
class LabelledImages:
    """A split in memory.

    Attributes:
        name: data set and split, such as ``mnist/train``.
        images: uint8 [N, H, W, C].
        labels: int64 [N], each in 0 to K - 1.
        class_labels: K label texts, by class index.
        sha256: digest over the content of the files read, lower-case hexadecimal.

    Raises:
        DatasetError: another shape or type, no image, not as many labels as images, or a label out
            of range.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_labels: tuple[str, ...]
    sha256: str

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.ndim != 4 or images.dtype != np.uint8 or 0 in images.shape:  # noqa: PLR2004 - NHWC
            raise DatasetError(
                f"{self.name}: images are {images.dtype} {list(images.shape)},"
                " should be uint8 [N, H, W, C] with N at least 1"
            )
        if labels.shape != (len(images),):
            raise DatasetError(
                f"{self.name}: {len(images)} images with labels of shape {list(labels.shape)}"
            )
        wrong = np.flatnonzero((labels < 0) | (labels >= len(self.class_labels)))
        if wrong.size:
            raise DatasetError(
                f"{self.name}, row {wrong[0]}: label {labels[wrong[0]]} is not in"
                f" 0 to {len(self.class_labels) - 1}"
            )

    def __len__(self) -> int:
        return len(self.images)


def cache_directory() -> Path:
    """Returns where downloads are kept: ``$XDG_CACHE_HOME/imagemint``, by default in ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "imagemint" / "data"


def load_dataset(name: str, split: Split, data: Path | None = None) -> LabelledImages:
    """Returns one split of a known data set.

    Args:
        name: a key of `DATASETS`.
        split: ``train`` or ``test``.
        data: folder that holds ``<name>/``; absent, only the cache is searched.

    Raises:
        DatasetError: unknown name; not found and not downloadable, naming what was tried; a file
            damaged or with another checksum than the published one.
    """
    if name not in DATASETS:
        raise DatasetError(f"unknown data set {name!r}; known are {', '.join(sorted(DATASETS))}")
    return DATASETS[name](split, data)


# --- finding and downloading -------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """A published file.

    Attributes:
        path: where it lies below a data folder.
        sha256: digest of its content, unzipped, so that a file zipped anew still passes.
        url: where people with the internet get it; None where no publisher offers these bytes.
    """

    path: str
    sha256: str | None = None
    url: str | None = None


def _read_source(source: _Source, data: Path | None) -> bytes:
    folders = [folder for folder in (data, cache_directory()) if folder is not None]
    tried = [folder / source.path for folder in folders]
    for path in tried:
        if path.is_file():
            content = _unzipped(path.read_bytes(), path)
            return _checked(content, source, path, "delete the file to have it fetched again")
    places = ", ".join(str(path) for path in tried)
    hint = "name the folder that holds it with --data or IMAGEMINT_DATA"
    if source.url is None:
        raise DatasetError(f"{source.path} not found; tried {places}; {hint} (no download known)")
    try:
        content = _download(source.url)
    except (OSError, http.client.HTTPException) as error:  # refused, timed out, cut off
        raise DatasetError(
            f"{source.path} not found; tried {places}, then {source.url} ({error!r}); {hint}"
        ) from error
    checked = _checked(_unzipped(content, source.url), source, source.url, hint)
    _write_whole(tried[-1], content)
    return checked


def _download(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=_DOWNLOAD_TIMEOUT_S) as response:  # noqa: S310 - https constants below
        content: bytes = response.read()
    return content


def _write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that it is either whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _unzipped(content: bytes, place: object) -> bytes:
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise DatasetError(f"{place}: not a whole gzip file ({error})") from error


def _checked(content: bytes, source: _Source, place: object, remedy: str) -> bytes:
    found = hashlib.sha256(content).hexdigest()
    if source.sha256 is not None and found != source.sha256:
        raise DatasetError(
            f"{place}: SHA-256 of the unzipped content is {found}, published is {source.sha256};"
            f" {remedy}"
        )
    return content


# --- IDX ----------------------------------------------------------------------------------------


def parse_idx(content: bytes, place: str) -> NDArray[np.uint8]:
    """Returns the array of an unzipped IDX file of unsigned bytes.

    The format is Y. LeCun's: two zero bytes, a type code, the number of dimensions, each dimension
    as a big-endian uint32, then the values.

    Raises:
        DatasetError: not IDX, another element type than unsigned byte, or a wrong length.
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _IDX_UBYTE:  # noqa: PLR2004 - header
        raise DatasetError(f"{place}: not an IDX file of unsigned bytes")
    rank = content[3]
    start = 4 + 4 * rank
    if len(content) < start:
        raise DatasetError(f"{place}: ends within its header")
    shape = tuple(int(n) for n in np.frombuffer(content[4:start], ">u4"))
    if len(content) - start != math.prod(shape):
        raise DatasetError(
            f"{place}: header promises shape {shape}, content has {len(content) - start} bytes"
        )
    # A copy, because PyTorch takes no arrays that cannot be written to, as a view of bytes.
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_MNIST_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
_MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
    ),
    "train-labels-idx1-ubyte.gz": (
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
    ),
    "t10k-images-idx3-ubyte.gz": (
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
    ),
}


def _load_mnist(split: Split, data: Path | None) -> LabelledImages:
    sources = [
        _Source(f"mnist/{name}", _MNIST_SHA256[name], _MNIST_URL + name)
        for name in _MNIST_FILES[split]
    ]
    contents = [_read_source(source, data) for source in sources]
    images, labels = (
        parse_idx(content, source.path) for content, source in zip(contents, sources, strict=True)
    )
    return LabelledImages(
        name=f"mnist/{split}",
        images=images[..., np.newaxis],
        labels=labels.astype(np.int64),
        class_labels=tuple(str(digit) for digit in range(10)),
        sha256=_digest(contents),
    )


def _digest(contents: list[bytes]) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


# --- image Parquet ------------------------------------------------------------------------------


def parse_image_parquet(content: bytes, name: str) -> LabelledImages:
    """Returns the images of a Parquet file in the Hugging Face image layout.

    Columns: ``image`` as struct with ``bytes`` (any format Pillow reads), ``label`` as integer;
    class names stand in the schema's ``huggingface`` metadata. Pictures are gray when all are
    stored gray, RGB otherwise, and must share one size.

    Raises:
        DatasetError: not Parquet, a column or the class names missing, an unreadable picture,
            pictures of several sizes, or a label that is missing or out of range; by row.
    """
    import pyarrow as pa  # noqa: PLC0415 - 100 ms that a run on IDX data need not pay
    import pyarrow.compute as pc  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        table = pq.read_table(io.BytesIO(content))
        features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        class_labels = tuple(features["label"]["names"])
        column = table.column("image").combine_chunks()
        encoded = pc.struct_field(column, "bytes").to_pylist()
        # A missing label becomes -1, which is out of range.
        labels = pc.fill_null(table.column("label").cast(pa.int64()), -1).to_numpy()
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{name}: not a Parquet file in the image layout ({error})") from error
    pictures = [_decode(picture, f"{name}, row {row}") for row, picture in enumerate(encoded)]
    mode = "L" if all(picture.mode == "L" for picture in pictures) else "RGB"
    arrays = [np.asarray(picture.convert(mode)) for picture in pictures]
    for row, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            raise DatasetError(
                f"{name}, row {row}: picture of {array.shape[:2]} pixels, the first is of"
                f" {arrays[0].shape[:2]}"
            )
    images = np.stack(arrays) if arrays else np.empty((0, 0, 0), np.uint8)
    if mode == "L":
        images = images[..., np.newaxis]
    return LabelledImages(name, images, labels, class_labels, _digest([content]))


def _decode(picture: bytes | None, place: str) -> Image.Image:
    try:
        decoded = Image.open(io.BytesIO(picture or b""))
        decoded.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # SyntaxError is Pillow's for a broken PNG.
        raise DatasetError(f"{place}: unreadable picture ({error})") from error
    return decoded


def _parquet(name: str) -> Callable[[Split, Path | None], LabelledImages]:
    def load(split: Split, data: Path | None) -> LabelledImages:
        source = _Source(f"{name}/{split}-00000-of-00001.parquet")
        return parse_image_parquet(_read_source(source, data), f"{name}/{split}")

    return load


DATASETS: dict[str, Callable[[Split, Path | None], LabelledImages]] = {
    "mnist": _load_mnist,
    "cifar10": _parquet("cifar10"),
    "emoji64": _parquet("emoji64"),
}
