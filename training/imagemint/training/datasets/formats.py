"""Reads files that contain a whole split: IDX and CIFAR binary."""

import io
import math
import tarfile

import numpy as np
from numpy.typing import NDArray

from imagemint.training.datasets.download import compute_digest
from imagemint.training.datasets.images import LabelledImages, Split
from imagemint.training.errors import DatasetError

_IDX_UBYTE = 0x08


def parse_idx(content: bytes, place: str) -> NDArray[np.uint8]:
    """Returns the array of an unzipped IDX file of unsigned bytes.

    The format is Y. LeCun's: two zero bytes, a type code, the number of dimensions, each dimension
    as a big-endian uint32, then the values.

    Raises:
        DatasetError: the file is not IDX, has other elements than unsigned bytes, or a wrong
            length.
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
            f"{place}: the header declares shape {shape}, but the content has"
            f" {len(content) - start} bytes"
        )
    # A copy, because PyTorch takes no read-only arrays, such as views of bytes.
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


_CIFAR_SIZE, _CIFAR_ROW = 32, 1 + 3 * 32 * 32
_CIFAR_FILES = {
    "train": [f"data_batch_{number}.bin" for number in range(1, 6)],
    "test": ["test_batch.bin"],
}


def parse_cifar_binary(content: bytes, split: Split, place: str) -> LabelledImages:
    """Returns a split of CIFAR-10 from its publisher's archive of binary files, unzipped.

    A row has the label and the red, green and blue planes as bytes. The names are in
    ``batches.meta.txt``.

    Raises:
        DatasetError: the content is not such an archive.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            files = {
                member.name.rsplit("/", 1)[-1]: file.read()
                for member in archive.getmembers()
                if (file := archive.extractfile(member)) is not None
            }
        rows = np.frombuffer(b"".join(files[name] for name in _CIFAR_FILES[split]), np.uint8)
        rows = rows.reshape(-1, _CIFAR_ROW)
        names = files["batches.meta.txt"].decode().split()
    except (tarfile.TarError, KeyError, ValueError, EOFError) as error:
        raise DatasetError(
            f"{place}: not the archive of the CIFAR-10 binary files ({error})"
        ) from error
    planes = rows[:, 1:].reshape(-1, 3, _CIFAR_SIZE, _CIFAR_SIZE)
    return LabelledImages(
        name=f"cifar10/{split}",
        images=np.ascontiguousarray(planes.transpose(0, 2, 3, 1)),
        labels=rows[:, 0].astype(np.int64),
        class_labels=tuple(names),
        sha256=compute_digest([content, split.encode()]),
    )
