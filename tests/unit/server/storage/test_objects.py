"""Tests of object stores whose file systems describe objects in their own ways."""

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from imagemint.server.storage.errors import StoreError
from imagemint.server.storage.objects import ObjectStore


class AzureStore(MemoryFileSystem):
    """Objects in memory that are listed as by adlfs: with times, and without errors.

    Attributes:
        has_bucket: whether the bucket exists.
        details: what a listing says about the object, beside its size.
    """

    protocol = "azurelike"
    has_bucket = True
    details = ()

    def find(self, *_, **__):
        """Lists one object; nothing without a bucket."""
        listed = {"bucket/models/tiny/1/SHA256SUMS": {"size": 3, **dict(self.details)}}
        return listed if self.has_bucket else {}

    def exists(self, path, **_):
        """Whether the bucket exists."""
        return self.has_bucket

    @classmethod
    def _strip_protocol(cls, path):
        return path.removeprefix("azurelike://")


@pytest.fixture
def store(monkeypatch):
    """A store of `AzureStore`, whose attributes a test may set."""
    fsspec.register_implementation("azurelike", AzureStore, clobber=True)
    monkeypatch.setattr(AzureStore, "has_bucket", True)
    monkeypatch.setattr(AzureStore, "details", ())
    return ObjectStore("azurelike://bucket/models")


def find_stamp(store, **details):
    """Returns the stamp of the object with these details."""
    AzureStore.details = tuple(details.items())
    return store.list()["tiny/1"]["SHA256SUMS"].stamp


def test_reading_does_not_change_the_stamp(store):
    """Azure can record the time of the last access; only another version is another stamp."""
    first = find_stamp(store, etag="a", last_accessed_on=1)
    assert find_stamp(store, etag="a", last_accessed_on=2) == first
    assert find_stamp(store, etag="b", last_accessed_on=1) != first


def test_missing_bucket_is_no_empty_bucket(store, monkeypatch):
    """The error is lasting, although the listing gives none."""
    monkeypatch.setattr(AzureStore, "has_bucket", False)
    with pytest.raises(StoreError, match="cannot be listed: FileNotFoundError: bucket") as caught:
        store.list()
    assert caught.value.lasting
