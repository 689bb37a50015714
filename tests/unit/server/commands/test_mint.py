"""Tests of the command `imagemint mint`: images from serial numbers, and checks of pictures."""

import io

import numpy as np
import pytest
from PIL import Image
from tiny_bundles import write_bundle
from tiny_translators import write_translator

from imagemint.client import cli
from imagemint.pictures.encoding import PictureFormat, encode
from imagemint.pictures.origin import read_picture

SERIALS = (
    "tiny@1/7/5?class=1",
    "tiny@1/7/3?class=2&truncation=0.7",
    "plain@2/9/18446744073709551615",
)


@pytest.fixture
def repository(tmp_path):
    """Models: `tiny` with three classes, `plain`, `people` with captions, `sketch` with sources."""
    write_bundle(tmp_path / "models", "tiny", truncation="threshold", num_classes=3)
    write_bundle(tmp_path / "models", "plain", 2, conditional=False)
    write_bundle(tmp_path / "models", "people", captions=True)
    write_translator(tmp_path / "models", "sketch", size=(6, 8), z_dim=4)
    return tmp_path / "models"


@pytest.fixture
def mint(repository, capsys):
    """A function that runs the command, and returns its status, output and errors."""

    def run(*arguments):
        status = cli.main(["mint", *map(str, arguments), f"--repository={repository}"])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_pictures_have_their_serials(mint, tmp_path):
    """Serials of several models are drawn in order, and the pictures hold them."""
    status, out, _ = mint(*SERIALS, "--out", tmp_path / "out")
    assert status == 0
    names = ["tiny@1_7_000005_class1", "tiny@1_7_000003_class2", "plain@2_9_18446744073709551615"]
    paths = [tmp_path / "out" / f"{name}.png" for name in names]
    assert out.splitlines() == [str(path) for path in paths]
    assert [read_picture(path.read_bytes()).serials for path in paths] == [(s,) for s in SERIALS]


def test_pictures_of_one_name_are_kept_apart(mint, tmp_path):
    """Serials that differ in the truncation alone have files of their own."""
    both = ("tiny@1/7/3?class=2", "tiny@1/7/3?class=2&truncation=0.7")
    mint(*both, "--out", tmp_path / "out")
    found = {read_picture(path.read_bytes()).serials[0] for path in (tmp_path / "out").iterdir()}
    assert found == {*both}


@pytest.mark.parametrize("suffix", ["jpeg", "webp", "png"])
def test_serials_of_a_picture_are_read(mint, tmp_path, suffix):
    """A picture in any encoding says what to draw; a sheet has several serials."""
    sheet = np.zeros((4, 6, 3), np.uint8)
    path = tmp_path / f"sheet.{suffix}"
    path.write_bytes(encode(sheet, SERIALS, PictureFormat(suffix)))
    path = path.rename(path.with_suffix(".JPG")) if suffix == "jpeg" else path
    status, out, _ = mint(path, "--out", tmp_path / "out")
    assert (status, len(out.splitlines())) == (0, 3)


def test_check_tells_pictures_apart(mint, tmp_path):
    """A picture that was changed, or has another size, is told from those that were not."""
    mint(*SERIALS, "--out", tmp_path / "out")
    first, second, third = (tmp_path / "out").iterdir()
    status, out, _ = mint(first, second, third, "--check")
    assert (status, out.count(": same, ")) == (0, 3)
    found = read_picture(second.read_bytes())
    changed = found.pixels.copy()
    changed[0, 1] = 0
    levels = int(found.pixels[0, 1].max())
    assert levels > 0
    second.write_bytes(encode(changed, found.serials, PictureFormat.PNG))
    found = read_picture(third.read_bytes())
    third.write_bytes(encode(found.pixels[1:], found.serials, PictureFormat.PNG))
    status, out, _ = mint(first, second, third, "--check")
    assert status == 1
    same, recoloured, cropped = (line.split(": ")[1] for line in out.splitlines())
    assert same.startswith("same, ")
    assert recoloured.startswith(f"different in 1 pixels, by up to {levels} levels, ")
    assert cropped.startswith("different size (3, 6, 1), not (4, 6, 1), ")


def test_many_images_are_drawn(mint, tmp_path):
    """More images than a batch holds are all there, and the batch does not change their pixels."""
    serials = [f"tiny@1/7/{index}?class=1" for index in range(70)]
    status, out, _ = mint(*serials, "--out", tmp_path / "many")
    assert (status, len(out.splitlines())) == (0, 70)
    mint(*serials[64:67], "--out", tmp_path / "few")
    for path in (tmp_path / "few").iterdir():
        assert path.read_bytes() == (tmp_path / "many" / path.name).read_bytes()


def test_bounds_of_the_truncation_are_drawn(mint, tmp_path):
    """The least and the largest truncation belong to the range."""
    serials = [f"tiny@1/7/3?class=2&truncation={bound}" for bound in ("0.25", "4.0")]
    status, out, _ = mint(*serials, "--out", tmp_path / "out")
    assert (status, len(out.splitlines())) == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["tiny@2/1/1?class=1"], "model 'tiny' has no version 2; there is 1"),
        (["other@1/1/1"], "no model 'other'; there are people, plain, sketch, tiny"),
        (["tiny@1/1/1?class=3"], "tiny@1/1/1?class=3: the model has the classes 0 to 2"),
        (["tiny@1/1/1"], "tiny@1/1/1: the model has the classes 0 to 2"),
        (["plain@2/1/1?class=1"], "model 'plain' has no classes: ask it for no class"),
        (["plain@2/1/1?caption=a"], "model 'plain' takes no caption"),
        (["tiny@1/1/1?class=1&truncation=99"], "the truncation is 0.25 to 4"),
        (["people@1/1/1?caption=purple%20hair"], "purple%20hair: caption: unknown word 'purple'"),
        (["sketch@1/1/1"], "translates a source"),
        (["tiny@1/0/0?source=0123456789abcdef0123456789abcdef"], "translates a source"),
        (["tiny@1+int8/1/1?class=1"], "int8"),
        (["nonsense"], "nonsense: 'nonsense' is not a serial number"),
    ],
)
def test_serial_that_cannot_be_drawn_is_refused(mint, tmp_path, arguments, error):
    """The line names what is wrong, and nothing is written."""
    status, out, err = mint(*arguments, "--out", tmp_path / "out")
    assert (status, out) == (1, "")
    assert error in err
    assert not (tmp_path / "out").exists()


def test_picture_without_a_serial_is_refused(mint, tmp_path):
    """A picture of another origin, and a file that is no picture, are named."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    for content, why in ((buffer.getvalue(), "no serial number"), (b"text", "can be read")):
        (tmp_path / "given.png").write_bytes(content)
        status, _, err = mint(tmp_path / "given.png", "--check")
        assert status == 1
        assert "given.png" in err
        assert why in err


@pytest.mark.parametrize("options", [[], ["--check", "--out", "folder"]])
def test_pictures_are_written_or_checked(mint, options):
    """Neither and both are refused."""
    assert "give either --out FOLDER or --check" in mint(SERIALS[0], *options)[2]


def test_check_needs_a_lossless_picture(mint, tmp_path):
    """A JPEG, a sheet and a bare serial number cannot be compared."""
    sheet = np.zeros((4, 6, 3), np.uint8)
    (tmp_path / "one.jpg").write_bytes(encode(sheet, SERIALS[:1], PictureFormat.JPEG))
    (tmp_path / "two.png").write_bytes(encode(sheet, SERIALS[:2], PictureFormat.PNG))
    for given in (tmp_path / "one.jpg", tmp_path / "two.png", SERIALS[0]):
        status, _, err = mint(given, "--check")
        assert status == 1
        assert "--check compares" in err
