"""Tests of imagemint.training.datasets: readers, errors and the download."""

import gzip
import hashlib
import io
import json
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from imagemint.training import datasets
from imagemint.training.datasets import (
    LabelledImages,
    load_dataset,
    parse_idx,
    parse_image_parquet,
    registry,
)
from imagemint.training.errors import DatasetError

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


def make_idx(array, kind=0x08):
    """Returns an uncompressed IDX file."""
    header = bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def make_images(count):
    """Returns this many different images of 28x28 pixels."""
    return np.arange(count * 28 * 28).reshape(count, 28, 28) % 251


@pytest.fixture
def published(monkeypatch, tmp_path):
    """A function that registers two files as MNIST's training set and returns them compressed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def publish(images, labels):
        contents = {IMAGES: images, LABELS: labels}
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        monkeypatch.setattr(registry, "_MNIST_SHA256", digests)
        return {name: gzip.compress(content) for name, content in contents.items()}

    return publish


@pytest.fixture
def folder(published, tmp_path):
    """A function that writes such files into a data folder and returns the folder."""

    def lay(images, labels):
        (tmp_path / "data" / "mnist").mkdir(parents=True)
        for name, content in published(images, labels).items():
            (tmp_path / "data" / "mnist" / name).write_bytes(content)
        return tmp_path / "data"

    return lay


# --- IDX ----------------------------------------------------------------------------------------


def test_idx_is_read(folder):
    """Images are uint8 [N, H, W, 1] and labels int64, in the order of the files."""
    data = load_dataset(
        "mnist", "train", folder(make_idx(make_images(3)), make_idx(np.array([7, 0, 9])))
    )
    assert (data.name, len(data)) == ("mnist/train", 3)
    assert (data.images.dtype, data.labels.dtype) == (np.uint8, np.int64)
    assert data.images.flags.writeable
    assert np.array_equal(data.images[..., 0], make_images(3))
    assert data.labels.tolist() == [7, 0, 9]
    assert data.class_labels == tuple("0123456789")
    assert (
        data.sha256
        == hashlib.sha256(make_idx(make_images(3)) + make_idx(np.array([7, 0, 9]))).hexdigest()
    )


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "not an IDX file"),
        (b"PK\3\4 something else", "not an IDX file"),
        (make_idx(make_images(1), kind=0x0D), "not an IDX file of unsigned bytes"),
        (make_idx(make_images(1))[:6], "ends within its header"),
        (
            make_idx(make_images(2))[:-1],
            r"declares shape \(2, 28, 28\), but the content has 1567 bytes",
        ),
        (make_idx(make_images(2)) + b"\0", "content has 1569 bytes"),
        (b"\0\0\x08\x04" + b"\xff" * 16, "content has 0 bytes"),
    ],
)
def test_bad_idx_is_refused(content, text):
    """The error names a file that is not exactly an IDX file of bytes."""
    with pytest.raises(DatasetError, match=f"some file: .*{text}"):
        parse_idx(content, "some file")


@pytest.mark.parametrize(
    ("images", "labels", "text"),
    [
        (make_images(3), np.zeros(2), r"3 images with labels of shape \[2\]"),
        (make_images(2), np.zeros((2, 1)), r"2 images with labels of shape \[2, 1\]"),
        (np.zeros(4), np.zeros(4), r"images are uint8 \[4, 1\], should be"),
        (make_images(0), np.zeros(0), "N at least 1"),
        (make_images(3), np.array([1, 10, 2]), "row 1: label 10 is not in 0 to 9"),
    ],
)
def test_mismatched_files_are_refused(folder, images, labels, text):
    """Images and labels must have the same length and valid shapes."""
    with pytest.raises(DatasetError, match=f"mnist/train.*{text}"):
        load_dataset("mnist", "train", folder(make_idx(images), make_idx(labels)))


def test_negative_label_is_refused():
    """A label below 0 would silently select the last class."""
    with pytest.raises(DatasetError, match="toy, row 0: label -1"):
        LabelledImages("toy", np.zeros((1, 2, 2, 1), np.uint8), np.array([-1]), ("a",), "")


def test_wrong_checksum_is_refused(folder, monkeypatch):
    """The error has both digests and the name of the file."""
    data = folder(make_idx(make_images(1)), make_idx(np.zeros(1)))
    monkeypatch.setattr(registry, "_MNIST_SHA256", {IMAGES: "ab" * 32, LABELS: "ab" * 32})
    found = hashlib.sha256(make_idx(make_images(1))).hexdigest()
    with pytest.raises(
        DatasetError, match=rf"{IMAGES}: SHA-256 .* {found}, published is (ab){{32}}"
    ):
        load_dataset("mnist", "train", data)


def test_checksum_covers_the_uncompressed_content(folder):
    """A file that is compressed differently, or not at all, is as valid as the published one."""
    data = folder(make_idx(make_images(1)), make_idx(np.zeros(1)))
    (data / "mnist" / IMAGES).write_bytes(gzip.compress(make_idx(make_images(1)), 1, mtime=5))
    (data / "mnist" / LABELS).write_bytes(make_idx(np.zeros(1)))
    assert len(load_dataset("mnist", "train", data)) == 1


@pytest.mark.parametrize("cut", [slice(0, 100), slice(0, -4), slice(0, 5)])
def test_truncated_gzip_is_refused(folder, cut):
    """The error names a gzip file that ends early."""
    data = folder(make_idx(make_images(2)), make_idx(np.zeros(2)))
    path = data / "mnist" / IMAGES
    path.write_bytes(path.read_bytes()[cut])
    with pytest.raises(DatasetError, match=f"{IMAGES}: not a whole gzip file"):
        load_dataset("mnist", "train", data)


def test_unknown_dataset_is_refused():
    """The error lists the known data sets."""
    with pytest.raises(DatasetError, match="known are avatars64, cifar10, emoji64, mnist"):
        load_dataset("imagenet", "train")


# --- image Parquet ------------------------------------------------------------------------------


def make_png(array):
    """Returns a PNG of an array of levels."""
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def make_gray_png(level, size=4):
    """Returns a PNG of one gray level."""
    return make_png(np.full((size, size), level, np.uint8))


def make_parquet(encoded, labels, metadata=True, **columns):
    """Returns a Parquet file in the Hugging Face image layout.

    Keywords replace columns or, with None, remove them.
    """
    table = {
        "image": pa.array(
            [{"bytes": each, "path": None} for each in encoded],
            pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        ),
        "label": pa.array(labels, pa.int64()),
    }
    table = pa.table({name: c for name, c in (table | columns).items() if c is not None})
    if metadata:
        info = {"info": {"features": {"label": {"names": ["cat", "dog"]}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


def test_gray_parquet_is_read():
    """Gray images stay gray, and class names come from the schema."""
    content = make_parquet([make_gray_png(5), make_gray_png(250)], [1, 0])
    data = parse_image_parquet(content, "pets/train")
    assert data.images.shape == (2, 4, 4, 1)
    assert data.images[:, 0, 0, 0].tolist() == [5, 250]
    assert data.labels.tolist() == [1, 0]
    assert data.class_labels == ("cat", "dog")
    assert data.sha256 == hashlib.sha256(content).hexdigest()


def test_colour_parquet_is_read():
    """One image in colour makes all images RGB."""
    red = make_png(np.full((4, 4, 3), (200, 10, 20), np.uint8))
    data = parse_image_parquet(make_parquet([make_gray_png(5), red], [0, 1]), "pets/train")
    assert data.images.shape == (2, 4, 4, 3)
    assert data.images[:, 3, 3].tolist() == [[5, 5, 5], [200, 10, 20]]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"no parquet", "not a Parquet file in the image layout"),
        (
            make_parquet([make_gray_png(1)], [0], image=None),
            "no column of images among label; --image-column names it",
        ),
        (
            make_parquet([make_gray_png(1)], [0], image=pa.array([7])),
            "column image holds int64, should hold encoded",
        ),
        (
            make_parquet([make_gray_png(1)], [0], image=pa.array([b"bare"])),
            "row 0: unreadable picture",
        ),
        (
            make_parquet([make_gray_png(1)], [0], label=pa.array(["cow"])),
            "row 0: class 'cow' is none of the 2 classes cat, dog",
        ),
        (
            make_parquet([make_gray_png(1)], [0], label=pa.array([0.5])),
            "column label holds 0.5, should hold one text or integer",
        ),
        (make_parquet([make_gray_png(1), b"no picture"], [0, 0]), "row 1: unreadable picture"),
        (
            make_parquet([make_gray_png(1), make_gray_png(1)[:-30]], [0, 0]),
            "row 1: unreadable picture",
        ),
        (
            make_parquet([make_gray_png(1), make_gray_png(1)[:40] + b"\0" * 20], [0, 0]),
            "row 1: unreadable picture",
        ),
        (make_parquet([None, make_gray_png(1)], [0, 0]), "row 0: no picture"),
        (
            make_parquet([make_gray_png(1), make_gray_png(1, size=5)], [0, 1]),
            r"row 1: picture of \(5, 5\) pixels",
        ),
        (make_parquet([make_gray_png(1)] * 3, [0, 1, 2]), "row 2: label 2 is not in 0 to 1"),
        (make_parquet([make_gray_png(1)] * 2, [0, None]), "row 1: no label"),
        (make_parquet([], []), "no picture"),
    ],
)
def test_bad_parquet_is_refused(content, text):
    """The error says how the file differs from the layout, with the row if there is one."""
    with pytest.raises(DatasetError, match=f"pets/train.*{text}"):
        parse_image_parquet(content, "pets/train")


def test_dataset_without_download_is_refused(tmp_path, monkeypatch):
    """The error lists the locations that were tried."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    places = f"{tmp_path}/data/emoji64/.*, {tmp_path}/cache/imagemint/data/emoji64/.*"
    ways = "--data or IMAGEMINT_DATA, in Python with data="
    with pytest.raises(DatasetError, match=f"tried {places}; .*{ways}"):
        load_dataset("emoji64", "train", tmp_path / "data")


# --- download -----------------------------------------------------------------------------------


class _Publisher(BaseHTTPRequestHandler):
    """A server of `files` that truncates those in `cut` and records the requests."""

    files: dict[str, bytes]
    cut: set[str]
    asked: list[str]

    def do_GET(self):  # name of the base class
        name = self.path.rsplit("/", 1)[-1]
        self.asked.append(name)
        content = self.files.get(name)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if name in self.cut else content)

    def log_message(self, *_):
        pass


@pytest.fixture
def publisher(monkeypatch):
    """A web server on loopback that replaces the publisher of MNIST."""
    handler = type("Handler", (_Publisher,), {"files": {}, "cut": set(), "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(registry, "_MNIST_URL", f"http://127.0.0.1:{server.server_port}/mnist/")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield handler
        server.shutdown()
        thread.join()


def list_cache(tmp_path):
    """Returns the names of all files in the cache, including hidden ones."""
    return sorted(p.name for p in (tmp_path / "cache").rglob("*") if p.is_file())


def test_download_is_cached(publisher, published, tmp_path):
    """Missing files are downloaded once, byte for byte, and read from the cache afterwards."""
    publisher.files = published(make_idx(make_images(2)), make_idx(np.array([3, 4])))
    first = load_dataset("mnist", "train", tmp_path / "empty")
    again = load_dataset("mnist", "train")
    assert publisher.asked == [IMAGES, LABELS]
    assert list_cache(tmp_path) == [IMAGES, LABELS]
    kept = datasets.find_cache_directory() / "mnist" / IMAGES
    assert kept.read_bytes() == publisher.files[IMAGES]
    assert np.array_equal(first.images, again.images)
    assert again.labels.tolist() == [3, 4]


def test_download_with_wrong_checksum_is_refused(publisher, published, tmp_path):
    """A download with another checksum than the published one is not cached."""
    files = published(make_idx(make_images(2)), make_idx(np.zeros(2)))
    publisher.files = files | {IMAGES: gzip.compress(make_idx(make_images(1)))}
    with pytest.raises(DatasetError, match=rf"http://.*{IMAGES}: SHA-256"):
        load_dataset("mnist", "train")
    assert list_cache(tmp_path) == []


def test_interrupted_download_leaves_no_file(publisher, published, tmp_path):
    """The error reports the lost connection, and no part of the file is kept."""
    publisher.files = published(make_idx(make_images(2)), make_idx(np.zeros(2)))
    publisher.cut = {IMAGES}
    with pytest.raises(DatasetError, match=rf"tried .*{IMAGES}, then http://.*IncompleteRead"):
        load_dataset("mnist", "train", tmp_path / "empty")
    assert list_cache(tmp_path) == []


def test_missing_download_lists_the_locations(publisher, published, tmp_path):
    """If the publisher lacks the file, the error lists every location that was tried."""
    published(make_idx(make_images(1)), make_idx(np.zeros(1)))
    with pytest.raises(DatasetError, match=rf"tried {tmp_path}/empty/.*cache.*, then http.*404"):
        load_dataset("mnist", "train", tmp_path / "empty")


def test_full_disk_leaves_no_file(publisher, published, tmp_path, monkeypatch):
    """A cache that cannot be written keeps no part of a file."""
    publisher.files = published(make_idx(make_images(1)), make_idx(np.zeros(1)))

    def replace(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", replace)
    with pytest.raises(OSError, match="No space left"):
        load_dataset("mnist", "train")
    assert list_cache(tmp_path) == []


# --- real data sets -----------------------------------------------------------------------------


@pytest.mark.data
def test_real_mnist_is_read(real_data):
    """MNIST has its published checksums, sizes and class counts."""
    train, test = (load_dataset("mnist", split, real_data) for split in ("train", "test"))
    assert train.images.shape == (60_000, 28, 28, 1)
    assert np.bincount(test.labels).tolist() == [
        *(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
    ]


@pytest.mark.data
def test_real_parquet_is_read(real_data):
    """The emoji test split has 340 colour images with class names."""
    data = load_dataset("emoji64", "test", real_data)
    assert data.images.shape == (340, 64, 64, 3)
    assert "Smileys & Emotion" in data.class_labels
