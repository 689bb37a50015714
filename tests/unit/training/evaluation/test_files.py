"""Tests of imagemint.training.evaluation.files: generated images in a folder."""

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from imagemint.training.errors import CheckpointError, DatasetError
from imagemint.training.evaluation.files import PicturesSource
from imagemint.training.evaluation.sources import RunSource, open_source

CPU = torch.device("cpu")
NAMES = ("cat", "dog", "horse")


def write_image(path, level, serial=""):
    """Writes an image of one gray level with its serial."""
    path.parent.mkdir(parents=True, exist_ok=True)
    info = PngInfo()
    info.add_text("imagemint:serial", serial)
    Image.new("L", (4, 4), level).save(path, pnginfo=info)


def read_classes(folder):
    """Returns the classes of the images by their levels."""
    source = open_source(str(folder), CPU)
    source.name_classes(NAMES)
    images, classes = source.draw(5, 6, 7)
    assert source.image_shape == images.shape[1:] == (4, 4, 1)
    if classes is None:
        return None
    return dict(zip(images[:, 0, 0, 0].tolist(), classes.tolist(), strict=True))


@pytest.mark.parametrize(
    ("names", "serials"),
    [
        (["000000.png", "000001.png"], ["m@1/0/0?class=2", "m@1/0/1?class=0&truncation=0.7"]),
        (["000000_class0.png", "x.png"], ["m@1/0/0?class=2", "m@1/0/1?class=0"]),
        (["000000_class2.png", "000001_class0.png"], ["", ""]),
        (["horse/1.png", "cat/2.png"], ["", ""]),
        (["out/2/1.png", "out/0/2.png"], ["", ""]),
    ],
    ids=["serials", "serials first", "names", "folders", "numbers"],
)
def test_images_have_classes(tmp_path, names, serials):
    """The class comes from the serial in the file, else the file name, else the folder."""
    for level, (name, serial) in enumerate(zip(names, serials, strict=True)):
        write_image(tmp_path / "made" / name, level, serial)
    assert read_classes(tmp_path / "made") == {0: 2, 1: 0}


def test_table_has_classes(tmp_path):
    """A table in the folder takes precedence. Its labels are names or indices."""
    for level in range(2):
        write_image(tmp_path / "made" / f"{level}.png", level, "m@1/0/0?class=1")
    (tmp_path / "made" / "labels.csv").write_text("file_name,label\n0.png,horse\n1.png,cat\n")
    assert read_classes(tmp_path / "made") == {0: 2, 1: 0}


def test_images_may_have_no_classes(tmp_path):
    """Images of a model without classes have none."""
    write_image(tmp_path / "made" / "0.png", 1, "m@1/0/0")
    assert read_classes(tmp_path / "made") is None
    assert open_source(str(tmp_path / "made"), CPU).num_classes == 0


def test_digest_depends_on_images_and_classes(tmp_path):
    """Other images or classes are not found in the cache of results."""
    digests = set()
    for level, serial in ((1, "m@1/0/0?class=1"), (2, "m@1/0/0?class=1"), (2, "m@1/0/0?class=2")):
        write_image(tmp_path / "made" / "0.png", level, serial)
        digests.add(open_source(str(tmp_path / "made"), CPU).sha256)
    assert len(digests) == 3


def test_incomplete_folder_is_refused(tmp_path):
    """An image without a class, a broken image and an unknown class are errors."""
    write_image(tmp_path / "made" / "0_class1.png", 1)
    write_image(tmp_path / "made" / "1.png", 2)
    with pytest.raises(DatasetError, match=r"1\.png: its class is unknown"):
        open_source(str(tmp_path / "made"), CPU)
    (tmp_path / "made" / "1.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"1 of 2 pictures are broken: 1\.png"):
        open_source(str(tmp_path / "made"), CPU)
    (tmp_path / "made" / "1.png").unlink()
    source = open_source(str(tmp_path / "made"), CPU)
    assert isinstance(source, PicturesSource)
    with pytest.raises(DatasetError, match="class '1' is none of the 1 classes cat"):
        source.name_classes(("cat",))


def test_run_is_not_a_folder_of_images(train, tmp_path):
    """A run with image grids is opened as a run, and an empty folder is an error."""
    train(tmp_path / "run", images=32)
    assert isinstance(open_source(str(tmp_path / "run"), CPU), RunSource)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError):
        open_source(str(tmp_path / "empty"), CPU)


@pytest.mark.usefixtures("toy_mnist")
def test_folder_is_evaluated(tmp_path, digits, judge, monkeypatch, capsys):
    """`imagemint evaluate` of real images by class finds the right classes."""
    from imagemint.client.cli import main  # noqa: PLC0415 - the command of another part

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for row, (image, label) in enumerate(zip(digits.images, digits.labels, strict=True)):
        path = tmp_path / "made" / f"{row:06d}_class{label}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)
    assert main(["evaluate", str(tmp_path / "made"), "--classifier", str(judge)]) == 0
    told = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines())
    assert float(told["class_accuracy"]) > 0.9
    assert np.isclose(float(told["training_copies"]), 1)
