"""Tests of benchmarks/translation_zoo_*.py: records of translators and their page."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image
from small_translations import small_task, train
from translation_zoo_page import LIST, PAGE, PICTURES, draw_picture, list_runs, write_page
from translation_zoo_records import Record, read_records, record
from zoo_queue import Plan, Run, read_plan

from imagemint.training.evaluation_report import EvaluationFigure, Setup, write_report
from imagemint.training.recipes.pix2pix import Pix2pixRecipe
from imagemint.training.translators import read_translator

RESULT = Setup(
    "averaged weights", "edges of x/test, rows 0 to 9", ("judge j",), "imagemint evaluate"
)
EMPTY = Plan((), ())
BASELINE = replace(RESULT, results="baseline mean_image: the mean image")
FIGURES = [
    EvaluationFigure(
        "psnr", 20.125, "dB", 10, deviation=0.25, spread="standard error", setup=RESULT
    ),
    EvaluationFigure(
        "attributes_kept", 0.875, "share", 10, 0.99, detail="hat 0.5, hair 1", setup=RESULT
    ),
    EvaluationFigure("psnr_step_1", 19.0, "of that frame", 50, setup=RESULT),
    EvaluationFigure("psnr_step_2", 18.0, "of that frame", 50, setup=RESULT),
    EvaluationFigure("frechet_distance", 12_345.6, "floor", 10, setup=RESULT),
    EvaluationFigure("psnr@mean_image", 12.5, "dB", 10, deviation=0.5, setup=BASELINE),
]


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """A tiny run with figures, recorded below a temporary folder."""
    monkeypatch.setattr("translation_zoo_page.RECORDS", tmp_path / "results")
    run = tmp_path / "run"
    train(small_task(Pix2pixRecipe), run)
    (run / "evaluation").mkdir()
    digest = read_translator(run).weights_sha256
    write_report(run / "evaluation/figures.json", digest, FIGURES)
    Image.new("RGB", (80, 18 * 16)).save(run / "evaluation/pairs.png")
    return Record.read(make_record(tmp_path))


def make_record(tmp_path, name="pix2pix"):
    """Records the run of `recorded`; returns the file."""
    folder = tmp_path / "results"
    return record(tmp_path / "run", name=name, machine="a CPU", remark="A remark.", folder=folder)


def test_page_and_list_match_the_records():
    """The command `python benchmarks/zoo.py page` would not change either of them."""
    records = read_records()
    assert PAGE.read_text() == write_page(records, read_plan())
    assert json.loads(LIST.read_text()) == list_runs(records)
    assert all((PICTURES / f"{each.name}.png").is_file() for each in records)


def test_picture_has_headings(recorded, tmp_path):
    """The picture of the page has the sheet of the record, enlarged, below the names of columns."""
    draw_picture(recorded, tmp_path / "page/pix2pix.png")
    with Image.open(tmp_path / "results/pix2pix.png") as sheet:
        assert sheet.size == (80, 8 * 16)
    with Image.open(tmp_path / "page/pix2pix.png") as picture:
        assert picture.size == (6 * 80, 24 + 6 * 8 * 16)
        heading = np.asarray(picture.convert("L"))[:24]
    # The names of all four columns are drawn.
    assert [bool((heading[:, 120 * k : 120 * (k + 1)] < 128).any()) for k in range(4)] == [True] * 4
    more = [replace(FIGURES[-1], metric=f"psnr@{name}") for name in ("second", "third")]
    with pytest.raises(ValueError, match="80 pixels are not 6 columns"):
        draw_picture(replace(recorded, figures=[*FIGURES, *more]), tmp_path / "x.png")


def test_early_end_is_told(recorded):
    """The page says which runs did not come to the end that was planned."""
    early = replace(recorded, images=20)
    assert "ended early" not in write_page([recorded], EMPTY)
    assert "The run was ended early, of 24 planned. Measured" in write_page([early], EMPTY)
    page = write_page([replace(early, failure="the loss is not finite")], EMPTY)
    assert "The run was ended early, of 24 planned: the loss is not finite. Measured" in page


def test_planned_runs_without_a_record_are_listed(recorded):
    """A run of the plan is open until a record has its length and was measured by its judges."""
    plan = Plan((), (Run("pix2pix", 0, (), {"images": 24}), Run("mnist", 0, ("digits",))))
    assert "## Still to be run" not in write_page([recorded], plan)
    page = write_page([replace(recorded, images=16)], plan)
    assert "- `pix2pix`: 24 images (the run shown has 16)" in page.splitlines()
    judged = Plan((), (Run("pix2pix", 0, ("avatars",), {"images": 24}), Run("srgan", 0, ())))
    lines = write_page([recorded], judged).splitlines()
    assert "- `pix2pix`: 24 images (measured by judges that are not kept)" in lines
    assert "- `srgan`: 120,000 images" in lines


def test_run_is_recorded(recorded, tmp_path):
    """A record has the figures of the run, the options that differ, and a cut picture."""
    assert (recorded.machine, recorded.remark, recorded.failure) == ("a CPU", "A remark.", "")
    assert asdict(recorded)["figures"] == [asdict(figure) for figure in FIGURES]
    assert recorded.figures == FIGURES
    assert (recorded.recipe, recorded.images) == ("pix2pix", 24)
    assert "--base-channels 4" in recorded.options
    with Image.open(tmp_path / "results/pix2pix.png") as sheet:
        assert sheet.size == (80, 8 * 16)


def test_another_data_set_is_an_option(recorded, tmp_path):
    """The command names the data set, if it is not that of the recipe."""
    assert "--dataset" not in recorded.options
    options = {"settings": {"dataset": "/somewhere/cifar10", "precision": "bf16"}}
    (tmp_path / "run/options.json").write_text(json.dumps(options))
    again = Record.read(make_record(tmp_path, "other"))
    assert again.name == "other"
    assert again.options == f"--dataset cifar10 {recorded.options} --precision bf16"


def test_page_shows_baselines_side_by_side(recorded):
    """Each metric is a row, with the result, the baseline and the real data."""
    page = write_page([recorded], EMPTY)
    assert "| metric | result | mean image | real data |" in page
    assert "| psnr | 20.1 ± 0.2 | 12.5 ± 0.5 |  |" in page
    assert "| attributes_kept | 0.875 |  | 0.990 |" in page
    assert "| frechet_distance | 12,346 |  |  |" in page
    assert "`attributes_kept` of the result: hat 0.5, hair 1." in page
    assert "## pix2pix (short)" in page
    assert "A remark." in page
    assert "No run of colorize" in page


def test_deviation_of_equal_values_is_zero(recorded):
    """The mean of equal values has a deviation by rounding, which the page does not show."""
    equal = replace(FIGURES[0], value=58.9225, deviation=2.5e-8)
    page = write_page([replace(recorded, figures=[equal, *FIGURES[1:]])], EMPTY)
    assert "| psnr | 58.9 ± 0 | 12.5 ± 0.5 |  |" in page


def test_definitions_stand_once(recorded):
    """Each metric, baseline, judge and command is described once, for all runs and steps."""
    page = write_page([recorded, replace(recorded, name="other")], EMPTY)
    for line in (
        "- **psnr**: dB",
        "- **psnr_step_N**: of that frame",
        "- **mean image**: the mean image",
        "- j",
    ):
        assert page.splitlines().count(line) == 1
    assert page.count("`imagemint evaluate`") == 1


def test_definitions_that_differ_name_their_runs(recorded):
    """If two runs measured a metric differently, each definition has its runs."""
    figures = [replace(recorded.figures[0], method="decibels"), *recorded.figures[1:]]
    page = write_page([recorded, replace(recorded, name="other", figures=figures)], EMPTY)
    assert "- **psnr**: dB (of pix2pix, other)" in page  # the baseline is measured as before
    assert "- **psnr**: decibels (of other)" in page


def test_samples_of_each_figure_are_told(recorded):
    """A figure of other images than the rest is named with their number."""
    page = write_page([recorded], EMPTY)
    told = "Measured on 10 sources: edges of x/test, rows 0 to 9. `psnr_step_N`: 50 sources."
    assert told in page


def test_list_takes_the_first_record(recorded):
    """`imagemint train --list` shows the quality as a short text."""
    listed = list_runs([recorded, recorded])
    assert listed["pix2pix"]["quality"] == "psnr 20.1, attributes kept 0.875"
    assert listed["pix2pix"]["images"] == 24


def test_unmeasured_run_is_refused(tmp_path):
    """A run without figures names the command that measures it."""
    train(small_task(Pix2pixRecipe), tmp_path / "run")
    with pytest.raises(SystemExit, match="imagemint evaluate"):
        make_record(tmp_path)
