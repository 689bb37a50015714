"""Tests of imagemint.training.datasets.classes."""

import pytest

from imagemint.training.datasets import load_dataset, read_labels_file
from imagemint.training.datasets.classes import MISSING, number_classes, sort_names
from imagemint.training.errors import DatasetError


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["10", "9", "1"], ("1", "9", "10")),
        (["class10", "class2", "b"], ("b", "class2", "class10")),
        (["a10b2", "a10b1", "a9"], ("a9", "a10b1", "a10b2")),
        (["01", "1", "1"], ("01", "1")),
    ],
)
def test_names_are_in_natural_order(names, order):
    """Names are distinct, and numbers in them are sorted by value."""
    assert sort_names(names) == order


@pytest.mark.parametrize(
    ("values", "declared", "known", "labels", "names"),
    [
        ([3, 1, None], (), None, [1, 0, MISSING], ("1", "3")),
        ([1, -1], ("a", "b"), None, [1, MISSING], ("a", "b")),
        ([1, -1], (), None, [1, 0], ("-1", "1")),
        ([10, 9], (), None, [1, 0], ("9", "10")),
        (["b", ""], ("a", "b"), None, [1, MISSING], ("a", "b")),
        ([1, 0], (), ("zero", "one"), [1, 0], ("zero", "one")),
        ([1, 0], ("a", "b"), ("zero", "one"), [1, 0], ("zero", "one")),
        ([7, 9], (), ("9", "7"), [1, 0], ("9", "7")),
        (["e\u0301"], (), ("\u00e9",), [0], ("\u00e9",)),
        ([True, False], (), None, [1, 0], ("False", "True")),
    ],
)
def test_labels_become_indices(values, declared, known, labels, names):
    """Names of the data set or of the user give indices. Other integer labels are indices."""
    found, classes = number_classes(values, str, declared=declared, known=known)
    assert (found.tolist(), classes) == (labels, names)


def test_unknown_label_is_refused():
    """The error has the position of the label and a similar class."""
    with pytest.raises(DatasetError, match="row 1: class 'dgo' is none of the 2 classes cat, dog;"):
        number_classes(["cat", "dgo"], lambda n: f"row {n}", known=("cat", "dog"))


def test_labels_are_read_from_a_file(tmp_path):
    """The file has a label on each line in the order of the indices.

    A byte order mark is optional.
    """
    (tmp_path / "labels.txt").write_text("cat\nhot dog \n\n", "utf-8-sig")
    assert read_labels_file(tmp_path / "labels.txt") == ("cat", "hot dog")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "line 1 is empty"),
        (b"a\n\nb", "line 2 is empty"),
        (b"a\nb\na", "'a' occurs twice"),
        (b"\xff", "not a text file with a label on each line"),
    ],
)
def test_invalid_labels_file_is_refused(tmp_path, content, text):
    """The error says what is wrong with the file."""
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(DatasetError, match=text):
        read_labels_file(tmp_path / "labels.txt")


@pytest.mark.usefixtures("toy_mnist")
def test_published_classes_may_be_renamed():
    """Published data accept other names for all of their classes and no column names."""
    names = tuple("abcdefghij")
    assert load_dataset("mnist", "train", class_labels=names).class_labels == names
    with pytest.raises(DatasetError, match="mnist/train has 10 classes, 2 are named"):
        load_dataset("mnist", "train", class_labels=("a", "b"))
    with pytest.raises(DatasetError, match="columns are for data sets of your own"):
        load_dataset("mnist", "train", label_column="label")
