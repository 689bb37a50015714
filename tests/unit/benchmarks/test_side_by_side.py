"""Tests of the record of a comparison and its tables."""

import argparse
from dataclasses import asdict, replace

import pytest
import serving
from peers import environments
from peers.servers import PEERS
from side_by_side import (
    BEGIN,
    END,
    Entry,
    Record,
    Sample,
    Visit,
    render_tables,
    replace_tables,
    strip_local_details,
)

SAMPLE = Sample(500.0, 1000.0, "2 x 1 threads", 1.5, 2.0, 3.0, None, 0, 0, 0.3, None)


@pytest.fixture
def record():
    """A record of two rounds of imagemint and of a peer that failed to start."""
    visits = [
        Visit(1.0, 200_000_000, 1, {"load": replace(SAMPLE, images_per_s=rate)})
        for rate in (400.0, 600.0)
    ]
    servers = {
        "imagemint": Entry("imagemint", "gRPC", {"imagemint": "1.2"}, 387_000_000, visits),
        "other": Entry("Other", "HTTP", {"other": "3"}, 5_000_000, [], ["ended with status 1"]),
    }
    return Record("make bench", {"cores": 2}, "reference", 2.0, 2, ["load"], servers)


def test_table_has_medians_and_ranges(record):
    """A row has the median of both rounds and the range of its share, or a dash."""
    lines = render_tables(record).splitlines()
    assert "| imagemint | 500 | 0.50 (0.40 to 0.60) | 2.0 | 3.0 |" in lines
    assert "| Other | - | - | - | - |" in lines
    assert "| imagemint | 1.2 | gRPC | 1.0 | 200 | 1 | 387 |" in lines
    assert "| Other | 3 | HTTP | - | - | - | 5 |" in lines
    assert "- Other did not run: ended with status 1" in lines


def test_row_limited_by_the_client_is_marked(record):
    """One limited sample is enough, and the mark is explained."""
    samples = record.servers["imagemint"].visits[1].samples
    samples["load"] = replace(SAMPLE, client_limit="busy")
    text = render_tables(record)
    assert "| imagemint† | 450 |" in text
    assert "† The client was the limit" in text


def test_unsteady_machine_is_noted(record):
    """There is a note only if the limit R varies too much between rows."""
    assert "R itself" not in render_tables(record)
    samples = record.servers["imagemint"].visits[0].samples
    samples["load"] = replace(SAMPLE, raw_images_per_s=300.0)
    assert "R itself varied from 300 to 1,000 images/s" in render_tables(record)


def test_failures_under_load_are_noted(record):
    """Failed calls and rows without a measurement are listed."""
    visit = record.servers["imagemint"].visits[0]
    visit.samples["load"] = replace(SAMPLE, failed=3)
    visit.faults["stream"] = "no answers"
    text = render_tables(record)
    assert "- imagemint, load: 0 calls shed, 3 failed" in text
    assert "- imagemint, stream: no answers" in text


def test_record_can_be_read(record, tmp_path):
    """Every sample is read, and another schema is refused."""
    record.write(tmp_path / "record.json")
    assert asdict(Record.read(tmp_path / "record.json")) == asdict(record)
    (tmp_path / "record.json").write_text('{"schema": "imagemint.side-by-side/0"}')
    with pytest.raises(ValueError, match="not a record"):
        Record.read(tmp_path / "record.json")


def test_page_keeps_its_other_text(record):
    """A second replacement changes nothing. Missing markers are an error."""
    text = replace_tables(f"before\n{BEGIN}\nold\n{END}\nafter\n", record)
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert replace_tables(text, record) == text
    with pytest.raises(ValueError, match="markers"):
        replace_tables("nothing", record)


def test_reason_contains_no_local_details():
    """The reason is one line without folders and addresses."""
    reason = 'File "/home/me/x/server.py", line 3\n  see https://index.example/simple: gone'
    assert strip_local_details(reason) == 'File "server.py", line 3 see (address) gone'
    assert strip_local_details("no " * 200).startswith("... ")
    assert len(strip_local_details("no " * 200)) < 310


def test_peers_are_selected_by_name():
    """All, none or some peers in the given order. An unknown one is an error."""
    assert serving.parse_peers("all") == list(PEERS.values())
    assert serving.parse_peers("none") == []
    assert [peer.name for peer in serving.parse_peers("ray,kserve")] == ["ray", "kserve"]
    with pytest.raises(argparse.ArgumentTypeError, match="no peer someone"):
        serving.parse_peers("ray,someone")


def test_every_peer_has_its_folder():
    """Each peer has a program or settings, and requirements."""
    assert set(PEERS) == set(environments.PEERS)
    for name in PEERS:
        assert (environments.FOLDER / name / "server.py").exists()
