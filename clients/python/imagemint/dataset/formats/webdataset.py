"""WebDataset shards: tar files with an image, its class and its serial for each key.

A key is the index. Its members are `KEY.png`, `KEY.cls` (the class as text, for models with
classes) and `KEY.json` (serial, index, class label, digital source type).
"""

import json
import tarfile
from collections.abc import Iterable
from typing import IO

from imagemint.client.images import ImageBatch
from imagemint.dataset.formats import SPLIT, NewFiles
from imagemint.dataset.pictures import SUFFIXES, Picture, encode_batch
from imagemint.dataset.plan import Plan, Shard
from imagemint.pictures import TRAINED_ALGORITHMIC_MEDIA

_NAME = slice(0, 100)
_SIZE = slice(124, 136)
_SUM = slice(148, 156)


def name_file(plan: Plan, shard: Shard) -> str:
    """Returns the file of a shard."""
    first, last = plan.spell_index(shard.first_index), plan.spell_index(shard.last_index)
    return f"{SPLIT}-{first}-{last}.tar"


def match_files() -> str:
    """Returns the pattern of the files."""
    return f"{SPLIT}-*.tar"


def write(plan: Plan, shard: Shard, batches: Iterable[ImageBatch], files: NewFiles) -> None:
    """Writes the images of a shard."""
    suffix = SUFFIXES[plan.image_format]
    with files.create(name_file(plan, shard)) as file:
        tar = TarWriter(file)
        for batch in batches:
            for picture in encode_batch(plan, batch):
                key = plan.spell_index(picture.index)
                tar.add(f"{key}.{suffix}", picture.data)
                if picture.class_id is not None:
                    tar.add(f"{key}.cls", str(picture.class_id).encode())
                tar.add(f"{key}.json", _describe(plan, picture))
        tar.finish()


class TarWriter:
    """Writes a tar archive (ustar) of small files, with the same bytes as `tarfile`.

    `tarfile` spends a quarter of the time of encoding a small PNG on each header. All headers of a
    shard differ only in name, size and checksum.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        header = bytearray(tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT))
        header[_NAME], header[_SIZE], header[_SUM] = bytes(100), bytes(12), b" " * 8
        self._header = header
        self._base_sum = sum(header)
        self._written = 0

    def add(self, name: str, data: bytes) -> None:
        """Adds a file; its name has at most 99 ASCII characters."""
        coded, size = name.encode("ascii"), b"%011o" % len(data)
        header = self._header.copy()
        header[0 : len(coded)] = coded
        header[124:135] = size
        header[_SUM] = b"%06o\x00 " % (self._base_sum + sum(coded) + sum(size))
        padding = bytes(-len(data) % tarfile.BLOCKSIZE)
        self._file.write(b"".join((header, data, padding)))
        self._written += len(header) + len(data) + len(padding)

    def finish(self) -> None:
        """Writes the end of the archive."""
        end = 2 * tarfile.BLOCKSIZE
        self._file.write(bytes(end + -(self._written + end) % tarfile.RECORDSIZE))


def _describe(plan: Plan, picture: Picture) -> bytes:
    found: dict[str, object] = {"serial": picture.serial, "index": picture.index}
    if picture.class_id is not None:
        found["class_id"] = picture.class_id
        found["class_label"] = plan.class_labels[picture.class_id]
    found["digital_source_type"] = TRAINED_ALGORITHMIC_MEDIA
    return json.dumps(found, ensure_ascii=False).encode()
