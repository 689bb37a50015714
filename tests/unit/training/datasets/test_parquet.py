"""Tests of imagemint.training.datasets.parquet: the variants of data sets on the hub."""

import io
import json
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from imagemint.training.datasets import load_dataset, parse_image_parquet
from imagemint.training.errors import DatasetError

NAMED = {"label": {"names": ["cat", "dog"]}}


def encode_gray(level, mode="L", form="PNG"):
    """Returns an image of one gray level in this mode."""
    stream = io.BytesIO()
    Image.new("L", (5, 5), level).convert(mode).save(stream, form)
    return stream.getvalue()


def make_shard(levels, features=NAMED, **columns):
    """Returns a Parquet file of gray images of these levels with alternating labels.

    A value of None removes a column.
    """
    # The path is where the picture was when the file was written.
    pictures = [{"bytes": encode_gray(level), "path": f"{level}.png"} for level in levels]
    columns = {"image": pictures, "label": [n % 2 for n in range(len(levels))]} | columns
    table = pa.table({name: column for name, column in columns.items() if column is not None})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if features else None
    stream = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), stream)
    return stream.getvalue()


@pytest.fixture
def pets(tmp_path):
    """A function that writes files into the folder of a data set."""

    def write(files):
        for name, content in files.items():
            path = tmp_path / "pets" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return tmp_path

    return write


def test_shards_are_joined(pets):
    """The files of a split are read in order, with their texts."""
    shards = [
        make_shard(
            levels, image=None, img=[{"bytes": encode_gray(level)} for level in levels], text=words
        )
        for levels, words in (((1, 2, 3), ["one", None, "three"]), ((4, 5), ["four", "five"]))
    ]
    names = [f"train-{number:05d}-of-00002.parquet" for number in range(2)]
    files = dict(zip(names, shards, strict=True))
    data = load_dataset("pets", "train", pets(files | {"test.parquet": make_shard([9])}), size=7)
    assert data.images.shape == (5, 7, 7, 1)
    assert data.images[:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5]
    assert data.labels.tolist() == [0, 1, 0, 0, 1]
    assert data.texts == ("one", "", "three", "four", "five")
    assert data.name == "pets/train"


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
        ("data/train-00000-of-00001-0a1b.parquet", "data/test-00000-of-00001-9f.parquet"),
        ("default/train/0000.parquet", "default/test/0000.parquet"),
        ("train.parquet", "validation.parquet"),
        ("some.parquet", "valid.parquet"),
    ],
)
def test_splits_are_recognized(pets, train, test):
    """Splits are recognized by the name of a file or folder, as on the hub and in its exports."""
    data = pets({train: make_shard([1, 2, 3]), test: make_shard([4])})
    assert [len(load_dataset("pets", split, data)) for split in ("train", "test")] == [3, 1]


def test_training_split_is_divided(pets):
    """If there is only a training split, every tenth image of a class is for testing."""
    data = pets({"train.parquet": make_shard(range(40))})
    train, test = (load_dataset("pets", split, data) for split in ("train", "test"))
    assert np.bincount(train.labels).tolist() == [18, 18]
    assert test.images[:, 0, 0, 0].tolist() == [18, 19, 38, 39]
    assert train.sha256 != test.sha256


@pytest.mark.parametrize(
    ("columns", "features", "labels", "names"),
    [
        ({"labels": [1, 0]}, {"labels": {"names": ["a", "b"]}}, [1, 0], ("a", "b")),
        (
            {"coarse_label": [0, 0], "fine_label": [1, 0]},
            {
                "coarse_label": {"names": ["x"], "_type": "ClassLabel"},
                "fine_label": {"names": ["a", "b"], "_type": "ClassLabel"},
            },
            [1, 0],
            ("a", "b"),
        ),
        ({"breed": [0, 1]}, {"breed": {"names": "ab", "_type": "ClassLabel"}}, [0, 1], ("a", "b")),
        ({"label": [10, 9]}, {"label": {"dtype": "int64"}}, [1, 0], ("9", "10")),
        ({"label": [7, 7]}, None, [0, 0], ("7",)),
        ({"label": ["dog", "cat"]}, None, [1, 0], ("cat", "dog")),
        ({"label": ["dog", "cat"]}, NAMED, [1, 0], ("cat", "dog")),
        ({}, {}, [0, 0], ("all",)),
    ],
)
def test_label_column_is_recognized(columns, features, labels, names):
    """The label column has one of several names.

    Class names may be missing, and so may the column.
    """
    data = parse_image_parquet(
        make_shard([1, 2], features, **{"label": None} | columns), "pets/train"
    )
    assert (data.labels.tolist(), data.class_labels) == (labels, names)


def test_classes_are_those_of_the_training_split(pets):
    """Labels without names mean the same in both splits.

    The error names the row of an unknown one.
    """
    train = make_shard([1, 2], None, label=["cat", "dog"])
    data = pets({"train.parquet": train, "test.parquet": make_shard([3], None, label=["dog"])})
    test = load_dataset("pets", "test", data)
    assert (test.labels.tolist(), test.class_labels) == ([1], ("cat", "dog"))
    pets({"test.parquet": make_shard([3], None, label=["cow"])})
    with pytest.raises(DatasetError, match="row 0: class 'cow' is none of the 2 classes cat, dog"):
        load_dataset("pets", "test", data)


@pytest.mark.parametrize(
    ("mode", "form"),
    [("RGB", "JPEG"), ("RGBA", "PNG"), ("P", "PNG"), ("LA", "PNG"), ("CMYK", "JPEG")],
)
def test_images_of_any_mode_are_read(mode, form):
    """PNG and JPEG, palettes and transparency are read, as bytes or as a struct."""
    data = parse_image_parquet(make_shard([1], image=[encode_gray(60, mode, form)]), "pets/train")
    assert data.images.mean() == pytest.approx(60, abs=4)


def test_broken_image_is_reported(pets, caplog):
    """A broken image is skipped and logged. In strict mode it is an error."""
    pictures = [{"bytes": encode_gray(1)}, {"bytes": b"no picture"}, {"bytes": encode_gray(2)}]
    data = pets(
        {"train.parquet": make_shard([0] * 3, image=pictures), "test.parquet": make_shard([1])}
    )
    with caplog.at_level(logging.WARNING):
        found = load_dataset("pets", "train", data)
    assert found.images[:, 0, 0, 0].tolist() == [1, 2]
    assert found.labels.tolist() == [0, 0]
    assert found.broken == ("row 1: unreadable picture (of no known format)",)
    assert "pets/train: 1 of 3 pictures are broken: row 1: unreadable" in caplog.text
    with pytest.raises(DatasetError, match="1 of 3 pictures are broken: row 1"):
        load_dataset("pets", "train", data, strict=True)


def test_digest_depends_on_the_size(pets):
    """Files scaled to another size are other data, so that no run resumes on them."""
    data = pets({"train.parquet": make_shard([1, 2]), "test.parquet": make_shard([1])})
    assert (
        len({load_dataset("pets", "train", data, size=size).sha256 for size in (None, 4, 6)}) == 3
    )


def test_digest_depends_on_the_columns(tmp_path):
    """Other labels or images from one file are other data, and usual columns named are not."""
    others = [{"bytes": encode_gray(level), "path": None} for level in (7, 8, 9)]
    path = tmp_path / "pets.parquet"
    path.write_bytes(make_shard([1, 2, 3], features=None, mask=others, side=[1, 1, 0]))

    def read(**asked):
        return load_dataset(str(path), "train", **asked).sha256

    usual = read()
    assert read(label_column="label") == read(image_column="image") == usual
    asked = [{"label_column": "side"}, {"image_column": "mask"}]
    assert len({usual, *(read(**each) for each in [*asked, asked[0] | asked[1]])}) == 4


@pytest.mark.parametrize(
    ("files", "text"),
    [
        (["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"], "2 of 3 files"),
        (["plain/train/0.parquet", "fancy/train/0.parquet"], "name one of fancy/train, plain/"),
        (["test.parquet"], r"no \.parquet file of the training split"),
    ],
)
def test_ambiguous_folder_is_refused(pets, files, text):
    """A missing shard, several data sets in one folder or no training data are errors."""
    with pytest.raises(DatasetError, match=text):
        load_dataset("pets", "train", pets(dict.fromkeys(files, make_shard([1]))))


def write_parquet(path, table):
    """Writes a table and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


PAIR = [encode_gray(1), encode_gray(2)]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        (pa.array(PAIR, pa.large_binary()), pa.array([0, 1], pa.int8())),
        (pa.array(PAIR, pa.binary_view()), pa.array(["0", "1"], pa.string_view())),
        (pa.array(PAIR).dictionary_encode(), pa.array(["0", "1"]).dictionary_encode()),
        (pa.array([{"bytes": it} for it in PAIR]), pa.array(["0", "1"], pa.large_string())),
        (pa.array(PAIR), pa.array([0.0, 1.0])),
        (pa.chunked_array([[PAIR[0]], [PAIR[1]]]), pa.array([0, 1], pa.uint16())),
    ],
    ids=["large_binary", "view", "dictionary", "struct", "float", "chunked"],
)
def test_arrow_types_are_read(tmp_path, image, label):
    """Images and labels are read from every Arrow type that writers use."""
    path = write_parquet(tmp_path / "pets.parquet", pa.table({"image": image, "label": label}))
    data = load_dataset(str(path), "train")
    assert data.images[:, 0, 0, 0].tolist() == [1, 2]
    assert (data.labels.tolist(), data.class_labels) == ([0, 1], ("0", "1"))
    assert data.name == "pets/train"


def test_shards_may_differ_in_types(tmp_path):
    """Shards may have int32 and int64 labels and columns in another order."""
    first = pa.table({"image": PAIR, "label": pa.array([0, 1], pa.int32())})
    second = pa.table({"label": pa.array([1, 0], pa.int64()), "more": ["x", "y"], "image": PAIR})
    for number, table in enumerate((first, second)):
        write_parquet(tmp_path / f"train-0000{number}-of-00002.parquet", table)
    write_parquet(tmp_path / "test.parquet", first)
    assert load_dataset(str(tmp_path), "train").labels.tolist() == [0, 1, 1, 0]


def test_rows_are_read_in_batches(tmp_path, monkeypatch):
    """Few encoded images are in memory at once, so files may be larger than an Arrow array."""
    held = []
    original = pq.ParquetFile.iter_batches

    def watched(self, **options):
        for batch in original(self, **options):
            held.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    table = pa.table({"image": [encode_gray(n) for n in range(200)], "label": [0] * 200})
    data = load_dataset(str(write_parquet(tmp_path / "pets.parquet", table)), "train")
    assert len(data) == 180
    assert max(held) <= 32


@pytest.mark.parametrize(
    "column", [pa.array(["img/0.png", "img/1.png"]), [{"path": f"img/{n}.png"} for n in range(2)]]
)
def test_paths_are_relative_to_the_file(tmp_path, column):
    """A column of paths without content names files relative to the Parquet file."""
    (tmp_path / "img").mkdir()
    for number, content in enumerate(PAIR):
        (tmp_path / "img" / f"{number}.png").write_bytes(content)
    table = pa.table({"image": column, "label": [1, 0]})
    path = write_parquet(tmp_path / "pets.parquet", table)
    data = load_dataset(str(path), "train")
    assert data.images[:, 0, 0, 0].tolist() == [1, 2]
    (tmp_path / "img" / "1.png").write_bytes(encode_gray(9))
    assert load_dataset(str(path), "train").sha256 != data.sha256
    (tmp_path / "img" / "1.png").unlink()
    assert load_dataset(str(path), "train").broken == ("row 1: no file img/1.png, nor its content",)


def test_rows_without_label_are_reported(tmp_path):
    """A row whose label is null or hidden (-1 beside class names) is skipped and reported."""
    (tmp_path / "pets.parquet").write_bytes(make_shard([1, 2, 1, 2], label=[0, None, 1, -1]))
    data = load_dataset(str(tmp_path / "pets.parquet"), "train")
    assert data.images[:, 0, 0, 0].tolist() == [1, 1]
    assert data.broken == ("row 1: no label", "row 3: no label")


@pytest.mark.parametrize(
    ("columns", "asked", "names"),
    [
        (["category"], {}, ("a", "b")),
        (["Class"], {}, ("a", "b")),
        (["who"], {"label_column": "who"}, ("a", "b")),
        (["label", "who"], {"label_column": "who"}, ("a", "b")),
        (["who"], {}, ("all",)),
    ],
)
def test_label_column_is_found_or_given(tmp_path, caplog, columns, asked, names):
    """Common names are found. Otherwise the error lists the columns and the option."""
    table = pa.table({"image": PAIR} | {key: ["a", "b"] for key in columns})
    data = load_dataset(str(write_parquet(tmp_path / "pets.parquet", table)), "train", **asked)
    assert data.class_labels == names
    said = "no labels: all pictures are of one class; --label-column names the column that holds"
    assert (said in caplog.text) == (names == ("all",))
    assert load_dataset(str(tmp_path / "pets.parquet"), "train", needs_labels=False).remarks == ()
    with pytest.raises(DatasetError, match="no column 'breed' for --label-column; there are"):
        load_dataset(str(tmp_path / "pets.parquet"), "train", label_column="breed")


@pytest.mark.parametrize(
    ("name", "asked"),
    [("content", {}), ("other", {"image_column": "other"}), ("file_name", {})],
)
def test_image_column_is_found_or_given(tmp_path, name, asked):
    """Without a common name, the only binary column has the images, or a column has their paths."""
    (tmp_path / "0.png").write_bytes(PAIR[0])
    column = ["0.png"] if name == "file_name" else [PAIR[0]]
    table = pa.table({"label": [0], name: column} | ({"more": [b"x"]} if asked else {}))
    path = write_parquet(tmp_path / "pets.parquet", table)
    assert load_dataset(str(path), "train", **asked).images[0, 0, 0, 0] == 1


def test_numbers_as_text_are_sorted_by_value(tmp_path):
    """Numeric labels that are stored as text keep the order of their values."""
    table = pa.table({"image": PAIR * 2, "label": ["10", "9", "100", "1"]})
    data = load_dataset(str(write_parquet(tmp_path / "pets.parquet", table)), "train")
    assert data.class_labels == ("1", "9", "10", "100")
