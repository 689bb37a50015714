"""Tests of imagemint.training.datasets.tables: images that are listed in CSV and JSON Lines."""

import json

import numpy as np
import pytest
from PIL import Image

from imagemint.training.datasets import load_dataset
from imagemint.training.errors import DatasetError


@pytest.fixture
def write_folder(tmp_path):
    """A function that writes images of levels 0, 1, ... and tables by name and content."""

    def write(pictures, tables):
        for number, name in enumerate(pictures):
            path = tmp_path / "pets" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4), number).save(path)
        for name, content in tables.items():
            (tmp_path / "pets" / name).write_text(content, "utf-8-sig")
        return str(tmp_path / "pets")

    return write


def make_lines(*rows):
    """Returns JSON Lines of objects."""
    return "\n".join(json.dumps(row) for row in rows)


def read_labels(data):
    """Returns the label text of each image, by its level."""
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
                "metadata.jsonl": make_lines(
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
def test_tables_have_labels(write_folder, caplog, pictures, tables):
    """Labels are read with any delimiter, column names and image folders."""
    assert read_labels(load_dataset(write_folder(pictures, tables), "train")) == SAME
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
def test_tables_have_splits(write_folder, pictures, tables):
    """Splits come from a column, the image folders, or the name or folder of the table."""
    folder = write_folder(pictures, tables)
    assert read_labels(load_dataset(folder, "train")) == {0: "b", 1: "a"}
    test = load_dataset(folder, "test")
    assert (read_labels(test), test.class_labels) == ({2: "b"}, ("a", "b"))


def test_table_without_splits_is_divided(write_folder):
    """Every tenth image of a class is for testing, and numeric labels are sorted by value."""
    rows = [f"{n}.png,{10 if n < 20 else 9}" for n in range(30)]
    folder = write_folder(
        [f"{n}.png" for n in range(30)], {"metadata.csv": "\n".join(["file_name,label", *rows])}
    )
    train, test = (load_dataset(folder, split) for split in ("train", "test"))
    assert (train.class_labels, np.bincount(train.labels).tolist()) == (("9", "10"), [9, 18])
    assert read_labels(test) == {9: "10", 19: "10", 29: "9"}


def test_texts_are_read(write_folder):
    """A column of texts without labels describes images of one class, and a remark says so.

    There is none if the labels do not matter.
    """
    folder = write_folder(FLAT[:2], {"metadata.csv": "file_name,text\n0.png,a dog\n1.png,"})
    data = load_dataset(folder, "train")
    assert (data.texts, data.class_labels) == (("a dog", ""), ("all",))
    assert any("no labels: " in remark and "there are text" in remark for remark in data.remarks)
    assert load_dataset(folder, "train", needs_labels=False).remarks == ()


def test_folders_of_classes_take_precedence(write_folder):
    """Labels come from class folders unless the table is metadata or its column is given."""
    pictures = ["cat/0.png", "dog/1.png", "dog/2.png"]
    folder = write_folder(
        pictures, {"notes.csv": "file,label\ncat/0.png,b\ndog/1.png,a\ndog/2.png,b"}
    )
    data = load_dataset(folder, "train")
    assert read_labels(data) == {0: "cat", 1: "dog", 2: "dog"}
    assert any("labels are not from notes.csv; --label-column" in it for it in data.remarks)
    assert read_labels(load_dataset(folder, "train", label_column="label")) == SAME


def test_missing_images_are_reported(write_folder):
    """Rows without a file or label, or with an ambiguous name, are skipped and reported."""
    pictures = ["x/0.png", "x/1.png", "y/1.png"]
    table = "file_name,label\n0.png,a\n1.png,a\n7.png,a\nx/1.png,\n,a"
    data = load_dataset(write_folder(pictures, {"metadata.csv": table}), "train")
    assert len(data) == 1
    assert data.broken == (
        "1.png: 2 files have this name",
        "7.png: no such file",
        "x/1.png: no label",
        ": no file name",
    )


def test_tables_without_labels_are_skipped(write_folder):
    """A competition's test table without labels and its sample submission are skipped."""
    tables = {
        "train.csv": "id,label\n0,b\n1,a",
        "test.csv": "id\n2",
        "sample_submission.csv": "id,label\n2,a",
    }
    data = load_dataset(write_folder(["train/0.png", "train/1.png", "test/2.png"], tables), "train")
    assert read_labels(data) == {0: "b", 1: "a"}
    assert "without a column of labels, left out: test.csv" in data.remarks


def test_single_table_is_a_dataset(write_folder):
    """A table can be given by its path. One without images or the given column is refused."""
    folder = write_folder(
        FLAT, {"a.csv": "file,label\n0.png,b\n1.png,a\n2.png,b", "b.csv": "x,y\n1,2"}
    )
    assert read_labels(load_dataset(f"{folder}/a.csv", "train")) == SAME
    with pytest.raises(DatasetError, match=r"b\.csv: no column names pictures"):
        load_dataset(f"{folder}/b.csv", "train")
    with pytest.raises(DatasetError, match="no column 'breed' for --label-column; there are file"):
        load_dataset(f"{folder}/a.csv", "train", label_column="breed")


@pytest.mark.parametrize(
    ("name", "content"),
    [("metadata.csv", b"file_name\n\xff\xfe"), ("metadata.jsonl", b"{"), ("a.jsonl", b"[1]")],
)
def test_unreadable_table_is_refused(write_folder, tmp_path, name, content):
    """The error names the table that cannot be parsed."""
    folder = write_folder(FLAT, {})
    (tmp_path / "pets" / name).write_bytes(content)
    with pytest.raises(DatasetError, match=f"{name}: this table cannot be read"):
        load_dataset(folder, "train")


def test_label_column_needs_a_table(write_folder):
    """A label column is refused if there is no table."""
    with pytest.raises(DatasetError, match="no table has a column 'breed' of labels"):
        load_dataset(write_folder(["a/0.png", "b/1.png"], {}), "train", label_column="breed")
