"""Tests of imagemint.training.datasets.tables: pictures that CSV and JSON Lines list."""

import json

import numpy as np
import pytest
from PIL import Image

from imagemint.training.datasets import load_dataset
from imagemint.training.errors import DatasetError


@pytest.fixture
def lay(tmp_path):
    """Writes pictures of levels 0, 1, ... by name, then tables by name and content."""

    def write(pictures, tables):
        for number, name in enumerate(pictures):
            path = tmp_path / "pets" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4), number).save(path)
        for name, content in tables.items():
            (tmp_path / "pets" / name).write_text(content, "utf-8-sig")
        return str(tmp_path / "pets")

    return write


def lines(*rows):
    """JSON Lines of objects."""
    return "\n".join(json.dumps(row) for row in rows)


def labelled(data):
    """The label text of each picture, by its level."""
    levels = data.images[:, 0, 0, 0].tolist()
    return {
        level: data.class_labels[label] for level, label in zip(levels, data.labels, strict=True)
    }


FLAT = ["0.png", "1.png", "2.png"]
SAME = {0: "b", 1: "a", 2: "b"}


@pytest.mark.parametrize(
    ("pictures", "tables"),
    [
        (FLAT, {"metadata.csv": "file_name,label\n0.png,b\n1.png,a\n2.png,b\n"}),
        (FLAT, {"metadata.csv": "label;file_name\nb;0.png\na;1.png\nb;2.png"}),
        (
            FLAT,
            {
                "metadata.jsonl": lines(
                    {"file_name": "0.png", "category": "b"},
                    {"file_name": "1.png", "category": "a"},
                    {"category": "b", "file_name": "2.png"},
                )
            },
        ),
        (FLAT, {"labels.tsv": "Image\tSpecies\n0.png\tb\n1.png\ta\n2.png\tb"}),
        ([f"train/{n}" for n in FLAT], {"train.csv": "id,breed\n0,b\n1,a\n2,b"}),
        ([f"images/{n}" for n in FLAT], {"any.csv": "image,class\n0.png,b\n1.png,a\n2.png,b"}),
        ([f"x/{n}" for n in FLAT], {"l.csv": "image,class\nx\\0.png,b\nx/1.png,a\n2.png,b"}),
        (FLAT, {"list.csv": "0.png,b\n1.png,a\n2.png,b\n"}),
        (FLAT, {"list.csv": "strange,label\n0.png,b\n1.png,a\n2.png,b\n"}),
        (
            ["train/a/0.png", "train/b/1.png", "train/b/2.png"],
            {"train/metadata.csv": "file_name,label\na/0.png,b\nb/1.png,a\nb/2.png,b"},
        ),
    ],
)
def test_tables_tell_labels(lay, caplog, pictures, tables):
    """Whatever the delimiter, the names of the columns and the place of the pictures."""
    assert labelled(load_dataset(lay(pictures, tables), "train")) == SAME
    assert "labels are from" in caplog.text


@pytest.mark.parametrize(
    ("pictures", "tables"),
    [
        (
            FLAT,
            {"metadata.csv": "file_name,label,split\n0.png,b,train\n1.png,a,train\n2.png,b,val"},
        ),
        (
            ["train/0.png", "train/1.png", "test/2.png"],
            {"metadata.csv": "file_name,label\ntrain/0.png,b\ntrain/1.png,a\ntest/2.png,b"},
        ),
        (
            ["train/0.png", "train/1.png", "test/2.png"],
            {
                "train/metadata.csv": "file_name,label\n0.png,b\n1.png,a",
                "test/metadata.csv": "file_name,label\n2.png,b",
            },
        ),
        (FLAT, {"train.csv": "image,label\n0.png,b\n1.png,a", "test.csv": "image,label\n2.png,b"}),
    ],
)
def test_tables_tell_splits(lay, pictures, tables):
    """By a column, by the folders of the pictures, or by the name or the folder of the table."""
    folder = lay(pictures, tables)
    assert labelled(load_dataset(folder, "train")) == {0: "b", 1: "a"}
    test = load_dataset(folder, "test")
    assert (labelled(test), test.class_labels) == ({2: "b"}, ("a", "b"))


def test_undivided_table_is_divided(lay):
    """Every tenth picture of a class is for testing; labels that are numbers sort by value."""
    rows = [f"{n}.png,{10 if n < 20 else 9}" for n in range(30)]
    folder = lay(
        [f"{n}.png" for n in range(30)], {"metadata.csv": "\n".join(["file_name,label", *rows])}
    )
    train, test = (load_dataset(folder, split) for split in ("train", "test"))
    assert (train.class_labels, np.bincount(train.labels).tolist()) == (("9", "10"), [9, 18])
    assert labelled(test) == {9: "10", 19: "10", 29: "9"}


def test_texts_are_taken_along(lay):
    """A column of texts without labels describes pictures of one class, and that is said."""
    data = load_dataset(
        lay(FLAT[:2], {"metadata.csv": "file_name,text\n0.png,a dog\n1.png,"}), "train"
    )
    assert (data.texts, data.class_labels) == (("a dog", ""), ("all",))
    assert any("no labels: " in remark and "there are text" in remark for remark in data.remarks)


def test_folders_of_classes_come_first(lay):
    """Labels are from folders of classes unless the table is metadata or its column is named."""
    pictures = ["cat/0.png", "dog/1.png", "dog/2.png"]
    folder = lay(pictures, {"notes.csv": "file,label\ncat/0.png,b\ndog/1.png,a\ndog/2.png,b"})
    data = load_dataset(folder, "train")
    assert labelled(data) == {0: "cat", 1: "dog", 2: "dog"}
    assert any("labels are not from notes.csv; --label-column" in it for it in data.remarks)
    assert labelled(load_dataset(folder, "train", label_column="label")) == SAME


def test_lost_pictures_are_named(lay):
    """Rows without a file or a label, or with an ambiguous name, are left out and named."""
    pictures = ["x/0.png", "x/1.png", "y/1.png"]
    table = "file_name,label\n0.png,a\n1.png,a\n7.png,a\nx/1.png,\n,a"
    data = load_dataset(lay(pictures, {"metadata.csv": table}), "train")
    assert len(data) == 1
    assert data.broken == (
        "1.png: 2 files have this name",
        "7.png: no such file",
        "x/1.png: no label",
        ": no file name",
    )


def test_unlabelled_tables_are_left_out(lay):
    """A competition's test table without labels, and its made-up submission, are no data."""
    tables = {
        "train.csv": "id,label\n0,b\n1,a",
        "test.csv": "id\n2",
        "sample_submission.csv": "id,label\n2,a",
    }
    data = load_dataset(lay(["train/0.png", "train/1.png", "test/2.png"], tables), "train")
    assert labelled(data) == {0: "b", 1: "a"}
    assert "without a column of labels, left out: test.csv" in data.remarks


def test_single_table_is_a_data_set(lay):
    """A table may be named itself; what it cannot tell is refused."""
    folder = lay(FLAT, {"a.csv": "file,label\n0.png,b\n1.png,a\n2.png,b", "b.csv": "x,y\n1,2"})
    assert labelled(load_dataset(f"{folder}/a.csv", "train")) == SAME
    with pytest.raises(DatasetError, match=r"b\.csv: no column names pictures"):
        load_dataset(f"{folder}/b.csv", "train")
    with pytest.raises(DatasetError, match="no column 'breed' for --label-column; there are file"):
        load_dataset(f"{folder}/a.csv", "train", label_column="breed")


@pytest.mark.parametrize(
    ("name", "content"),
    [("metadata.csv", b"file_name\n\xff\xfe"), ("metadata.jsonl", b"{"), ("a.jsonl", b"[1]")],
)
def test_unreadable_table_is_refused(lay, tmp_path, name, content):
    """A table that is no such file is an error that names it."""
    folder = lay(FLAT, {})
    (tmp_path / "pets" / name).write_bytes(content)
    with pytest.raises(DatasetError, match=f"{name}: this table cannot be read"):
        load_dataset(folder, "train")


def test_label_column_needs_a_table(lay):
    """A column that is named although there is no table is refused."""
    with pytest.raises(DatasetError, match="no table has a column 'breed' of labels"):
        load_dataset(lay(["a/0.png", "b/1.png"], {}), "train", label_column="breed")
