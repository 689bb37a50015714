"""Tests of imagemint.training.evaluation_report."""

import pytest

from imagemint.training.errors import CheckpointError
from imagemint.training.evaluation_report import EvaluationFigure, read_report, write_report

FIGURES = (
    EvaluationFigure("coverage", 0.93, "as told", 10_000, 0.95),
    EvaluationFigure("worst_class_accuracy", 0.98, "as told", 10_000),
)


def test_report_can_be_read(tmp_path):
    """Measurements are read as they were written, with or without a reference."""
    write_report(tmp_path / "evaluation.json", "ab", FIGURES)
    assert read_report(tmp_path / "evaluation.json", "ab") == FIGURES


def test_report_of_other_weights_is_ignored(tmp_path):
    """Measurements of other weights and a missing file give no result."""
    write_report(tmp_path / "evaluation.json", "ab", FIGURES)
    assert read_report(tmp_path / "evaluation.json", "cd") == ()
    assert read_report(tmp_path / "nothing.json", "ab") == ()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"weights_sha256": "ab", "figures": [{"metric": "m"}]}']
)
def test_invalid_report_is_refused(tmp_path, content):
    """The error names a file that is not a report."""
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"evaluation.json: not an evaluation report"):
        read_report(tmp_path / "evaluation.json", "ab")
