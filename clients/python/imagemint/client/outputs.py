"""Writes images: a folder of PNG files, one sheet, or an npz. All files are replaced atomically."""

import contextlib
import math
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from imagemint.client.errors import make_invalid_request
from imagemint.client.images import EncodedPicture, ImageBatch
from imagemint.client.requests import AnimationFormat, Format

UNCONDITIONAL = -1
"""Class of an image of an unconditional model in an npz."""

_SHEETS: dict[str, Format] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
_NPZ = ".npz"
_ANIMATIONS: dict[str, AnimationFormat] = {".webp": "webp", ".gif": "gif", ".apng": "apng"}
_SERIALS_IN_BLOCK = 4096
_NAME = re.compile(r"(.+_)?(?P<index>[0-9]{6,})(_class[0-9]+)?\.png")
# Largest height or width of each format, in pixels.
_LONGEST_SIDE: dict[Format, int] = {"jpeg": 65_500, "webp": 16_383}

# The server writes the same metadata into every encoded picture.
_XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
   Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>
 </rdf:RDF>
</x:xmpmeta>"""


class Kind(Enum):
    """Kind of an output path."""

    FOLDER = "folder"
    SHEET = "sheet"
    NPZ = "npz"
    ANIMATION = "animation"
    FILE = "file"
    """Any other file, such as a report."""


def parse_kind(text: str) -> Kind:
    """Returns the kind of the output path `text`, by its suffix in upper or lower case.

    Raises:
        ValueError: the suffix is unknown; the message lists the known ones.
    """
    path = Path(text)
    suffix = path.suffix.lower()
    if not text.strip():
        raise ValueError("the name is empty; use ./ for the current folder")
    if text == "-":
        raise ValueError("standard output is not supported; name a file or a folder")
    if text.endswith("/") or (path.is_dir() and suffix not in {*_SHEETS, _NPZ}):
        return Kind.FOLDER
    if suffix in _SHEETS:
        return Kind.SHEET
    if suffix == _NPZ:
        return Kind.NPZ
    if suffix in _ANIMATIONS:
        return Kind.ANIMATION
    if suffix or path.name.lower() in {*_SHEETS, _NPZ}:
        raise ValueError(
            f"{path.name} is none of NAME{', NAME'.join([*_SHEETS, _NPZ])}; "
            f"for a folder of this name use {text}/"
        )
    return Kind.FOLDER


def choose_animation_format(path: Path) -> AnimationFormat:
    """Returns the encoding of an animation.

    Raises:
        ValueError: the suffix names none.
    """
    found = _ANIMATIONS.get(path.suffix.lower())
    if found is None:
        raise ValueError(f"{path.name} is none of NAME{', NAME'.join(_ANIMATIONS)}")
    return found


def choose_sheet_format(path: Path) -> Format:
    """Returns the encoding of a sheet."""
    return _SHEETS[path.suffix.lower()]


def check_free(path: Path, kind: Kind) -> None:
    """Checks that an output is free: no such file, or a folder without pictures of an earlier run.

    Raises:
        FileExistsError: the output exists.
    """
    if kind is Kind.FOLDER:
        if path.exists() and not path.is_dir():
            raise FileExistsError(f"{path} exists and is not a folder")
        if found := len(_list_pictures(path)):
            raise FileExistsError(
                f"{path} holds {found} pictures of an earlier run; --overwrite deletes them, "
                "--append replaces those of the same index"
            )
    elif path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file")
    elif path.exists():
        raise FileExistsError(f"{path} exists; --overwrite replaces it")


def clear_folder(path: Path) -> None:
    """Deletes the pictures of an earlier run. Other files stay."""
    for picture in _list_pictures(path):
        picture.unlink()


def _list_pictures(path: Path) -> list[Path]:
    """Returns the pictures that an earlier run wrote to a folder."""
    return [each for each in path.iterdir() if _NAME.fullmatch(each.name)] if path.is_dir() else []


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Opens a temporary file that replaces `path` at the end, and is deleted after an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _make_partial_path(path)
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _make_partial_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def check_writable(path: Path) -> None:
    """Checks that `write_atomically` can write a file; creates its folder if it is missing.

    Raises:
        OSError: it cannot.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _make_partial_path(path)
    partial.open("wb").close()
    partial.unlink()


def write_folder(
    path: Path, chunks: Iterable[list[EncodedPicture]], *, full_names: bool = False
) -> None:
    """Writes each picture to a file such as `000017_class7.png`, with the bytes from the server.

    A picture replaces an earlier one of the same index, even if its class and therefore its name
    has changed.

    Args:
        path: the folder; it is created if it does not exist.
        chunks: the pictures.
        full_names: whether a name includes model, version and seed, which pictures of several
            seeds need: `mnist@1_42_000017_class7.png`.
    """
    path.mkdir(parents=True, exist_ok=True)
    existing: dict[str, set[Path]] = {}
    for each in _list_pictures(path):
        existing.setdefault(each.stem.partition("_class")[0], set()).add(each)
    for picture in (each for chunk in chunks for each in chunk):
        prefix = f"{picture.model}@{picture.version}_{picture.seed}_" if full_names else ""
        stem = f"{prefix}{int(picture.index[0]):06d}"
        suffix = "" if picture.class_id is None else f"_class{picture.class_id[0]}"
        target = path / f"{stem}{suffix}.png"
        with write_atomically(target) as file:
            file.write(picture.data)
        for stale in existing.get(stem, set()) - {target}:
            stale.unlink()


def write_npz(
    path: Path,
    count: int,
    batches: Iterable[ImageBatch],
    *,
    truncation: float | None = None,
    class_labels: Callable[[ImageBatch], Sequence[str]] = lambda _: (),
) -> None:
    """Writes an npz of images with their metadata to a file; see `write_npz_to`."""
    with write_atomically(path) as file:
        write_npz_to(file, count, batches, truncation=truncation, class_labels=class_labels)


def write_npz_to(
    file: IO[bytes],
    count: int,
    batches: Iterable[ImageBatch],
    *,
    truncation: float | None = None,
    class_labels: Callable[[ImageBatch], Sequence[str]] = lambda _: (),
    **more: str,
) -> None:
    """Writes an npz of images with their metadata.

    `image` uint8 [N, H, W, C], `class_id` int64 [N] (-1 for none), `index` uint64 [N] and `serial`
    str [N]; `class_labels` str [K]; and as scalars `model`, `version`, `variant` and
    `bundle_sha256` (str), `seed` (uint64; missing if the images have several seeds) and
    `truncation` (float64, NaN for none). Images with scores have each score, float32 [N], and
    `rejected` int64 [N].

    Pixels are written as they arrive, so memory holds one chunk and 50 bytes per image for any N.
    The comment of the archive has the first and the last serial.

    Args:
        file: the open file; it gets no dates, so equal images give equal bytes.
        count: number of images.
        batches: the images, of one model and version.
        truncation: truncation of the images.
        class_labels: returns the label texts of the model of a batch.
        more: further texts by the name of the scalar that contains them.
    """
    class_id: list[NDArray[np.int64]] = []
    index: list[NDArray[np.uint64]] = []
    serials: list[NDArray[np.bytes_]] = []
    scores: dict[str, list[NDArray[Any]]] = {}
    first: ImageBatch | None = None
    with zipfile.ZipFile(file, "w") as archive:
        with archive.open("image.npy", "w", force_zip64=True) as member:
            for batch in batches:
                if first is None:
                    first = batch
                    _write_header(member, "|u1", (count, *batch.image.shape[1:]))
                member.write(batch.image.tobytes())
                index.append(batch.index)
                nothing = np.full(len(batch), UNCONDITIONAL, np.int64)
                class_id.append(nothing if batch.class_id is None else batch.class_id)
                serials.append(np.array(batch.serials, np.bytes_))
                if batch.scores is not None:
                    scores_by_name = batch.scores.by_name() | {"rejected": batch.scores.rejected}
                    for name, values in scores_by_name.items():
                        scores.setdefault(name, []).append(values)
        if first is None:
            raise ValueError("no images for the npz")
        scalars: dict[str, object] = {
            "class_id": np.concatenate(class_id),
            "index": np.concatenate(index),
            "class_labels": np.array(class_labels(first), np.str_),
            "model": np.str_(first.model),
            "version": np.str_(first.version),
            "variant": np.str_(first.variant),
            "bundle_sha256": np.str_(first.bundle_sha256),
            "truncation": np.float64(np.nan if truncation is None else truncation),
            **{name: np.concatenate(parts) for name, parts in scores.items()},
            **{name: np.str_(text) for name, text in more.items()},
        }
        if first.seed is not None:
            scalars["seed"] = np.uint64(first.seed)
        for name, value in scalars.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(value))
        _write_serials(archive, serials)
        ends = [each for each in (*serials[0][:1], *serials[-1][-1:]) if each]
        archive.comment = b" to ".join(ends)


def write_sheet(path: Path, count: int, columns: int | None, batches: Iterable[ImageBatch]) -> None:
    """Writes one picture with all images row by row, if the server cannot make such a large sheet.

    Args:
        path: the file; its suffix determines the format.
        count: number of images.
        columns: images per row; None for the square root of `count`, rounded up.
        batches: the images.

    Raises:
        InvalidRequest: the sheet would be larger than the format can hold.
    """
    columns = columns or math.isqrt(count - 1) + 1
    canvas: NDArray[np.uint8] | None = None
    serials: list[str] = []
    done = 0
    for batch in batches:
        _, height, width, channels = batch.image.shape
        if canvas is None:
            rows = math.ceil(count / columns)
            _check_size(choose_sheet_format(path), rows * height, columns * width)
            canvas = np.zeros((rows, height, columns, width, channels), np.uint8)
        for image in batch.image:
            canvas[done // columns, :, done % columns] = image
            done += 1
        serials = [*serials[:1], *batch.serials[:1], *batch.serials[-1:]]
    if canvas is None:
        raise ValueError("no images for the sheet")
    rows, height, columns, width, channels = canvas.shape
    pixels = canvas.reshape(rows * height, columns * width, channels)
    _save_picture(path, pixels, " to ".join([*serials[:1], *serials[-1:]]))


def _save_picture(path: Path, pixels: NDArray[np.uint8], serial_range: str) -> None:
    from PIL import Image  # noqa: PLC0415 - only large sheets need it
    from PIL.PngImagePlugin import PngInfo  # noqa: PLC0415 - as above

    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    with write_atomically(path) as file:
        match choose_sheet_format(path):
            case "png":
                info = PngInfo()
                info.add_text("imagemint:serial-range", serial_range)
                info.add_itxt("XML:com.adobe.xmp", _XMP)
                picture.save(file, "PNG", pnginfo=info)
            case "jpeg":
                picture.save(file, "JPEG", quality=90, xmp=_XMP.encode(), comment=serial_range)
            case "webp":
                picture.convert("RGB").save(file, "WEBP", quality=90, xmp=_XMP.encode())


def _check_size(picture_format: Format, height: int, width: int) -> None:
    longest = _LONGEST_SIDE.get(picture_format)
    if longest is not None and max(height, width) > longest:
        raise make_invalid_request(
            "out",
            f"a sheet of {width}x{height} pixels is too large for {picture_format}, which holds "
            f"{longest} along a side; use .png, or a folder",
        )


def _write_serials(archive: zipfile.ZipFile, serials: Sequence[NDArray[np.bytes_]]) -> None:
    """Writes the member `serial.npy`, compressed because serials differ in few characters.

    The blocks have a fixed size, so that the bytes do not depend on the size of the batches.
    """
    together = np.concatenate(serials)
    entry = zipfile.ZipInfo("serial.npy")
    entry.compress_type = zipfile.ZIP_DEFLATED
    dtype = np.dtype((np.str_, together.dtype.itemsize))
    with archive.open(entry, "w", force_zip64=True) as member:
        _write_header(member, dtype.str, together.shape)
        for start in range(0, len(together), _SERIALS_IN_BLOCK):
            member.write(together[start : start + _SERIALS_IN_BLOCK].astype(dtype).tobytes())


def _write_header(member: IO[bytes], descr: str, shape: tuple[int, ...]) -> None:
    """Writes the header of an npy file."""
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, header)
