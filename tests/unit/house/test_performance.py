"""Tests that the tables of docs/performance.md match the record."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_tables_match_the_record():
    """The command `python benchmarks/side_by_side.py` would change nothing."""
    spec = importlib.util.spec_from_file_location(
        "side_by_side_script", ROOT / "benchmarks/side_by_side.py"
    )
    assert spec
    assert spec.loader
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script
    spec.loader.exec_module(script)
    text = script.PAGE.read_text()
    assert text == script.replace_tables(text, script.Record.read(script.RECORD))
