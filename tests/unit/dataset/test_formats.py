"""Tests that each format has every image once, with its class, serial and origin."""

import io
import json
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from imagemint.client import Serial
from imagemint.dataset.formats.imagefolder import name_folders
from imagemint.dataset.formats.webdataset import TarWriter
from imagemint.dataset.local import list_classes
from imagemint.dataset.making import read_plan
from imagemint.dataset.places import open_folder
from imagemint.engine.batch import Batch
from imagemint.engine.bundle import read_bundle
from imagemint.engine.onnx.backend import OnnxBackend
from imagemint.engine.sampling import draw_latents
from imagemint.pictures import TRAINED_ALGORITHMIC_MEDIA

COUNT = 50


@pytest.fixture(scope="module")
def pixels(models):
    """The images of `tiny` with seed 7 and classes in turn, computed by the engine."""
    backend = OnnxBackend(read_bundle(models / "tiny/1"), device="cpu", variant="reference")
    return backend.run(Batch(draw_latents(7, 0, COUNT, 8), np.arange(COUNT) % 10))


def check_picture(data, pixels, index):
    """Checks the pixels, serial and source type of a PNG file."""
    picture = Image.open(io.BytesIO(data))
    assert np.array_equal(np.asarray(picture), pixels[index][..., 0])
    assert picture.text["imagemint:serial"] == f"tiny@1/7/{index}?class={index % 10}"
    assert TRAINED_ALGORITHMIC_MEDIA in picture.text["XML:com.adobe.xmp"]


def test_npz_has_pixels_and_serials(make, tmp_path, pixels):
    """The shards together have the images in order, with classes, indices and serials."""
    assert make(tmp_path / "set") == 0
    shards = [np.load(path) for path in sorted((tmp_path / "set").glob("*.npz"))]
    assert [len(shard["image"]) for shard in shards] == [20, 20, 10]
    assert np.array_equal(np.concatenate([shard["image"] for shard in shards]), pixels)
    assert np.concatenate([shard["index"] for shard in shards]).tolist() == list(range(COUNT))
    assert np.concatenate([shard["class_id"] for shard in shards]).tolist() == list(range(10)) * 5
    serials = [Serial.parse(str(each)) for shard in shards for each in shard["serial"]]
    assert [serial.index for serial in serials] == list(range(COUNT))
    assert {str(shard["digital_source_type"]) for shard in shards} == {TRAINED_ALGORITHMIC_MEDIA}


def test_names_sort_as_text(make, tmp_path):
    """All indices of a data set have the same number of digits, so that readers keep the order."""
    assert make(tmp_path, count=2, shard_size=1, first_index=10**10 - 1) == 0
    assert [path.name for path in sorted(tmp_path.glob("*.npz"))] == [
        "train-09999999999-09999999999.npz",
        "train-10000000000-10000000000.npz",
    ]


def test_webdataset_has_pictures(make, tmp_path, pixels):
    """Each key is an index with a picture, a class and a description."""
    assert make(tmp_path / "set", format="webdataset") == 0
    found = {}
    for path in sorted((tmp_path / "set").glob("*.tar")):
        with tarfile.open(path) as tar:
            found |= {each.name: tar.extractfile(each).read() for each in tar}
    assert len(found) == 3 * COUNT
    for index in range(COUNT):
        check_picture(found[f"{index:09d}.png"], pixels, index)
        assert int(found[f"{index:09d}.cls"]) == index % 10
        said = json.loads(found[f"{index:09d}.json"])
        assert said["serial"] == f"tiny@1/7/{index}?class={index % 10}"
        assert said["digital_source_type"] == TRAINED_ALGORITHMIC_MEDIA


def test_parquet_has_the_layout_of_the_hub(make, tmp_path, pixels):
    """Shards have the hub's names, and rows have pictures, labels and serials."""
    assert make(tmp_path / "set", format="parquet") == 0
    paths = sorted((tmp_path / "set/data").iterdir())
    assert [path.name for path in paths] == [f"train-0000{n}-of-00003.parquet" for n in range(3)]
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    for index, row in enumerate(rows):
        check_picture(row["image"]["bytes"], pixels, index)
        assert (row["index"], row["label"]) == (index, index % 10)
    assert len(rows) == COUNT


def test_imagefolder_has_a_folder_for_each_class(make, tmp_path, pixels):
    """The folder of a picture is the label of its class."""
    assert make(tmp_path / "set", format="imagefolder") == 0
    for index in range(COUNT):
        path = tmp_path / f"set/train/{index % 10}/{index:09d}.png"
        check_picture(path.read_bytes(), pixels, index)
    assert len(list((tmp_path / "set/train").rglob("*.png"))) == COUNT


@pytest.mark.parametrize(("image_format", "suffix"), [("jpeg", "jpg"), ("webp", "webp")])
def test_jpeg_and_webp_have_serials(make, tmp_path, image_format, suffix):
    """Pictures may be JPEG or WebP files, which also contain the serial."""
    assert make(tmp_path / "set", format="imagefolder", image_format=image_format) == 0
    (path,) = (tmp_path / "set/train/3").glob(f"*13.{suffix}")
    assert b"tiny@1/7/13?class=3" in path.read_bytes()


@pytest.mark.parametrize("format_name", ["webdataset", "parquet", "imagefolder", "npz"])
def test_model_without_classes_gives_no_labels(make, tmp_path, format_name):
    """A model without classes gives data sets without labels."""
    assert make(tmp_path / "set", model="plain", classes=None, format=format_name) == 0
    assert (tmp_path / "set/SHA256SUMS").exists()


def test_captions_are_written_with_the_pictures(make, tmp_path):
    """Each image has a drawn caption, which is also in the serial."""
    settings = {"model": "told", "classes": None, "captions": "examples"}
    assert make(tmp_path / "tar", format="webdataset", **settings) == 0
    assert make(tmp_path / "table", format="parquet", **settings) == 0
    rows = [
        row
        for path in sorted((tmp_path / "table/data").iterdir())
        for row in pq.read_table(path).to_pylist()
    ]
    with tarfile.open(next((tmp_path / "tar").glob("*000-*.tar"))) as tar:
        first = tar.extractfile("000000000.txt").read().decode()
    assert first == rows[0]["text"]
    assert all(Serial.parse(row["serial"]).caption == row["text"] for row in rows)
    assert len({row["text"] for row in rows}) > 1


def test_class_rules_are_followed(make, tmp_path):
    """Classes are drawn by seed and index, or the listed ones are used in turn."""
    assert make(tmp_path / "random", classes=None) == 0
    assert make(tmp_path / "few", classes="3,7") == 0
    assert make(tmp_path / "one", classes="3", first_index=5) == 0
    plans = {
        name: read_plan(open_folder(str(tmp_path / name))) for name in ("random", "few", "one")
    }
    assert plans["random"].classes == "random"
    assert list_classes(plans["few"], 0, 4).tolist() == [3, 7, 3, 7]
    assert list_classes(plans["few"], 1, 4).tolist() == [7, 3, 7, 3]
    with np.load(tmp_path / "one/train-000000005-000000024.npz") as shard:
        assert set(shard["class_id"].tolist()) == {3}


@pytest.mark.parametrize("model", ["bounded", "styled"])
def test_truncation_changes_pixels_and_serials(make, tmp_path, model):
    """The serial has the truncation."""
    assert make(tmp_path / "plain", model=model) == 0
    assert make(tmp_path / "truncated", model=model, truncation=0.5) == 0
    name = "train-000000000-000000019.npz"
    with (
        np.load(tmp_path / "plain" / name) as plain,
        np.load(tmp_path / "truncated" / name) as other,
    ):
        assert not np.array_equal(plain["image"], other["image"])
        assert str(other["serial"][0]) == f"{model}@1/7/0?class=0&truncation=0.5"


def test_serial_has_the_variant(make, tmp_path):
    """The plan and each serial of a data set have its variant."""
    assert make(tmp_path / "set", variant="int8") == 0
    with np.load(tmp_path / "set/train-000000000-000000019.npz") as shard:
        assert str(shard["serial"][0]) == "tiny@1+int8/7/0?class=0"


def test_tar_equals_that_of_tarfile():
    """The fast header writer gives the bytes of the standard library."""
    samples = {
        "000000001": {"png": b"x" * 700, "cls": b"7", "json": b""},
        "000000002": {"png": bytes(512), "cls": b"10", "json": b"{}"},
    }
    ours, theirs = io.BytesIO(), io.BytesIO()
    writer = TarWriter(ours)
    with tarfile.open(fileobj=theirs, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in samples.items():
            writer.add(key, members)
            for suffix, data in members.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    writer.finish()
    assert ours.getvalue() == theirs.getvalue()


@pytest.mark.parametrize(
    ("labels", "folders"),
    [
        (("red hair", "blue-hair"), ("red hair", "blue-hair")),
        (("a/b", "c"), ("0", "1")),
        (("..", "c"), ("0", "1")),
        (("Cat", "cat"), ("0", "1")),
        ((), ()),
    ],
)
def test_folder_names_are_portable(labels, folders):
    """Labels that are no portable folder names are replaced by indices."""
    assert name_folders(labels) == folders
