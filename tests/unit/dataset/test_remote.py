"""Tests of data sets in an object store: objects equal files on disk and can be resumed."""

import os

import boto3
import pytest
from s3_server import BUCKET, s3_server

from imagemint.dataset.remote import RemoteFolder

# moto, botocore and aiohttp close their sockets late
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def read_objects(monkeypatch):
    """A function that reads the objects under a prefix of an S3 server."""
    with s3_server(monkeypatch.setenv) as read:
        yield read


@pytest.mark.parametrize("format_name", ["parquet", "imagefolder"])
def test_objects_equal_the_files_of_a_disk(make, contents, read_objects, tmp_path, format_name):
    """The objects are the files, and no other object remains."""
    assert make(f"s3://{BUCKET}/one/set", format=format_name) == 0
    assert make(tmp_path / "set", format=format_name) == 0
    assert read_objects("one/set/") == contents(tmp_path / "set")


def test_interrupted_upload_continues(make, contents, read_objects, tmp_path, monkeypatch):
    """A run that ends between two uploads continues without repeating finished shards."""
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
    """A prefix with other objects is not used for a data set."""
    boto3.client("s3").put_object(Bucket=BUCKET, Key="set/notes.txt", Body=b"mine")
    assert "notes.txt" in refusal(f"s3://{BUCKET}/set")
    assert read_objects("set/") == {"notes.txt": b"mine"}


def test_missing_bucket_is_an_error(refusal, read_objects):
    """The error has the address."""
    assert "s3://nowhere/set" in refusal("s3://nowhere/set")


def test_unreachable_store_is_an_error(refusal, read_objects, monkeypatch):
    """The libraries of stores have exceptions of their own, which end in one line, too."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    said = refusal("s3://bucket/set", status=os.EX_TEMPFAIL)
    assert "s3://bucket/set: EndpointConnectionError: Could not connect" in said
    assert "Finished shards are kept. Run the same command again to continue" in said


@pytest.mark.parametrize("place", ["nosuch://bucket/set", "S3://bucket/set"])
def test_unknown_address_is_an_error(refusal, place):
    """A misspelt protocol is no folder on this machine."""
    assert f"{place}: Protocol not known" in refusal(place)
