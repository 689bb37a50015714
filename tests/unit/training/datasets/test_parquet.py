"""Tests of imagemint.training.datasets.parquet: what the hub's data sets differ in."""

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


def encoded(level, mode="L", form="PNG"):
    """A picture of one level of gray, whatever its mode."""
    stream = io.BytesIO()
    Image.new("L", (5, 5), level).convert(mode).save(stream, form)
    return stream.getvalue()


def shard(levels, features=NAMED, **columns):
    """A Parquet file of gray pictures of such levels, labels in turn; None removes a column."""
    pictures = [{"bytes": encoded(level), "path": None} for level in levels]
    columns = {"image": pictures, "label": [n % 2 for n in range(len(levels))]} | columns
    table = pa.table({name: column for name, column in columns.items() if column is not None})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if features else None
    stream = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), stream)
    return stream.getvalue()


@pytest.fixture
def pets(tmp_path):
    """Writes files below the folder of a data set."""

    def write(files):
        for name, content in files.items():
            path = tmp_path / "pets" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return tmp_path

    return write


def test_shards_are_joined(pets):
    """A split in several files is read in their order, texts and all."""
    shards = [
        shard(levels, image=None, img=[{"bytes": encoded(level)} for level in levels], text=words)
        for levels, words in (((1, 2, 3), ["one", None, "three"]), ((4, 5), ["four", "five"]))
    ]
    names = [f"train-{number:05d}-of-00002.parquet" for number in range(2)]
    files = dict(zip(names, shards, strict=True))
    data = load_dataset("pets", "train", pets(files | {"test.parquet": shard([9])}), size=7)
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
def test_splits_are_found(pets, train, test):
    """By the name of the file or of a folder, as the hub and its exports have them."""
    data = pets({train: shard([1, 2, 3]), test: shard([4])})
    assert [len(load_dataset("pets", split, data)) for split in ("train", "test")] == [3, 1]


def test_undivided_data_are_divided(pets):
    """Where there is nothing but a training split, every tenth of a class is for testing."""
    data = pets({"train.parquet": shard(range(40))})
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
def test_labels_are_found(columns, features, labels, names):
    """Whatever the column is called, with names of classes, without, as text, or not at all."""
    data = parse_image_parquet(shard([1, 2], features, **{"label": None} | columns), "pets/train")
    assert (data.labels.tolist(), data.class_labels) == (labels, names)


def test_classes_are_those_of_the_training_split(pets):
    """Labels without names mean the same in both splits, and a strange one is refused by row."""
    train = shard([1, 2], None, label=["cat", "dog"])
    data = pets({"train.parquet": train, "test.parquet": shard([3], None, label=["dog"])})
    test = load_dataset("pets", "test", data)
    assert (test.labels.tolist(), test.class_labels) == ([1], ("cat", "dog"))
    pets({"test.parquet": shard([3], None, label=["cow"])})
    with pytest.raises(DatasetError, match="row 0: class 'cow' is none of the 2 classes cat, dog"):
        load_dataset("pets", "test", data)


@pytest.mark.parametrize(
    ("mode", "form"),
    [("RGB", "JPEG"), ("RGBA", "PNG"), ("P", "PNG"), ("LA", "PNG"), ("CMYK", "JPEG")],
)
def test_pictures_of_any_mode_are_read(mode, form):
    """PNG and JPEG, palettes and transparency, as bytes with or without a struct around them."""
    data = parse_image_parquet(shard([1], image=[encoded(60, mode, form)]), "pets/train")
    assert data.images.mean() == pytest.approx(60, abs=4)


def test_broken_picture_is_named_and_counted(pets, caplog):
    """As in a folder of pictures: left out and said, or an error where asked for."""
    pictures = [{"bytes": encoded(1)}, {"bytes": b"no picture"}, {"bytes": encoded(2)}]
    data = pets({"train.parquet": shard([0] * 3, image=pictures), "test.parquet": shard([1])})
    with caplog.at_level(logging.WARNING):
        found = load_dataset("pets", "train", data)
    assert found.images[:, 0, 0, 0].tolist() == [1, 2]
    assert found.labels.tolist() == [0, 0]
    assert found.broken == ("row 1: unreadable picture (of no known format)",)
    assert "pets/train: 1 of 3 pictures are broken: row 1: unreadable" in caplog.text
    with pytest.raises(DatasetError, match="1 of 3 pictures are broken: row 1"):
        load_dataset("pets", "train", data, strict=True)


def test_digest_follows_the_treatment(pets):
    """The same files scaled otherwise are other data, so that no run resumes on them."""
    data = pets({"train.parquet": shard([1, 2]), "test.parquet": shard([1])})
    assert (
        len({load_dataset("pets", "train", data, size=size).sha256 for size in (None, 4, 6)}) == 3
    )


@pytest.mark.parametrize(
    ("files", "text"),
    [
        (["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"], "2 of 3 files"),
        (["plain/train/0.parquet", "fancy/train/0.parquet"], "name one of fancy/train, plain/"),
        (["test.parquet"], r"no \.parquet file of the training split"),
    ],
)
def test_puzzling_folder_is_refused(pets, files, text):
    """A shard that is missing, several data sets in one folder, or none to learn from."""
    with pytest.raises(DatasetError, match=text):
        load_dataset("pets", "train", pets(dict.fromkeys(files, shard([1]))))


def written(path, table):
    """Writes a table of pictures in some odd form."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


PAIR = [encoded(1), encoded(2)]


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
    """Pictures and labels are read from any type that writers choose for them."""
    path = written(tmp_path / "pets.parquet", pa.table({"image": image, "label": label}))
    data = load_dataset(str(path), "train")
    assert data.images[:, 0, 0, 0].tolist() == [1, 2]
    assert (data.labels.tolist(), data.class_labels) == ([0, 1], ("0", "1"))
    assert data.name == "pets/train"


def test_shards_may_differ_in_types(tmp_path):
    """One shard has int32 labels, the other int64, and their columns come in another order."""
    first = pa.table({"image": PAIR, "label": pa.array([0, 1], pa.int32())})
    second = pa.table({"label": pa.array([1, 0], pa.int64()), "more": ["x", "y"], "image": PAIR})
    for number, table in enumerate((first, second)):
        written(tmp_path / f"train-0000{number}-of-00002.parquet", table)
    written(tmp_path / "test.parquet", first)
    assert load_dataset(str(tmp_path), "train").labels.tolist() == [0, 1, 1, 0]


def test_rows_are_read_in_pieces(tmp_path, monkeypatch):
    """Few encoded pictures are held at a time, so files may be larger than an Arrow array."""
    held = []
    original = pq.ParquetFile.iter_batches

    def watched(self, **options):
        for batch in original(self, **options):
            held.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    table = pa.table({"image": [encoded(n) for n in range(200)], "label": [0] * 200})
    data = load_dataset(str(written(tmp_path / "pets.parquet", table)), "train")
    assert len(data) == 180
    assert max(held) <= 32


@pytest.mark.parametrize(
    "column", [pa.array(["img/0.png", "img/1.png"]), [{"path": f"img/{n}.png"} for n in range(2)]]
)
def test_paths_are_relative_to_the_file(tmp_path, column):
    """A column of paths without content names files beside the Parquet file."""
    (tmp_path / "img").mkdir()
    for number, content in enumerate(PAIR):
        (tmp_path / "img" / f"{number}.png").write_bytes(content)
    table = pa.table({"image": column, "label": [1, 0]})
    path = written(tmp_path / "pets.parquet", table)
    data = load_dataset(str(path), "train")
    assert data.images[:, 0, 0, 0].tolist() == [1, 2]
    (tmp_path / "img" / "1.png").write_bytes(encoded(9))
    assert load_dataset(str(path), "train").sha256 != data.sha256
    (tmp_path / "img" / "1.png").unlink()
    assert load_dataset(str(path), "train").broken == ("row 1: no file img/1.png, nor its content",)


def test_rows_without_label_are_named(tmp_path):
    """A row whose label is null or hidden (-1 beside names of classes) is left out and named."""
    (tmp_path / "pets.parquet").write_bytes(shard([1, 2, 1, 2], label=[0, None, 1, -1]))
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
def test_label_column_is_found_or_named(tmp_path, caplog, columns, asked, names):
    """The usual names are found; for others, columns are listed with the flag to use."""
    table = pa.table({"image": PAIR} | {key: ["a", "b"] for key in columns})
    data = load_dataset(str(written(tmp_path / "pets.parquet", table)), "train", **asked)
    assert data.class_labels == names
    said = "no labels: all pictures are of one class; --label-column names the column that holds"
    assert (said in caplog.text) == (names == ("all",))
    with pytest.raises(DatasetError, match="no column 'breed' for --label-column; there are"):
        load_dataset(str(tmp_path / "pets.parquet"), "train", label_column="breed")


@pytest.mark.parametrize(
    ("name", "asked"),
    [("content", {}), ("other", {"image_column": "other"}), ("file_name", {})],
)
def test_image_column_is_found_or_named(tmp_path, name, asked):
    """Without a usual name, the only binary column holds the pictures, or a column their files."""
    (tmp_path / "0.png").write_bytes(PAIR[0])
    column = ["0.png"] if name == "file_name" else [PAIR[0]]
    table = pa.table({"label": [0], name: column} | ({"more": [b"x"]} if asked else {}))
    path = written(tmp_path / "pets.parquet", table)
    assert load_dataset(str(path), "train", **asked).images[0, 0, 0, 0] == 1


def test_numbers_as_text_are_sorted_by_value(tmp_path):
    """Labels that are written as text keep the order of their values."""
    table = pa.table({"image": PAIR * 2, "label": ["10", "9", "100", "1"]})
    data = load_dataset(str(written(tmp_path / "pets.parquet", table)), "train")
    assert data.class_labels == ("1", "9", "10", "100")
