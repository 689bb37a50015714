"""Where minted images go: a directory of PNGs, one PNG sheet or an npz, never half written."""

import contextlib
import math
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from imagemint.client.images import EncodedPicture, ImageBatch

UNCONDITIONAL = -1
"""What an npz says for the class of an image of an unconditional model."""

_NAME = re.compile(r"(?P<index>[0-9]{6,})(_class[0-9]+)?\.png")

# What the server writes into every encoded picture, for the sheets that are composed here.
_XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
   Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>
 </rdf:RDF>
</x:xmpmeta>"""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` once it is complete, and vanishes if that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_directory(path: Path, chunks: Iterable[list[EncodedPicture]]) -> None:
    """One file for each picture, the bytes as the server encoded them: `000017_class7.png`.

    A second run into the same directory replaces the pictures of the indices that it mints, also
    where their class has changed and with it their name.
    """
    path.mkdir(parents=True, exist_ok=True)
    there: dict[int, set[Path]] = {}
    for each in path.iterdir():
        if match := _NAME.fullmatch(each.name):
            there.setdefault(int(match["index"]), set()).add(each)
    for picture in (each for chunk in chunks for each in chunk):
        index = int(picture.index[0])
        suffix = "" if picture.class_id is None else f"_class{picture.class_id[0]}"
        target = path / f"{index:06d}{suffix}.png"
        with replacing(target) as file:
            file.write(picture.data)
        for stale in there.get(index, set()) - {target}:
            stale.unlink()


def write_npz(path: Path, count: int, batches: Iterable[ImageBatch]) -> None:
    """`image` uint8 [N, H, W, C], `class_id` int64 [N] and `index` uint64 [N] in one npz.

    The pixels go to the file as they come, so memory holds one chunk however large N is. The first
    and the last serial stand in the comment of the archive.
    """
    class_id: list[NDArray[np.int64]] = []
    index: list[NDArray[np.uint64]] = []
    serials: list[str] = []
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        with archive.open("image.npy", "w", force_zip64=True) as member:
            for batch in batches:
                if not index:
                    _write_header(member, (count, *batch.image.shape[1:]))
                member.write(batch.image.tobytes())
                index.append(batch.index)
                nothing = np.full(len(batch), UNCONDITIONAL, np.int64)
                class_id.append(nothing if batch.class_id is None else batch.class_id)
                serials = [*serials[:1], *batch.serials[:1], *batch.serials[-1:]]
        for name, arrays in (("class_id", class_id), ("index", index)):
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, np.concatenate(arrays))
        archive.comment = " to ".join([*serials[:1], *serials[-1:]]).encode()


def write_sheet(path: Path, count: int, columns: int | None, batches: Iterable[ImageBatch]) -> None:
    """One PNG that shows all images row by row, for counts beyond the server's own sheets.

    Args:
        path: the file.
        count: number of images.
        columns: images in a row, None for the square root, rounded up.
        batches: the images.
    """
    from PIL import Image  # noqa: PLC0415 - only large sheets need it
    from PIL.PngImagePlugin import PngInfo  # noqa: PLC0415 - as above

    columns = columns or math.isqrt(count - 1) + 1
    canvas: NDArray[np.uint8] | None = None
    serials: list[str] = []
    done = 0
    for batch in batches:
        _, height, width, channels = batch.image.shape
        if canvas is None:
            rows = math.ceil(count / columns)
            canvas = np.zeros((rows, height, columns, width, channels), np.uint8)
        for image in batch.image:
            canvas[done // columns, :, done % columns] = image
            done += 1
        serials = [*serials[:1], *batch.serials[:1], *batch.serials[-1:]]
    if canvas is None:
        raise ValueError("no images for the sheet")
    rows, height, columns, width, channels = canvas.shape
    pixels = canvas.reshape(rows * height, columns * width, channels)
    info = PngInfo()
    info.add_text("imagemint:serial-range", " to ".join([*serials[:1], *serials[-1:]]))
    info.add_itxt("XML:com.adobe.xmp", _XMP)
    with replacing(path) as file:
        Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(file, "PNG", pnginfo=info)


def _write_header(member: IO[bytes], shape: tuple[int, ...]) -> None:
    """The beginning of an npy file of uint8."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, header)
