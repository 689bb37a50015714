"""Tests of imagemint.training.datasets.folder."""

import logging

import numpy as np
import pytest
from PIL import Image

from imagemint.training.datasets import ReadOptions, load_dataset, load_folder
from imagemint.training.datasets.pictures import Shape
from imagemint.training.errors import DatasetError


def paint(path, level, size=(6, 6), mode="L"):
    """Writes an image of one level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, level).save(path)


@pytest.fixture
def pets(tmp_path):
    """A folder of twenty cats and ten dogs, gray, each of a different level."""
    for number in range(20):
        paint(tmp_path / "pets" / "cat" / f"{number:02d}.png", number)
    for number in range(10):
        paint(tmp_path / "pets" / "dog" / "deeper" / f"{number:02d}.png", 100 + number)
    return tmp_path / "pets"


def test_folders_are_classes(pets):
    """Labels follow the names of the folders. Nine in ten images train, and the tenth tests."""
    train, test = (load_folder(pets, split) for split in ("train", "test"))
    assert train.class_labels == test.class_labels == ("cat", "dog")
    assert train.images.shape == (27, 6, 6, 1)
    assert np.bincount(train.labels).tolist() == [18, 9]
    assert test.images[:, 0, 0, 0].tolist() == [9, 19, 109]
    assert test.labels.tolist() == [0, 0, 1]
    assert (train.name, train.broken) == ("pets/train", ())


def test_folders_of_splits_are_used(tmp_path):
    """Folders named train and test are the splits."""
    paint(tmp_path / "train" / "a" / "1.png", 1)
    paint(tmp_path / "train" / "b" / "2.png", 2)
    paint(tmp_path / "test" / "b" / "3.jpg", 3)
    paint(tmp_path / "test" / "b" / ".hidden.png", 4)
    assert load_folder(tmp_path, "train").labels.tolist() == [0, 1]
    assert load_folder(tmp_path, "test").labels.tolist() == [1]
    paint(tmp_path / "test" / "c" / "4.png", 4)
    with pytest.raises(DatasetError, match="test/c: class 'c' is none of the 2 classes a, b"):
        load_folder(tmp_path, "test")


def test_images_are_in_the_order_of_their_names(pets):
    """The number of decoding threads changes neither the order nor the digest."""
    one, many = (load_folder(pets, "train", ReadOptions(workers=count)) for count in (1, 7))
    assert np.array_equal(one.images, many.images)
    assert one.sha256 == many.sha256
    assert one.images[:9, 0, 0, 0].tolist() == list(range(9))


def test_broken_image_is_reported(pets, caplog):
    """A broken image is skipped and logged. In strict mode it is an error."""
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
        load_folder(pets, "train", ReadOptions(strict=True))


def test_digest_depends_on_images_and_shape(pets):
    """Another image or another shape gives another digest."""
    before = load_folder(pets, "train")
    treated = load_folder(pets, "train", ReadOptions(Shape(4)))
    paint(pets / "cat" / "00.png", 55)
    assert len({before.sha256, treated.sha256, load_folder(pets, "train").sha256}) == 3


def test_different_sizes_need_a_size(pets):
    """Images of several sizes are an error that recommends a size, which solves it."""
    paint(pets / "cat" / "00.png", 7, size=(9, 5))
    with pytest.raises(DatasetError, match=r"01\.png: picture of \(6, 6\) pixels, .*set --size"):
        load_folder(pets, "train")
    assert load_folder(pets, "train", ReadOptions(Shape(5, 3))).images.shape == (27, 5, 5, 3)


def test_folder_is_found_by_path_or_name(pets, tmp_path):
    """A folder is given by its path or by its name in the data folder, with every option."""
    by_path = load_dataset(str(pets), "train", size=8)
    by_name = load_dataset("pets", "train", tmp_path, size=8, channels=3, per_class=4)
    assert by_path.images.shape == (27, 8, 8, 1)
    assert by_name.images.shape == (8, 8, 8, 3)
    assert np.bincount(by_name.labels).tolist() == [4, 4]


def test_images_without_folders_are_one_class(tmp_path):
    """A folder that contains only images gives data without labels."""
    for number in range(10):
        paint(tmp_path / f"{number}.png", number)
    train, test = (load_folder(tmp_path, split) for split in ("train", "test"))
    assert (len(train), len(test), train.class_labels) == (9, 1, ("all",))
    assert train.labels.tolist() == [0] * 9


@pytest.mark.parametrize("content", ["nothing", "no pictures", "all broken"])
def test_folder_without_images_is_refused(tmp_path, content):
    """A folder that is missing, or has no valid image, is an error."""
    if content != "nothing":
        (tmp_path / "pets" / "cat").mkdir(parents=True)
        (tmp_path / "pets" / "cat" / "notes.txt").write_text("meow")
    if content == "all broken":
        (tmp_path / "pets" / "cat" / "1.png").write_bytes(b"meow")
    with pytest.raises(DatasetError, match=r"no such folder|no picture, neither|1 of 1 pictures"):
        load_folder(tmp_path / "pets", "train")


def write_tree(root, *files):
    """Writes an image for each .png, a folder for each name that ends in /, and bytes otherwise."""
    for number, name in enumerate(files):
        if name.endswith("/"):
            (root / name).mkdir(parents=True)
        elif name.endswith(".png"):
            paint(root / name, number)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"\0\5\x16\7")
    return root


def count_classes(data):
    """Returns the number of images per class, including empty classes."""
    return dict(
        zip(
            data.class_labels,
            np.bincount(data.labels, minlength=len(data.class_labels)).tolist(),
            strict=True,
        )
    )


TWO = ("cat/0.png", "cat/1.png", "dog/0.png")


@pytest.mark.parametrize(
    "strays",
    [
        ["__MACOSX/cat/._0.png", "__MACOSX/cat/1.png"],
        ["cat/.ipynb_checkpoints/0-checkpoint.png", ".ipynb_checkpoints/1.png"],
        ["horse/"],
        ["horse/deeper/"],
        ["logs/x.csv", "lost+found/", "$RECYCLE.BIN/0.png"],
        ["cat/Thumbs.db", "cat/desktop.ini", ".DS_Store", "cat/._0.png"],
        ["cat/@eaDir/0.png/SYNOPHOTO_THUMB_M.png", "@eaDir/"],
        ["cover.png"],
    ],
)
def test_files_of_other_tools_are_ignored(tmp_path, strays):
    """Files that tools leave behind are neither classes nor images."""
    data = load_folder(write_tree(tmp_path, *TWO, *strays), "train")
    assert count_classes(data) == {"cat": 2, "dog": 1}
    assert data.broken == ()


@pytest.mark.parametrize(
    ("files", "train", "test"),
    [
        (["train/a/1.png", "train/b/2.png"], {"a": 1, "b": 1}, None),
        (["train/a/1.png", "train/b/2.png", "val/b/3.png"], {"a": 1, "b": 1}, {"a": 0, "b": 1}),
        (["Training/a/1.png", "Testing/a/2.png", "x.png"], {"a": 1}, {"a": 1}),
        (
            ["train/a/1.png", "train/a/2.png", "validation/a/3.png", "test/a/4.png"],
            {"a": 2},
            {"a": 1},
        ),
        (["train/a/1.png", "train/b/2.png", "models/3.png"], {"a": 1, "b": 1}, None),
        (["data/train/a/1.png", "data/valid/a/2.png"], {"a": 1}, {"a": 1}),
        (["images/a/1.png", "images/b/2.png"], {"a": 1, "b": 1}, None),
        (["pets/pets/a/1.png", "pets/pets/b/2.png"], {"a": 1, "b": 1}, None),
        (["train/images/a/1.png", "train/images/b/2.png"], {"a": 1, "b": 1}, None),
        (["train/1.png", "test/2.png", "test/3.png"], {"all": 1}, {"all": 2}),
        # These are not splits: train is one vehicle among others.
        (["train/1.png", "plane/2.png"], {"plane": 1, "train": 1}, None),
        (["cat/deep/1.png"], {"cat": 1}, None),
    ],
)
def test_layouts_are_recognized(tmp_path, files, train, test):
    """Splits and classes are found in the folders that contain them.

    None: no class has ten images.
    """
    write_tree(tmp_path, *files)
    assert count_classes(load_folder(tmp_path, "train")) == train
    if test is None:
        with pytest.raises(DatasetError, match="no picture is left for the test split"):
            load_folder(tmp_path, "test")
    else:
        assert count_classes(load_folder(tmp_path, "test")) == test


@pytest.mark.parametrize(
    ("files", "text"),
    [
        (["1.png", "2.png"], "no labels: all pictures are of one class"),
        (["a/1.png", "b/2.png", "c.png"], "left out beside the folders of classes: c.png"),
        (["a/1.png", "b/2.png", "c/"], "folders without pictures are no classes: c"),
        (["train/a/1.png", "extra/2.png"], "not a split, left out: extra"),
        (["train/a/1.png"], "the folders of classes are in train"),
        (["train/a/1.png", "val/a/1.png", "test/a/1.png"], "the validation split is not used"),
        (["\u00e9/1.png", "e\u0301/2.png"], "names differ only in Unicode are one class: \u00e9"),
    ],
)
def test_skipped_files_are_reported(tmp_path, caplog, files, text):
    """Everything that is skipped or guessed is logged and kept with the data."""
    data = load_folder(write_tree(tmp_path, *files), "train")
    assert text in "; ".join(data.remarks)
    assert text in caplog.text


@pytest.mark.parametrize(
    ("files", "text"),
    [
        (["test/a/1.png"], "no folder of the training split beside test"),
        (
            ["train/a/1.png", "val/a/2.png", "valid/a/3.png"],
            "both val and valid are the validation",
        ),
        (["train/a/1.png", "train/b/1.png", "test/1.png"], "are not in class folders"),
    ],
)
def test_ambiguous_splits_are_refused(tmp_path, files, text):
    """Folders that do not divide clearly into training and test images are refused."""
    write_tree(tmp_path, *files)
    with pytest.raises(DatasetError, match=text):
        load_folder(tmp_path, "test")


def test_numeric_folders_keep_their_indices(tmp_path):
    """Class folders 0 to 11 get the same indices."""
    data = load_folder(write_tree(tmp_path, *(f"{n}/x.png" for n in range(12))), "train")
    assert data.class_labels == tuple(str(n) for n in range(12))
    assert data.images[:, 0, 0, 0].tolist() == data.labels.tolist() == list(range(12))


def test_equivalent_unicode_names_are_one_class(tmp_path):
    """Folders whose names look the same are one class, in composed form."""
    data = load_folder(write_tree(tmp_path, "e\u0301/1.png", "\u00e9/2.png", "猫/3.png"), "train")
    assert count_classes(data) == {"\u00e9": 2, "猫": 1}


def test_links_are_followed_without_loops(tmp_path):
    """Linked classes and images count, and a link to a parent folder is not followed."""
    write_tree(tmp_path / "far", *TWO)
    (tmp_path / "near" / "dog").mkdir(parents=True)
    (tmp_path / "near" / "cat").symlink_to(tmp_path / "far" / "cat")
    (tmp_path / "near" / "dog" / "up").symlink_to(tmp_path / "near")
    (tmp_path / "near" / "dog" / "0.png").symlink_to(tmp_path / "far" / "dog" / "0.png")
    (tmp_path / "near" / "dog" / "1.png").symlink_to(tmp_path / "nowhere.png")
    data = load_folder(tmp_path / "near", "train")
    assert count_classes(data) == {"cat": 2, "dog": 1}
    assert data.broken == ("dog/1.png: unreadable file (No such file or directory)",)


def test_given_names_set_the_order(tmp_path):
    """Names that are given set the order. Folders may also be indices of them."""
    folders, numbers = tmp_path / "folders", tmp_path / "numbers"
    write_tree(folders, *TWO)
    write_tree(numbers, "0/1.png", "2/2.png")
    given = ReadOptions(class_labels=("dog", "horse", "cat"))
    assert count_classes(load_folder(folders, "train", given)) == {"dog": 1, "horse": 0, "cat": 2}
    assert count_classes(load_folder(numbers, "train", given)) == {"dog": 1, "horse": 0, "cat": 1}
    with pytest.raises(DatasetError, match="'dog' is none of the 2 classes cat, dig; did you mean"):
        load_folder(folders, "train", ReadOptions(class_labels=("cat", "dig")))
