"""Tests of imagemint.training.datasets.folder."""

import logging

import numpy as np
import pytest
from PIL import Image

from imagemint.training.datasets import load_dataset, load_folder
from imagemint.training.datasets.pictures import Shape
from imagemint.training.errors import DatasetError


def paint(path, level, size=(6, 6), mode="L"):
    """Writes a picture of one level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, level).save(path)


@pytest.fixture
def pets(tmp_path):
    """Twenty cats and ten dogs, gray, each of its own level."""
    for number in range(20):
        paint(tmp_path / "pets" / "cat" / f"{number:02d}.png", number)
    for number in range(10):
        paint(tmp_path / "pets" / "dog" / "deeper" / f"{number:02d}.png", 100 + number)
    return tmp_path / "pets"


def test_folders_are_classes(pets):
    """Labels follow the names of the folders; nine in ten pictures train, the tenth tests."""
    train, test = (load_folder(pets, split) for split in ("train", "test"))
    assert train.class_labels == test.class_labels == ("cat", "dog")
    assert train.images.shape == (27, 6, 6, 1)
    assert np.bincount(train.labels).tolist() == [18, 9]
    assert test.images[:, 0, 0, 0].tolist() == [9, 19, 109]
    assert test.labels.tolist() == [0, 0, 1]
    assert (train.name, train.broken) == ("pets/train", ())


def test_divided_folders_stay_divided(tmp_path):
    """Where somebody made train and test folders, those are the splits."""
    paint(tmp_path / "train" / "a" / "1.png", 1)
    paint(tmp_path / "train" / "b" / "2.png", 2)
    paint(tmp_path / "test" / "b" / "3.jpg", 3)
    paint(tmp_path / "test" / "b" / ".hidden.png", 4)
    assert load_folder(tmp_path, "train").labels.tolist() == [0, 1]
    assert load_folder(tmp_path, "test").labels.tolist() == [1]
    paint(tmp_path / "test" / "c" / "4.png", 4)
    with pytest.raises(DatasetError, match="classes c are not in"):
        load_folder(tmp_path, "test")


def test_order_is_that_of_the_names(pets):
    """However many threads decode, pictures come in one order and with one digest."""
    one, many = (load_folder(pets, "train", workers=count) for count in (1, 7))
    assert np.array_equal(one.images, many.images)
    assert one.sha256 == many.sha256
    assert one.images[:9, 0, 0, 0].tolist() == list(range(9))


def test_broken_picture_is_named_and_counted(pets, caplog):
    """A broken picture is left out and said; asked to be strict, it is an error."""
    (pets / "cat" / "03.png").write_bytes(b"no picture")
    (pets / "dog" / "deeper" / "04.png").write_bytes(
        (pets / "dog" / "deeper" / "04.png").read_bytes()[:-30]
    )
    with caplog.at_level(logging.WARNING):
        data = load_folder(pets, "train")
    assert len(data) == 25
    assert [entry.split(":")[0] for entry in data.broken] == ["cat/03.png", "dog/deeper/04.png"]
    assert "2 of 27 pictures are broken: cat/03.png: unreadable" in caplog.text
    with pytest.raises(DatasetError, match=r"2 of 27 pictures are broken: cat/03\.png"):
        load_folder(pets, "train", strict=True)


def test_digest_follows_the_pictures(pets):
    """Another picture, or other treatment of the same, is another data set."""
    before = load_folder(pets, "train")
    treated = load_folder(pets, "train", shape=Shape(4))
    paint(pets / "cat" / "00.png", 55)
    assert len({before.sha256, treated.sha256, load_folder(pets, "train").sha256}) == 3


def test_sizes_are_settled(pets):
    """Pictures of several sizes are an error that tells the way out, which works."""
    paint(pets / "cat" / "00.png", 7, size=(9, 5))
    with pytest.raises(DatasetError, match=r"01\.png: picture of \(6, 6\) pixels, .*a size to"):
        load_folder(pets, "train")
    assert load_folder(pets, "train", shape=Shape(5, 3)).images.shape == (27, 5, 5, 3)


def test_folder_is_a_data_set(pets, tmp_path):
    """A folder is named by its path, or by its name below the data folder, with every option."""
    by_path = load_dataset(str(pets), "train", size=8)
    by_name = load_dataset("pets", "train", tmp_path, size=8, channels=3, per_class=4)
    assert by_path.images.shape == (27, 8, 8, 1)
    assert by_name.images.shape == (8, 8, 8, 3)
    assert np.bincount(by_name.labels).tolist() == [4, 4]


def test_pictures_without_classes_are_of_one(tmp_path):
    """A folder that holds nothing but pictures is data without labels."""
    for number in range(10):
        paint(tmp_path / f"{number}.png", number)
    train, test = (load_folder(tmp_path, split) for split in ("train", "test"))
    assert (len(train), len(test), train.class_labels) == (9, 1, ("all",))
    assert train.labels.tolist() == [0] * 9


@pytest.mark.parametrize("content", ["nothing", "no pictures", "all broken"])
def test_useless_folder_is_refused(tmp_path, content):
    """A folder that is not there, holds no picture, or no sound one, is an error."""
    if content != "nothing":
        (tmp_path / "pets" / "cat").mkdir(parents=True)
        (tmp_path / "pets" / "cat" / "notes.txt").write_text("meow")
    if content == "all broken":
        (tmp_path / "pets" / "cat" / "1.png").write_bytes(b"meow")
    with pytest.raises(DatasetError, match=r"no such folder|no picture, neither|1 of 1 pictures"):
        load_folder(tmp_path / "pets", "train")
