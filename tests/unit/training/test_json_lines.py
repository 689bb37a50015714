"""Tests of imagemint.training.json_lines: files that a power cut may have torn."""

import pytest

from imagemint.training.errors import DamagedLog
from imagemint.training.json_lines import read_json_lines

ROWS = b'{"images": 1}\n{"images": 2}\n'


def test_missing_file_has_no_rows(tmp_path):
    """A file that does not exist is like an empty one."""
    assert read_json_lines(tmp_path / "log.jsonl", "images") == []


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (b'{"images": 3, "lo', "line 3 at the end"),
        (b"\0" * 90, "line 3 at the end"),
        (b'{"images": 3, "lo\xff\n\n7\n', "line 3 to 5 at the end"),
        (b"3\n", "line 3 at the end"),
        (b'{"loss": 3}\n', "line 3 at the end"),
        (b"\n \n", ""),
    ],
    ids=["torn", "zeros", "several", "no object", "no key", "empty"],
)
def test_torn_end_is_dropped(tmp_path, caplog, end, told):
    """The rows before it are returned, and a warning shows the first line that is dropped."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(ROWS + end)
    assert read_json_lines(path, "images") == [{"images": 1}, {"images": 2}]
    assert [record.levelname for record in caplog.records] == (["WARNING"] if told else [])
    assert (f"{path}: {told}" in caplog.text) == bool(told)
    if told:
        assert repr(end.partition(b"\n")[0].decode(errors="replace"))[1:20] in caplog.text
        assert len(caplog.text) < 800


def test_broken_line_in_the_middle_is_an_error(tmp_path, caplog):
    """The error names the file and the first broken line."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"images": 1}\n\n{"images": 2\nx\n{"images": 3}\n{"im')
    with pytest.raises(DamagedLog, match=r"line 3: .* is not a row of JSON") as caught:
        read_json_lines(path, "images")
    assert f"{path}, line 3: '{{\"images\": 2' is not" in str(caught.value)
    assert caplog.records == []
