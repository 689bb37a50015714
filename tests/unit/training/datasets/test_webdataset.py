"""Tests of imagemint.training.datasets.webdataset."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from imagemint.training.datasets import load_dataset
from imagemint.training.errors import DatasetError


def make_png(level):
    """Returns an image of one gray level."""
    stream = io.BytesIO()
    Image.new("L", (4, 4), level).save(stream, "PNG")
    return stream.getvalue()


def write_shard(path, members, mode="w"):
    """Writes a tar file of these members. An integer stands for an image of that level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            data = make_png(content) if isinstance(content, int) else content.encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return str(path)


def list_rows(data):
    """Returns levels and label texts of the images."""
    labels = [data.class_labels[label] for label in data.labels]
    return list(zip(data.images[:, 0, 0, 0].tolist(), labels, strict=True))


TWO = {"0.png": 5, "1.png": 6}


@pytest.mark.parametrize(
    ("members", "asked", "labels"),
    [
        (TWO | {"0.cls": "10\n", "1.cls": "9"}, {}, ["10", "9"]),
        ({"0.cls": "b", "0.jpg.png": 5, "1.cls": "a", "1.jpg.png": 6}, {}, ["b", "a"]),
        (TWO | {"0.json": '{"label": 3}', "1.json": '{"label": 1}'}, {}, ["3", "1"]),
        (
            TWO | {"0.json": '{"x": "b"}', "1.json": '{"x": "a"}'},
            {"label_column": "x"},
            ["b", "a"],
        ),
        (TWO | {"0.txt": "b", "1.txt": "a"}, {"label_column": "txt"}, ["b", "a"]),
        ({"b/0.png": 5, "a/1.png": 6}, {}, ["b", "a"]),
        (
            {"0.l.png": 1, "0.r.png": 5, "0.cls": "b", "1.l.png": 2, "1.r.png": 6, "1.cls": "a"},
            {"image_column": "r.png"},
            ["b", "a"],
        ),
        (TWO | {"__MACOSX/._0.png": "x", "0.cls": "b", "1.cls": "a"}, {}, ["b", "a"]),
    ],
    ids=["cls", "dots", "json", "field", "txt", "folders", "pictures", "strays"],
)
@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_shard_is_read(tmp_path, members, asked, labels, suffix):
    """The suffix of a file says whether it is the image or the label. Shards may be compressed."""
    path = write_shard(tmp_path / f"pets.{suffix}", members, "w:gz" if suffix == "tar.gz" else "w")
    data = load_dataset(path, "train", **asked)
    assert list_rows(data) == list(zip([5, 6], labels, strict=True))
    assert (data.name, data.broken) == ("pets/train", ())


def test_digest_depends_on_the_fields(tmp_path):
    """Other labels or images from one shard are other data, and usual fields named are not."""
    members = {"0.l.png": 1, "0.r.png": 5, "0.cls": "b", "0.side": "x"}
    path = write_shard(tmp_path / "pets.tar", members)

    def read(**asked):
        return load_dataset(path, "train", **asked).sha256

    usual = read()
    assert read(label_column="cls") == read(image_column="l.png") == usual
    assert len({usual, read(label_column="side"), read(image_column="r.png")}) == 3


def test_missing_labels_are_reported(tmp_path, caplog):
    """Texts are labels only if their column is given. The warning lists the columns.

    There is no warning if the labels do not matter.
    """
    path = write_shard(
        tmp_path / "pets.tar", {"0.png": 5, "0.txt": "a dog", "0.json": '{"who": "b"}'}
    )
    data = load_dataset(path, "train")
    assert (data.class_labels, data.texts) == (("all",), ("a dog",))
    assert "--label-column names the column that holds them (there are txt, who)" in caplog.text
    assert load_dataset(path, "train", needs_labels=False).remarks == ()


def test_shards_are_joined(tmp_path):
    """The shards of a split are read in order, and classes are those of the training split."""
    for number in range(2):
        members = {f"{number}.png": number, f"{number}.cls": "ab"[number]}
        write_shard(tmp_path / f"train-{number:06d}.tar", members)
    write_shard(tmp_path / "val-000000.tar", {"7.png": 7, "7.cls": "b"})
    train, test = (load_dataset(str(tmp_path), split) for split in ("train", "test"))
    assert list_rows(train) == [(0, "a"), (1, "b")]
    assert (list_rows(test), test.class_labels) == ([(7, "b")], ("a", "b"))
    assert train.sha256 != test.sha256
    write_shard(tmp_path / "train-000001.tar", {"1.png": 2, "1.cls": "b"})
    assert load_dataset(str(tmp_path), "train").sha256 != train.sha256


def test_shards_without_splits_are_divided(tmp_path):
    """Every tenth image of a class is for testing."""
    members = {}
    for number in range(20):
        members |= {f"{number}.png": number, f"{number}.cls": str(number % 2)}
    path = write_shard(tmp_path / "pets.tar", members)
    train, test = (load_dataset(path, split) for split in ("train", "test"))
    assert np.bincount(train.labels).tolist() == [9, 9]
    assert list_rows(test) == [(18, "0"), (19, "1")]
    assert train.sha256 != test.sha256


def test_incomplete_samples_are_reported(tmp_path):
    """A sample without image or label is skipped and reported."""
    members = {"0.png": 1, "0.cls": "a", "1.cls": "a", "2.png": 3, "3.png": "x", "3.cls": "a"}
    data = load_dataset(write_shard(tmp_path / "pets.tar", members), "train")
    assert list_rows(data) == [(1, "a")]
    assert data.broken == (
        "pets.tar, 1: no picture",
        "pets.tar, 2: no label",
        "pets.tar, 3: unreadable picture (of no known format)",
    )


def test_texts_belong_to_their_images(tmp_path):
    """A sample that is left out does not move the texts of the others."""
    members = {"0.png": "x", "0.txt": "a", "1.png": 6, "1.txt": "b", "2.png": 7, "2.txt": "c"}
    data = load_dataset(write_shard(tmp_path / "pets.tar", members), "train")
    assert (data.images[:, 0, 0, 0].tolist(), data.texts) == ([6, 7], ("b", "c"))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"x" * 2000, "not a whole tar file"),
        ({"0.cls": "a"}, "no picture in"),
        ({"0.png": 1, "0.json": "{"}, "0.json: not JSON"),
    ],
)
def test_invalid_shard_is_refused(tmp_path, content, text):
    """The error names a file that is not a shard of images."""
    path = tmp_path / "pets.tar"
    path.write_bytes(content) if isinstance(content, bytes) else write_shard(path, content)
    with pytest.raises(DatasetError, match=rf"pets\.tar.*{text}|{text}.*pets\.tar"):
        load_dataset(str(path), "train")


@pytest.mark.parametrize("end", [1100, 1600])
def test_truncated_shard_is_refused(tmp_path, end):
    """The error names a shard that ends within a header or an image."""
    path = tmp_path / "pets.tar"
    write_shard(path, {"0.cls": "a", "0.png": 1})
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(DatasetError, match=r"pets\.tar: not a whole tar file"):
        load_dataset(str(path), "train")
