"""Readers of files that hold a whole split: IDX, image Parquet, CIFAR binary."""

import io
import json
import math
import tarfile
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from imagemint.training.datasets.download import digest_of
from imagemint.training.datasets.images import LabelledImages, Split
from imagemint.training.datasets.pictures import AS_STORED, Shape, decode_all, stack
from imagemint.training.errors import DatasetError

_IDX_UBYTE = 0x08


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


def parse_image_parquet(
    content: bytes | Sequence[bytes], name: str, shape: Shape = AS_STORED
) -> LabelledImages:
    """Returns the images of Parquet files in the Hugging Face image layout.

    Columns: ``image`` (or ``img``) as struct with ``bytes`` (any format Pillow reads), ``label`` as
    integer, ``text`` if there is one; class names stand in the schema's ``huggingface`` metadata.

    Args:
        content: of one file, or of the shards of a split in their order.
        name: data set and split.
        shape: what the pictures are brought to; as stored, they must share one size.

    Raises:
        DatasetError: not Parquet, a column or the class names missing, an unreadable picture,
            pictures of several sizes, or a label that is missing or out of range; by row.
    """
    import pyarrow as pa  # noqa: PLC0415 - 100 ms that a run on IDX data need not pay
    import pyarrow.compute as pc  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    contents = [content] if isinstance(content, bytes) else list(content)
    try:
        table = pa.concat_tables([pq.read_table(io.BytesIO(each)) for each in contents])
        features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        class_labels = tuple(features["label"]["names"])
        column = "img" if "img" in table.column_names else "image"
        encoded = pc.struct_field(table.column(column).combine_chunks(), "bytes").to_pylist()
        # A missing label becomes -1, which is out of range.
        labels = pc.fill_null(table.column("label").cast(pa.int64()), -1).to_numpy()
        told = "text" in table.column_names
        texts = tuple(str(text or "") for text in table.column("text").to_pylist()) if told else ()
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{name}: not a Parquet file in the image layout ({error})") from error
    pictures = []
    for row, picture in enumerate(decode_all(encoded, shape)):
        if isinstance(picture, DatasetError):
            raise DatasetError(f"{name}, row {row}: {picture}") from picture
        pictures.append(picture)
    return LabelledImages(
        name=name,
        images=stack(pictures, lambda row: f"{name}, row {row}"),
        labels=labels,
        class_labels=class_labels,
        sha256=digest_of(contents),
        texts=texts,
    )


_CIFAR_SIZE, _CIFAR_ROW = 32, 1 + 3 * 32 * 32
_CIFAR_FILES = {
    "train": [f"data_batch_{number}.bin" for number in range(1, 6)],
    "test": ["test_batch.bin"],
}


def parse_cifar_binary(content: bytes, split: Split, place: str) -> LabelledImages:
    """Returns a split of CIFAR-10 from its publisher's archive of binary files, unzipped.

    A row is the label and the red, green and blue planes, a byte each; names stand in
    ``batches.meta.txt``.

    Raises:
        DatasetError: not such an archive.
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
        raise DatasetError(f"{place}: not the archive of CIFAR-10 binaries ({error})") from error
    planes = rows[:, 1:].reshape(-1, 3, _CIFAR_SIZE, _CIFAR_SIZE)
    return LabelledImages(
        name=f"cifar10/{split}",
        images=np.ascontiguousarray(planes.transpose(0, 2, 3, 1)),
        labels=rows[:, 0].astype(np.int64),
        class_labels=tuple(names),
        sha256=digest_of([content, split.encode()]),
    )
