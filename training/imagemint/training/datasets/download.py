"""Finds the files of a data set in the folders of a search path, or downloads them to the cache."""

import gzip
import hashlib
import http.client
import os
import urllib.request
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imagemint.training.errors import DatasetError
from imagemint.training.whole_files import write_whole

if TYPE_CHECKING:
    from hashlib import _Hash

_TIMEOUT_S = 60
_BLOCK = 2**20


@dataclass(frozen=True)
class Source:
    """A published file.

    Attributes:
        path: path below a data folder.
        sha256: digest of its unzipped content, so that a file that was compressed again is
            accepted.
        url: address for the download; None if no publisher offers these bytes.
        packed: whether the digest is that of the published, compressed file.
    """

    path: str
    sha256: str | None = None
    url: str | None = None
    packed: bool = False


def find_cache_directory() -> Path:
    """Returns the folder of downloads: ``$XDG_CACHE_HOME/imagemint``, by default in ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "imagemint" / "data"


def list_search_folders(data: Path | None) -> list[Path]:
    """Returns the folders to search for data sets, in order."""
    return [folder for folder in (data, find_cache_directory()) if folder is not None]


def read_source(source: Source, data: Path | None) -> bytes:
    """Returns a file's unzipped content; downloads it to the cache if it is in no folder.

    Raises:
        DatasetError: the file is not found and cannot be downloaded, is damaged, or has another
            checksum than the published one. The message names everything that was tried.
    """
    candidates = [folder / source.path for folder in list_search_folders(data)]
    for path in candidates:
        if path.is_file():
            remedy = "delete the file to have it fetched again"
            return _check_content(path.read_bytes(), source, path, remedy)
    places = ", ".join(str(path) for path in candidates)
    hint = "name the folder that holds it with --data or IMAGEMINT_DATA, in Python with data="
    if source.url is None:
        raise DatasetError(
            f"{source.path} not found; tried {places}; {hint} (no download is known)"
        )
    try:
        content = _download(source.url)
    except (OSError, http.client.HTTPException) as error:  # refused, timed out or interrupted
        raise DatasetError(
            f"{source.path} not found; tried {places}, then {source.url} ({error!r}); {hint}"
        ) from error
    checked = _check_content(content, source, source.url, hint)
    write_whole(candidates[-1], content)
    return checked


def add_file(digest: "_Hash", path: Path) -> None:
    """Adds the content of a file to a digest, block by block."""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)


def compute_digest(contents: Iterable[bytes]) -> str:
    """Returns the SHA-256 of byte strings, one after the other, in hexadecimal."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


def _download(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:  # noqa: S310 - constants of the registry
        content: bytes = response.read()
    return content


def _unzip(content: bytes, place: object) -> bytes:
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise DatasetError(f"{place}: not a whole gzip file ({error})") from error


def _check_content(published: bytes, source: Source, place: object, remedy: str) -> bytes:
    """Returns a file's unzipped content after checking its checksum."""
    content = published if source.packed else _unzip(published, place)
    found = hashlib.sha256(content).hexdigest()
    if source.sha256 is not None and found != source.sha256:
        what = "the file" if source.packed else "the unzipped content"
        raise DatasetError(
            f"{place}: SHA-256 of {what} is {found}, published is {source.sha256}; {remedy}"
        )
    return _unzip(content, place)
