"""Tests of imagemint.training.evaluation_report."""

from dataclasses import astuple
from pathlib import Path

import pytest

from imagemint.training.errors import CheckpointError
from imagemint.training.evaluation_report import (
    EvaluationFigure,
    Setup,
    choose_folder,
    describe_methods,
    is_own_data,
    read_report,
    write_report,
)

SETUP = Setup("seed 0", "mnist/test", ("judge j",), "imagemint evaluate", ("few images",))
FIGURES = (
    EvaluationFigure("coverage", 0.93, "as told", 10_000, 0.95, 0.2, "standard error", "x", SETUP),
    EvaluationFigure("worst_class_accuracy", 0.98, "as told", 10_000),
)


def test_report_can_be_read(tmp_path):
    """Measurements are read as they were written, with or without a reference."""
    write_report(tmp_path / "evaluation.json", "ab", FIGURES)
    assert read_report(tmp_path / "evaluation.json", "ab") == FIGURES


def test_interrupted_report_keeps_the_old_one(tmp_path, monkeypatch):
    """A process that ends while it writes leaves the earlier figures, and no other file."""
    report = tmp_path / "evaluation.json"
    write_report(report, "ab", FIGURES)
    write = Path.write_bytes

    def write_half(path, content):
        write(path, content[: len(content) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(KeyboardInterrupt):
        write_report(report, "ab", FIGURES[:1])
    assert read_report(report, "ab") == FIGURES
    assert list(tmp_path.iterdir()) == [report]


def test_report_of_other_weights_is_ignored(tmp_path):
    """Measurements of other weights and a missing file give no result."""
    write_report(tmp_path / "evaluation.json", "ab", FIGURES)
    assert read_report(tmp_path / "evaluation.json", "cd") == ()
    assert read_report(tmp_path / "nothing.json", "ab") == ()


def test_protocol_has_all_parts():
    """The text for manifests has the method and everything that the figures share."""
    assert FIGURES[0].protocol == (
        "as told; x; seed 0; mnist/test; judge j; command: imagemint evaluate;"
        " WARNING: few images; standard error 0.2"
    )
    assert FIGURES[1].protocol == "as told"


def test_methods_are_described_once():
    """Figures of baselines share the method, and all figures what is equal in their setups."""
    first, other = SETUP, Setup("baseline", *astuple(SETUP)[1:])
    figures = [
        EvaluationFigure("psnr", 1.0, "dB", 10, setup=first),
        EvaluationFigure("ssim", 1.0, "window", 10, detail="3 scales", setup=first),
        EvaluationFigure("psnr@mean", 1.0, "dB", 10, setup=other),
    ]
    assert describe_methods(figures) == [
        "- psnr: dB",
        "- ssim: window",
        "- ssim in detail: 3 scales",
        "",
        "All figures: mnist/test; judge j; command: imagemint evaluate; WARNING: few images",
        "",
        "psnr, ssim: seed 0",
        "",
        "psnr@mean: baseline",
    ]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"weights_sha256": "ab", "figures": [{"metric": "m"}]}',
        '{"weights_sha256": "ab", "figures": [{"metric": "m", "protocol": 1}]}',
        '{"weights_sha256": "ab", "figures": [1]}',
    ],
)
def test_invalid_report_is_refused(tmp_path, content):
    """The error names a file that is not a report."""
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"evaluation.json: not an evaluation report"):
        read_report(tmp_path / "evaluation.json", "ab")


@pytest.mark.parametrize(
    ("dataset", "own", "expected"),
    [
        (None, "mnist", True),
        (None, None, True),
        ("mnist", "mnist", True),
        ("cifar10", "mnist", False),
        ("mnist", None, False),
        ("toys/../toys", "toys", True),
        ("toys", "else", False),
    ],
)
def test_own_data_are_named_or_not(tmp_path, monkeypatch, dataset, own, expected):
    """A run's own data set is the default, its name, or another path to it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toys").mkdir()
    assert is_own_data(dataset, own) is expected


def test_folder_of_other_data(tmp_path):
    """Figures against other data have a folder of their own."""
    assert choose_folder(tmp_path, None, "mnist") == tmp_path / "evaluation"
    assert choose_folder(tmp_path, "mnist", "mnist") == tmp_path / "evaluation"
    assert choose_folder(tmp_path, "a/toys", "mnist") == tmp_path / "evaluation-toys"
