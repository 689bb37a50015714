"""What was served under which number, remembered alone or together."""

import os

import pytest

from imagemint.server.repository import ServedBytes


@pytest.fixture(params=["alone", "shared"])
def path(request, tmp_path):
    """Where it is remembered, if not in the process."""
    return tmp_path / "served" if request.param == "shared" else None


def test_last_bytes_of_a_number_are_known(path):
    """Each version of each model has its own; accepted changes take their place."""
    served = ServedBytes(path)
    assert served.known("tiny", 1) is None
    served.add("tiny", 1, "aa")
    served.add("tiny", 2, "bb")
    served.add("other", 1, "cc")
    assert served.add("tiny", 1, "dd") == "aa"
    assert served.add("tiny", 1, "dd", accept=True) == "dd"
    assert [served.known("tiny", 1), served.known("tiny", 2)] == ["dd", "bb"]
    assert served.known("other", 1) == "cc"
    assert served.known("other", 2) is None


def test_workers_know_what_others_served(tmp_path):
    """Those that are there already, and those that start later."""
    first, second = ServedBytes(tmp_path / "served"), ServedBytes(tmp_path / "served")
    first.add("tiny", 1, "aa")
    assert second.known("tiny", 1) == "aa"
    assert second.add("tiny", 1, "bb", accept=True) == "bb"
    assert first.known("tiny", 1) == "bb"
    assert ServedBytes(tmp_path / "served").known("tiny", 1) == "bb"


def test_first_worker_settles_the_bytes(tmp_path):
    """Of two that looked before either served, the second is told that it came too late."""
    first, second = ServedBytes(tmp_path / "served"), ServedBytes(tmp_path / "served")
    assert first.known("tiny", 1) is second.known("tiny", 1) is None
    assert first.add("tiny", 1, "aa") == "aa"
    assert second.add("tiny", 1, "bb") == "aa"
    assert first.known("tiny", 1) == "aa"


def test_half_a_line_is_not_left_behind(tmp_path, monkeypatch):
    """Where the disk is full nothing is remembered, and what was before is still read."""
    served = ServedBytes(tmp_path / "served")
    served.add("tiny", 1, "aa")
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:5]))
    with pytest.raises(OSError, match="No space left"):
        served.add("tiny", 2, "bb")
    monkeypatch.undo()
    for each in (served, ServedBytes(tmp_path / "served")):
        assert [each.known("tiny", 1), each.known("tiny", 2)] == ["aa", None]
    assert served.add("tiny", 2, "cc") == "cc"


def test_processes_without_a_file_know_their_own(path):
    """Nothing is shared that was not asked to be."""
    ServedBytes().add("tiny", 1, "aa")
    assert ServedBytes(path).known("tiny", 1) is None
