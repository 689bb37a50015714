"""What was served under which number, remembered alone or together."""

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
    served.add("tiny", 1, "dd")
    assert [served.known("tiny", 1), served.known("tiny", 2)] == ["dd", "bb"]
    assert served.known("other", 1) == "cc"
    assert served.known("other", 2) is None


def test_workers_know_what_others_served(tmp_path):
    """Those that are there already, and those that start later."""
    first, second = ServedBytes(tmp_path / "served"), ServedBytes(tmp_path / "served")
    first.add("tiny", 1, "aa")
    assert second.known("tiny", 1) == "aa"
    second.add("tiny", 1, "bb")
    assert first.known("tiny", 1) == "bb"
    assert ServedBytes(tmp_path / "served").known("tiny", 1) == "bb"


def test_processes_without_a_file_know_their_own(path):
    """Nothing is shared that was not asked to be."""
    ServedBytes().add("tiny", 1, "aa")
    assert ServedBytes(path).known("tiny", 1) is None
