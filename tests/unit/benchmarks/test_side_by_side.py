"""The record of a comparison, and its tables."""

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
    """Two rounds of us, and a peer that did not come up."""
    visits = [
        Visit(1.0, 200_000_000, 1, {"load": replace(SAMPLE, images_per_s=rate)})
        for rate in (400.0, 600.0)
    ]
    servers = {
        "imagemint": Entry("imagemint", "gRPC", {"imagemint": "1.2"}, 387_000_000, visits),
        "other": Entry("Other", "HTTP", {"other": "3"}, 5_000_000, [], ["ended with status 1"]),
    }
    return Record("make bench", {"cores": 2}, "reference", 2.0, 2, ["load"], servers)


def test_table_has_medians_and_the_spread_of_the_share(record):
    """Of both rounds; a dash where there is nothing."""
    lines = render_tables(record).splitlines()
    assert "| imagemint | 500 | 0.50 (0.40 to 0.60) | 2.0 | 3.0 |" in lines
    assert "| Other | - | - | - | - |" in lines
    assert "| imagemint | 1.2 | gRPC | 1.0 | 200 | 1 | 387 |" in lines
    assert "| Other | 3 | HTTP | - | - | - | 5 |" in lines
    assert "- Other did not run: ended with status 1" in lines


def test_row_of_which_the_client_was_the_limit_is_marked(record):
    """Once is enough, and the mark is explained."""
    samples = record.servers["imagemint"].visits[1].samples
    samples["load"] = replace(SAMPLE, client_limit="busy")
    text = render_tables(record)
    assert "| imagemint† | 450 |" in text
    assert "† The client was the limit" in text


def test_unsteady_machine_is_noted(record):
    """Where the limit itself differs too much from row to row, and only there."""
    assert "R itself" not in render_tables(record)
    samples = record.servers["imagemint"].visits[0].samples
    samples["load"] = replace(SAMPLE, raw_images_per_s=300.0)
    assert "R itself varied from 300 to 1,000 images/s" in render_tables(record)


def test_failures_under_load_are_told(record):
    """Calls that failed, and rows that could not be measured."""
    visit = record.servers["imagemint"].visits[0]
    visit.samples["load"] = replace(SAMPLE, failed=3)
    visit.faults["stream"] = "no answers"
    text = render_tables(record)
    assert "- imagemint, load: 0 calls shed, 3 failed" in text
    assert "- imagemint, stream: no answers" in text


def test_record_is_read_as_it_was_written(record, tmp_path):
    """Every sample, and nothing of another schema."""
    record.write(tmp_path / "record.json")
    assert asdict(Record.read(tmp_path / "record.json")) == asdict(record)
    (tmp_path / "record.json").write_text('{"schema": "imagemint.side-by-side/0"}')
    with pytest.raises(ValueError, match="not a record"):
        Record.read(tmp_path / "record.json")


def test_page_keeps_what_surrounds_the_tables(record):
    """Written twice, it is the same; without the marks, there is no place."""
    text = replace_tables(f"before\n{BEGIN}\nold\n{END}\nafter\n", record)
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert replace_tables(text, record) == text
    with pytest.raises(ValueError, match="markers"):
        replace_tables("nothing", record)


def test_reason_keeps_nothing_of_the_machine():
    """Its end, on one line, without folders and addresses."""
    reason = 'File "/home/me/x/server.py", line 3\n  see https://index.example/simple: gone'
    assert strip_local_details(reason) == 'File "server.py", line 3 see (address) gone'
    assert strip_local_details("no " * 200).startswith("... ")
    assert len(strip_local_details("no " * 200)) < 310


def test_peers_are_chosen_by_name():
    """All, none, or some in the order given; an unknown one is named."""
    assert serving.parse_peers("all") == list(PEERS.values())
    assert serving.parse_peers("none") == []
    assert [each.name for each in serving.parse_peers("ray,kserve")] == ["ray", "kserve"]
    with pytest.raises(argparse.ArgumentTypeError, match="no peer someone"):
        serving.parse_peers("ray,someone")


def test_every_peer_has_its_folder():
    """A program or settings, and requirements, of each."""
    assert set(PEERS) == set(environments.PEERS)
    for name in PEERS:
        assert (environments.FOLDER / name / "server.py").exists()
