"""Tests of the table, the JSON document and the page that describes them."""

import json
import re
from pathlib import Path

from imagemint.bench import report
from imagemint.bench.knee import Bound
from imagemint.bench.server_metrics import ServerMetrics

PAGE = (Path(__file__).parents[4] / "docs/performance.md").read_text()
OPEN_KEYS = {"settings", "shed", "failed", "batches", "ask", "machine"}


def list_keys(value, parent=""):
    """Returns every key of a document except in objects whose keys are data."""
    if isinstance(value, list):
        return set().union(*(list_keys(each, parent) for each in value))
    if not isinstance(value, dict) or parent in OPEN_KEYS:
        return set()
    return set(value).union(*(list_keys(each, name) for name, each in value.items()))


def test_page_describes_every_key(make_point):
    """The page has every key of a complete document and the schema."""
    point = make_point(100.0, 5.0, rate=100.0)
    aborted = make_point(10.0, 5.0, concurrency=2)
    point.__dict__["server"] = ServerMetrics({"1.0": 3}, 0.5)
    made = report.Report({}, [point, aborted], Bound(5.0), point, aborted).to_document()
    described = set(re.findall(r"`(\w+)`", PAGE.split("### The JSON")[1].split("###")[0]))
    assert list_keys(json.loads(json.dumps(made))) <= described
    assert f"`{report.SCHEMA}`" in PAGE


def test_columns_are_aligned(make_point):
    """Every row ends at the same column as the head, or before it."""
    head = report.format_head()
    lines = list(report.format_rows(make_point(123.4, 5.0, rate=125.0)))
    assert len(lines[0]) == len(head)
    assert lines[0].split()[:4] == ["rate", "125", "125.0", "123.4"]


def test_page_describes_every_column():
    """The page docs/performance.md has every column of the table."""
    told = PAGE.split("### Closed and open loop")[0]
    for name in ("offered/s", "images/s", "calls/s", "shed", "failed", "client ms/call", "busy"):
        assert f"`{name}`" in told
        assert name in report.format_head()
