"""The table, the JSON, and the page that describes it."""

import json
import re
from pathlib import Path

from imagemint.bench import report
from imagemint.bench.knee import Bound
from imagemint.bench.server_metrics import ServerMetrics

PAGE = (Path(__file__).parents[4] / "docs/performance.md").read_text()
OPEN_KEYS = {"settings", "shed", "failed", "batches", "ask", "machine"}


def keys(value, parent=""):
    """Every key of a document, but of the objects whose keys are data."""
    if isinstance(value, list):
        return set().union(*(keys(each, parent) for each in value))
    if not isinstance(value, dict) or parent in OPEN_KEYS:
        return set()
    return set(value).union(*(keys(each, name) for name, each in value.items()))


def test_page_names_every_key(make_point):
    """Of a document with everything in it; and the page names the schema of the code."""
    point = make_point(100.0, 5.0, rate=100.0)
    aborted = make_point(10.0, 5.0, concurrency=2)
    point.__dict__["server"] = ServerMetrics({"1.0": 3}, 0.5)
    made = report.Report({}, [point, aborted], Bound(5.0), point, aborted).document()
    described = set(re.findall(r"`(\w+)`", PAGE.split("### The JSON")[1].split("###")[0]))
    assert keys(json.loads(json.dumps(made))) <= described
    assert f"`{report.SCHEMA}`" in PAGE


def test_columns_are_aligned(make_point):
    """Every line of a point ends where the head does, or is shorter."""
    head = report.head()
    lines = list(report.rows(make_point(123.4, 5.0, rate=125.0)))
    assert len(lines[0]) == len(head)
    assert lines[0].split()[:4] == ["rate", "125", "125.0", "123.4"]


def test_page_names_every_column():
    """The table of docs/performance.md and the head of the table."""
    told = PAGE.split("### Closed and open loop")[0]
    for name in ("offered/s", "images/s", "calls/s", "shed", "failed", "client ms/call", "busy"):
        assert f"`{name}`" in told
        assert name in report.head()
