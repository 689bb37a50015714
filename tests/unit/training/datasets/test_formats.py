"""Tests of imagemint.training.datasets.formats apart from single Parquet files."""

import gzip
import hashlib
import io
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from imagemint.training.datasets import load_dataset, registry
from imagemint.training.datasets.formats import parse_cifar_binary
from imagemint.training.errors import DatasetError


def make_cifar(files):
    """Returns an uncompressed archive in the layout of CIFAR-10's publisher."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture
def archive():
    """Two images in each batch, with a plane of reds, one of greens and one of blues."""
    row = b"".join(bytes([level]) * 1024 for level in (10, 20, 30))
    files = {f"data_batch_{n}.bin": bytes([n]) + row + bytes([9]) + row for n in range(1, 6)}
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    files |= {
        "test_batch.bin": bytes([7]) + row,
        "batches.meta.txt": "\n".join(names.split()).encode(),
    }
    return make_cifar(files)


def test_cifar_binaries_are_read(archive):
    """Planes become pixels, labels and names are read, and splits are separate."""
    train, test = (parse_cifar_binary(archive, split, "it") for split in ("train", "test"))
    assert train.images.shape == (10, 32, 32, 3)
    assert train.images[3, 5, 6].tolist() == [10, 20, 30]
    assert train.labels.tolist() == [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
    assert (test.labels.tolist(), test.class_labels[7]) == ([7], "horse")
    assert train.sha256 != test.sha256


def test_compressed_cifar_is_found(archive, tmp_path, monkeypatch):
    """Without a Parquet file the archive is read, by the checksum of its compressed form."""
    zipped = gzip.compress(archive)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cifar10").mkdir()
    (tmp_path / registry._CIFAR.path).write_bytes(zipped)
    with pytest.raises(DatasetError, match=r"SHA-256 of the file is .* published is c4a38c50"):
        load_dataset("cifar10", "test", tmp_path)
    known = replace(registry._CIFAR, sha256=hashlib.sha256(zipped).hexdigest())
    monkeypatch.setattr(registry, "_CIFAR", known)
    assert len(load_dataset("cifar10", "test", tmp_path)) == 1


@pytest.mark.parametrize("damage", ["no archive", "cut", "file missing"])
def test_bad_cifar_is_refused(archive, damage):
    """The error names a file that is not such an archive."""
    content = {"no archive": b"x" * 700, "cut": archive[:3000], "file missing": make_cifar({})}[
        damage
    ]
    with pytest.raises(DatasetError, match="it: not the archive of the CIFAR-10 binary files"):
        parse_cifar_binary(content, "test", "it")


@pytest.mark.data
def test_real_cifar_is_read(real_data):
    """The test split has 1,000 images of each class."""
    data = load_dataset("cifar10", "test", real_data)
    assert data.images.shape == (10_000, 32, 32, 3)
    assert np.bincount(data.labels).tolist() == [1_000] * 10


@pytest.mark.data
def test_real_emoji_have_texts(real_data):
    """Each emoji has its Unicode name."""
    data = load_dataset("emoji64", "test", real_data, size=32)
    assert data.images.shape == (340, 32, 32, 3)
    assert all(data.texts)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "licence"),
    [
        ("mnist", "CC-BY-SA-3.0 ("),
        ("stacked-mnist", "CC-BY-SA-3.0 ("),
        ("cifar10", "none stated ("),
        ("emoji64", "Apache-2.0 ("),
    ],
)
def test_published_data_have_a_licence(real_data, name, licence):
    """Weights inherit the licence of their data, also after scaling or selection."""
    assert load_dataset(name, "test", real_data, per_class=1).license.startswith(licence)
