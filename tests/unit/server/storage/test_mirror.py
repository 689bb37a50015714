"""Tests of a repository in an object store: listings, copies, and failures."""

import hashlib
import os
import shutil

import fsspec
import pytest
from switched_store import SwitchedStore, switched_store
from tiny_bundles import write_bundle

from imagemint.engine.errors import ModelNotFound
from imagemint.server.repository import Policies, State
from imagemint.server.repository.source import SourceLost
from imagemint.server.storage.errors import StoreError
from imagemint.server.storage.mirror import open_mirror

LONG_AGO = 1_000_000_000


class Objects:
    """A bucket with models, and the changes of a test."""

    def __init__(self, address, drafts):
        self.address = address
        self.files, self.root = fsspec.core.url_to_fs(address)
        self._drafts = drafts

    def draft(self, name, version, **options):
        """The directory of a bundle that is not uploaded yet."""
        shutil.rmtree(self._drafts, ignore_errors=True)
        return write_bundle(self._drafts, name, version, **options)

    def put(self, name, version, *, without=(), **options):
        """Uploads a bundle, or some files of it."""
        draft = self.draft(name, version, **options)
        for path in draft.iterdir():
            if path.name not in without:
                self.put_file(f"{name}/{version}/{path.name}", path.read_bytes())

    def put_file(self, key, content):
        """Uploads one object."""
        path = f"{self.root}/{key}"
        self.files.makedirs(path.rpartition("/")[0], exist_ok=True)
        self.files.pipe_file(path, content)

    def remove(self, key):
        """Deletes the objects below a key."""
        self.files.rm(f"{self.root}/{key}", recursive=True)


@pytest.fixture
def objects(tmp_path):
    """An empty bucket in memory."""
    with switched_store():
        yield Objects("switched://bucket/models", tmp_path / "drafts")


@pytest.fixture
def new_mirror(objects, tmp_path, metrics):
    """Returns a function that opens the bucket as another process would, with one cache for all."""

    def make(address=objects.address, **options):
        return open_mirror(address, tmp_path / "cache", metrics, max_bytes=2**20, **options)

    return make


def copied(metrics, outcome="ok"):
    """Returns the number of bundles that were copied, or were not."""
    labels = {"what": "bundle", "outcome": outcome}
    return metrics.registry.get_sample_value("imagemint_repository_syncs_total", labels) or 0


def bundles_in(mirror):
    """Returns the directories of the bundles in the cache."""
    return sorted((mirror.directory.parent / "bundles").iterdir())


def age(mirror):
    """Makes all copies appear unused for a long time."""
    for path in bundles_in(mirror):
        os.utime(path, (LONG_AGO, LONG_AGO))


@pytest.mark.parametrize("address", ["switched://bucket/models", "memory://models", "file://{}"])
def test_models_load_from_an_address(tmp_path, new_mirror, new_repository, address):
    """Any file system of fsspec works, and all files of a bundle are copied."""
    objects = Objects(address.format(tmp_path / "store"), tmp_path / "drafts")
    objects.put("tiny", 1)
    objects.put("tiny", 2, weights_seed=2)
    mirror = new_mirror(objects.address)
    served = new_repository(mirror).resolve("tiny")
    assert served.version == 2
    names = {path.name for path in served.bundle.directory.iterdir()}
    assert names == {path.name for path in objects.draft("tiny", 3).iterdir()}
    objects.remove("tiny")


@pytest.mark.parametrize("missing", ["SHA256SUMS", "model.onnx"])
def test_incomplete_upload_does_not_count(objects, new_mirror, new_repository, metrics, missing):
    """A bundle is not listed before its last file arrives, in any order; then it serves."""
    objects.put("tiny", 1)
    objects.put("tiny", 2, weights_seed=2, without=[missing])
    mirror = new_mirror()
    repository = new_repository(mirror)
    assert list(repository.get_model("tiny").versions) == [1]
    assert missing in mirror.list_present().ignored["tiny/2"]
    gauge = "imagemint_repository_incomplete_versions"
    assert metrics.registry.get_sample_value(gauge) == 1
    objects.put("tiny", 2, weights_seed=2)
    repository.refresh()
    assert repository.resolve("tiny").version == 2
    assert metrics.registry.get_sample_value(gauge) == 0


def test_file_with_another_digest_is_refused(objects, new_mirror, new_repository, metrics):
    """The version has the reason, nothing of it is loaded, and a correct upload repairs it."""
    objects.put("tiny", 1)
    content = objects.draft("tiny", 2, weights_seed=2).joinpath("model.onnx").read_bytes()
    objects.put("tiny", 2, weights_seed=2)
    objects.put_file("tiny/2/model.onnx", content[:1000])
    mirror = new_mirror()
    repository = new_repository(mirror)
    refused = repository.get_model("tiny").versions[2]
    assert refused.state is State.FAILED
    assert "model.onnx in the object store is not the file" in refused.reason
    assert repository.resolve("tiny").version == 1
    assert copied(metrics, "failed") == 1
    assert len(bundles_in(mirror)) == 1
    objects.put_file("tiny/2/model.onnx", content)
    repository.load_model("tiny")
    assert repository.resolve("tiny").version == 2


def test_lost_network_keeps_what_serves(objects, new_mirror, new_repository):
    """A scan fails, and the models continue to serve; a server that starts now uses the copies."""
    objects.put("tiny", 1)
    repository = new_repository(new_mirror())
    SwitchedStore.is_down = True
    with pytest.raises(SourceLost, match="switched://bucket/models cannot be listed: Conn"):
        repository.refresh()
    assert repository.resolve("tiny").version == 1
    other = new_repository(new_mirror())
    assert other.resolve("tiny").version == 1
    assert other.is_outdated
    SwitchedStore.is_down = False
    objects.put("tiny", 2, weights_seed=2)
    other.refresh()
    assert other.resolve("tiny").version == 2
    assert not other.is_outdated


def test_copy_that_fails_is_tried_again(objects, new_mirror, new_repository):
    """The reason has the delay, and neither address nor path."""
    objects.put("tiny", 1)
    mirror = new_mirror()
    mirror.scan()
    SwitchedStore.is_down = True
    repository = new_repository(mirror)
    version = repository.get_model("tiny").versions[1]
    assert version.state is State.FAILED
    assert "next attempt in 5 s" in version.reason
    assert "bucket" not in version.reason
    SwitchedStore.is_down = False
    repository.load_model("tiny")
    assert repository.resolve("tiny").version == 1


def test_interrupted_copy_continues(objects, new_mirror, new_repository):
    """Complete files are not read again, but the others are."""
    objects.put("tiny", 1)
    mirror = new_mirror()
    (directory,) = mirror.scan().versions["tiny"].values()
    partial = mirror.directory.parent / "partial" / directory.readlink().name
    partial.mkdir()
    draft = objects.draft("tiny", 1)
    shutil.copy(draft / "model.onnx", partial)
    (partial / "card.md").write_text("half")
    SwitchedStore.read = ()
    assert new_repository(mirror).resolve("tiny").version == 1
    assert "model.onnx" not in SwitchedStore.read
    for path in draft.iterdir():
        assert (directory / path.name).read_bytes() == path.read_bytes()


def test_processes_share_copies_and_listings(objects, new_mirror, new_repository, metrics):
    """The second process reads no object, and lists nothing while the listing is fresh."""
    objects.put("tiny", 1)
    new_repository(new_mirror())
    SwitchedStore.read = ()
    SwitchedStore.is_down = True  # a listing would fail
    repository = new_repository(new_mirror(), load=False)
    repository.refresh(max_age_s=3_600)
    assert repository.resolve("tiny").version == 1
    assert SwitchedStore.read == ()
    assert copied(metrics) == 1


def test_damaged_copy_is_copied_again(objects, new_mirror, new_repository, metrics):
    """A server that finds other bytes in its cache deletes them, and serves those of the store."""
    objects.put("tiny", 1)
    mirror = new_mirror()
    new_repository(mirror)
    (bundle,) = bundles_in(mirror)
    (bundle / "model.onnx").write_bytes(b"damaged")
    repository = new_repository(new_mirror())
    assert "its copy on this machine was damaged" in repository.get_model("tiny").versions[1].reason
    repository.load_model("tiny")
    assert repository.resolve("tiny").version == 1
    assert copied(metrics) == 2


def test_version_stays_immutable(objects, new_mirror, new_repository):
    """Another bundle under a served version number is refused, and the first one serves."""
    objects.put("tiny", 1)
    repository = new_repository(new_mirror())
    digest = repository.resolve("tiny").bundle.sha256
    objects.put("tiny", 1, weights_seed=5)
    repository.refresh()
    assert repository.resolve("tiny").bundle.sha256 == digest
    assert "is immutable" in repository.get_model("tiny").versions[1].reason


def test_removed_version_leaves_server_and_disk(objects, new_mirror, new_repository):
    """It is unloaded at the next scan, and its copy goes once nobody can be using it."""
    objects.put("tiny", 1)
    objects.put("tiny", 2, weights_seed=2)
    mirror = new_mirror()
    repository = new_repository(mirror)
    objects.remove("tiny/1")
    repository.refresh()
    repository._lifecycle._unloading.close()  # waits for the deletion
    assert list(repository.get_model("tiny").versions) == [2]
    assert len(bundles_in(mirror)) == 2
    age(mirror)
    repository.refresh()
    (left,) = bundles_in(mirror)
    assert left == repository.resolve("tiny").bundle.directory.resolve()


def test_only_wanted_versions_are_copied(objects, new_mirror, new_repository):
    """The policy selects versions; others are listed, and their copies are deleted."""
    for version in (1, 2, 3):
        objects.put("tiny", version, weights_seed=version)
    mirror = new_mirror()
    repository = new_repository(mirror, policies=Policies.parse("latest:1", {}, {}))
    assert len(bundles_in(mirror)) == 1
    states = {number: each.state for number, each in repository.get_model("tiny").versions.items()}
    assert states == {1: State.UNLOADED, 2: State.UNLOADED, 3: State.READY}


def test_models_are_copied_on_request(objects, new_mirror, new_repository):
    """With explicit control, a load copies that model; an unknown one is not found."""
    objects.put("tiny", 1)
    objects.put("other", 1)
    mirror = new_mirror()
    repository = new_repository(mirror, wanted=[])
    assert not bundles_in(mirror)
    repository.load_model("tiny")
    assert repository.resolve("tiny").version == 1
    assert len(bundles_in(mirror)) == 1
    with pytest.raises(ModelNotFound):
        repository.load_model("nobody")
    SwitchedStore.is_down = True
    with pytest.raises(SourceLost):
        repository.load_model("other")


def test_every_model_means_those_of_the_first_listing(objects, new_mirror, new_repository):
    """Copies in the cache from an earlier run do not count."""
    objects.put("tiny", 1)
    repository = new_repository(new_mirror(), wanted=["*"])
    assert repository.resolve("tiny").version == 1
    objects.put("late", 1)
    repository.refresh()
    assert repository.get_model("late").versions[1].state is State.UNLOADED


def test_emptied_store_is_no_order_to_unload(objects, new_mirror, new_repository):
    """As after a lost mount, the models continue to serve, unless the setting says otherwise."""
    objects.put("tiny", 1)
    repository = new_repository(new_mirror())
    objects.remove("tiny")
    with pytest.raises(SourceLost, match="contains no model any more"):
        repository.refresh()
    assert repository.resolve("tiny").version == 1
    obedient = new_repository(
        new_mirror(unload_when_empty=True), load=False, unload_when_empty=True
    )
    obedient.refresh()
    assert not obedient.models


def test_strange_keys_are_left_out(objects, new_mirror, new_repository, tmp_path):
    """Hidden directories, deeper objects and names that lead elsewhere are not versions."""
    objects.put("tiny", 1)
    sums = objects.draft("tiny", 1).joinpath("SHA256SUMS").read_bytes()
    for key in (".hidden/1", "tiny/01", "tiny/v2", "UPPER/1", "tiny/1/deep"):
        objects.put_file(f"{key}/SHA256SUMS", sums)
    bad = hashlib.sha256(b"x").hexdigest() + "  ../../../escaped\n"
    objects.put_file("evil/1/SHA256SUMS", bad.encode())
    mirror = new_mirror()
    repository = new_repository(mirror)
    assert {name: list(model.versions) for name, model in repository.models.items()} == {
        "tiny": [1]
    }
    assert mirror.list_present().ignored.keys() == {"UPPER/1", "evil/1", "tiny/01", "tiny/v2"}


def test_missing_package_is_named(new_mirror, monkeypatch):
    """The error names the package to install: the extra, or the package of the other store."""
    with pytest.raises(StoreError, match="gcsfs"):
        new_mirror("gs://bucket/models")
    with pytest.raises(StoreError, match="nonsense"):
        new_mirror("nonsense://bucket/models")
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(StoreError, match=r"pip install 'imagemint\[store\]'"):
        new_mirror()


def test_cache_that_cannot_be_written_is_named(objects, new_mirror):
    """Of a full disk, the operating system names no file, and the log would blame the store."""
    objects.put("tiny", 1)
    mirror = new_mirror()
    cache = mirror.directory.parent
    (cache / ".listing.json").mkdir()
    with pytest.raises(IsADirectoryError, match=f"its cache {cache} cannot be written: "):
        mirror.scan()


def test_cache_of_another_user_is_refused(new_mirror, monkeypatch):
    """The owner of the cache could change the served models."""
    new_mirror()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(PermissionError, match="belongs to another user"):
        new_mirror()
