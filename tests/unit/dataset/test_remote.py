"""Data sets in an object store: the same objects as files on a disk, resumable in the same way."""

import boto3
import pytest
from s3_server import BUCKET, s3_server

from imagemint.dataset.remote import RemoteFolder

# Of moto, botocore and aiohttp, which close their sockets late.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def read_objects(monkeypatch):
    """Runs an S3 server; returns a function that reads the objects under a prefix."""
    with s3_server(monkeypatch.setenv) as read:
        yield read


@pytest.mark.parametrize("format_name", ["parquet", "imagefolder"])
def test_s3_has_the_bytes_of_a_disk(make, contents, read_objects, tmp_path, format_name):
    """The objects are the files, and nothing else stays behind."""
    assert make(f"s3://{BUCKET}/one/set", format=format_name) == 0
    assert make(tmp_path / "set", format=format_name) == 0
    assert read_objects("one/set/") == contents(tmp_path / "set")


def test_interrupted_upload_continues(make, contents, read_objects, tmp_path, monkeypatch):
    """A run that ends between two uploads is continued, and finished shards are not made again."""
    published = []
    original = RemoteFolder.publish

    def fail(self, staged, name):
        if len(published) == 1:
            raise KeyboardInterrupt
        published.append(name)
        original(self, staged, name)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "publish", fail)
        assert make(f"s3://{BUCKET}/set") == 130
    assert any(name.startswith(".imagemint/done") for name in read_objects("set/"))
    again = []

    def count(self, staged, name):
        again.append(name)
        original(self, staged, name)

    monkeypatch.setattr(RemoteFolder, "publish", count)
    assert make(f"s3://{BUCKET}/set") == 0
    assert len(published) == 1
    assert len(again) == 2
    assert make(tmp_path / "set") == 0
    assert read_objects("set/") == contents(tmp_path / "set")


def test_foreign_object_is_kept(refusal, read_objects):
    """A prefix with somebody's objects gets no data set."""
    boto3.client("s3").put_object(Bucket=BUCKET, Key="set/notes.txt", Body=b"mine")
    assert "notes.txt" in refusal(f"s3://{BUCKET}/set")
    assert read_objects("set/") == {"notes.txt": b"mine"}


def test_missing_bucket_is_a_clear_error(refusal, read_objects):
    """The message names the address."""
    assert "s3://nowhere/set" in refusal("s3://nowhere/set")
