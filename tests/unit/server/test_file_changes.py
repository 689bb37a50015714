"""Tests of imagemint.server.file_changes: which files are read, and when a change is detected."""

import os

import pytest

from imagemint.server.file_changes import WatchedFiles, read_file


@pytest.fixture
def path(tmp_path):
    """A file with the content `old`."""
    path = tmp_path / "secret"
    path.write_bytes(b"old")
    return path


@pytest.mark.parametrize("kind", ["pipe", "device", "directory"])
def test_only_regular_files_are_read(tmp_path, kind):
    """A pipe without a writer, an endless device and a directory raise an error at once."""
    path = tmp_path / "odd"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case _:
            path.mkdir()
    with pytest.raises(OSError, match="not a regular file"):
        read_file(path)


def test_large_file_is_refused(path):
    """A file of exactly the limit is read, and one byte more is refused."""
    assert read_file(path, most_bytes=3) == b"old"
    with pytest.raises(OSError, match="larger than 2 bytes"):
        read_file(path, most_bytes=2)


def test_change_is_returned_once(path):
    """The first check returns the content, and later ones only changes."""
    files = WatchedFiles([path])
    assert files.read_changed() == [b"old"]
    assert files.read_changed() is None
    path.write_bytes(b"new")
    assert files.read_changed() == [b"new"]
    assert files.read_changed() is None


def test_change_after_a_failed_read_is_returned(path, tmp_path):
    """A file that cannot be read is read later, even if it has not changed since."""
    files = WatchedFiles([path])
    files.read_changed()
    hidden = tmp_path / "hidden"
    hidden.write_bytes(b"new")
    os.utime(hidden, (1, 1))
    path.unlink()
    path.symlink_to(hidden)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", _make_failing(os.open))
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output"):
                files.read_changed()
    assert files.read_changed() == [b"new"]


def _make_failing(real):
    def fail(path, flags, *more, **others):
        raise OSError(5, "Input/output error", str(path))

    return fail


def test_rewrite_with_equal_metadata_is_returned(path):
    """Two writes may leave equal metadata. The content then shows the change."""
    files = WatchedFiles([path])
    files.read_changed()
    status = path.stat()
    path.write_bytes(b"new")
    with pytest.MonkeyPatch.context() as patch:
        real = type(path).stat
        # The file system's clock stands still: the metadata are those of the first write.
        patch.setattr(type(path), "stat", lambda self, **o: status if self == path else real(self))
        assert files.read_changed() == [b"new"]


@pytest.fixture
def _use_metadata_only(monkeypatch):
    """Files count as settled, so that only their metadata show a change."""
    monkeypatch.setattr("imagemint.server.file_changes._SETTLED_S", -1.0)


@pytest.mark.usefixtures("_use_metadata_only")
def test_swapped_directory_link_is_a_change(tmp_path):
    """Kubernetes mounts secrets as links through `..data` and replaces that link."""
    for name in ("one", "two"):
        (tmp_path / f"..{name}").mkdir()
        (tmp_path / f"..{name}/keys").write_text(name)
    (tmp_path / "..data").symlink_to("..one")
    (tmp_path / "keys").symlink_to("..data/keys")
    files = WatchedFiles([tmp_path / "keys"])
    assert files.read_changed() == [b"one"]
    assert files.read_changed() is None
    (tmp_path / "..tmp").symlink_to("..two")
    (tmp_path / "..tmp").replace(tmp_path / "..data")
    assert files.read_changed() == [b"two"]


@pytest.mark.usefixtures("_use_metadata_only")
def test_replaced_file_link_is_a_change(tmp_path):
    """The path is a link that is replaced by one to another file of the same size."""
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (1, 1))
    path = tmp_path / "keys"
    path.symlink_to("one")
    files = WatchedFiles([path])
    assert files.read_changed() == [b"one"]
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").replace(path)
    assert files.read_changed() == [b"two"]
