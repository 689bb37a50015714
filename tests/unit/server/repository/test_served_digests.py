"""Tests of the digests that were served, kept in memory or in a shared log."""

import os

import pytest

from imagemint.server.repository import ServedDigests, SharedLog


@pytest.fixture(params=["alone", "shared"])
def log(request, tmp_path):
    """The log of the digests, or None for memory only."""
    return SharedLog(tmp_path / "log") if request.param == "shared" else None


def test_last_digest_of_a_version_is_known(log):
    """Each version of each model has its own digest, which an accepted change replaces."""
    served = ServedDigests(log)
    assert served.find_digest("tiny", 1) is None
    served.add("tiny", 1, "aa")
    served.add("tiny", 2, "bb")
    served.add("other", 1, "cc")
    assert served.add("tiny", 1, "dd") == "aa"
    assert served.add("tiny", 1, "dd", accept=True) == "dd"
    assert [served.find_digest("tiny", 1), served.find_digest("tiny", 2)] == ["dd", "bb"]
    assert served.find_digest("other", 1) == "cc"
    assert served.find_digest("other", 2) is None


def test_workers_share_their_digests(tmp_path):
    """Running workers and later ones know the digests."""
    first, second = (
        ServedDigests(SharedLog(tmp_path / "log")),
        ServedDigests(SharedLog(tmp_path / "log")),
    )
    first.add("tiny", 1, "aa")
    assert second.find_digest("tiny", 1) == "aa"
    assert second.add("tiny", 1, "bb", accept=True) == "bb"
    assert first.find_digest("tiny", 1) == "bb"
    assert ServedDigests(SharedLog(tmp_path / "log")).find_digest("tiny", 1) == "bb"


def test_first_worker_sets_the_digest(tmp_path):
    """If two workers load a version at once, the second gets the digest of the first."""
    first, second = (
        ServedDigests(SharedLog(tmp_path / "log")),
        ServedDigests(SharedLog(tmp_path / "log")),
    )
    assert first.find_digest("tiny", 1) is second.find_digest("tiny", 1) is None
    assert first.add("tiny", 1, "aa") == "aa"
    assert second.add("tiny", 1, "bb") == "aa"
    assert first.find_digest("tiny", 1) == "aa"


def test_failed_write_is_undone(tmp_path, monkeypatch):
    """On a full disk nothing is recorded, and earlier digests can still be read."""
    served = ServedDigests(SharedLog(tmp_path / "log"))
    served.add("tiny", 1, "aa")
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:5]))
    with pytest.raises(OSError, match="No space left"):
        served.add("tiny", 2, "bb")
    monkeypatch.undo()
    for each in (served, ServedDigests(SharedLog(tmp_path / "log"))):
        assert [each.find_digest("tiny", 1), each.find_digest("tiny", 2)] == ["aa", None]
    assert served.add("tiny", 2, "cc") == "cc"


def test_digests_in_memory_are_not_shared(log):
    """Without a file, digests belong to one process."""
    ServedDigests().add("tiny", 1, "aa")
    assert ServedDigests(log).find_digest("tiny", 1) is None
