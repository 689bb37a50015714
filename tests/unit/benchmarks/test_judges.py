"""Tests of the classifiers in benchmarks/judges, and of the program that rounds one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from imagemint.training.classifier.trained import load_classifier
from imagemint.training.datasets import load_dataset

FOLDER = Path(__file__).parents[3] / "benchmarks/judges"
JUDGES = sorted(path.parent for path in FOLDER.glob("*/classifier.json"))
CPU = torch.device("cpu")


def test_readme_lists_the_judges():
    """Each folder has a row with its accuracy."""
    rows = (FOLDER / "README.md").read_text()
    assert JUDGES
    for judge in JUDGES:
        about = json.loads((judge / "classifier.json").read_text())
        assert f"| `{judge.name}` | `imagemint train {about['recipe']}" in rows
        assert f"| {about['test_accuracy']:.4f} of " in rows


@pytest.mark.data
@pytest.mark.parametrize("judge", JUDGES, ids=lambda path: path.name)
def test_kept_judge_recognises_test_images(judge, real_data):
    """The weights are those that the JSON names, and as good as it says."""
    model, about = load_classifier(judge, CPU)
    test = load_dataset(about["tested_on"].partition("/")[0], "test", real_data)
    _, predicted = model.judge(test.images[:500])
    assert (predicted == test.labels[:500]).mean() > about["test_accuracy"] - 0.02


@pytest.mark.data
def test_rounded_judge_has_half_the_size(real_data, tmp_path):
    """The program writes float16, measures again, and loads as before."""
    judge, rounded = FOLDER / "digits", tmp_path / "digits"
    program = [sys.executable, FOLDER / "halve.py", judge, rounded]
    subprocess.run([*program, "--data", real_data, "--per-class", "50"], check=True)
    sizes = [(each / "classifier.safetensors").stat().st_size for each in (judge, rounded)]
    assert sizes[1] < 0.51 * sizes[0]
    _, about = load_classifier(rounded, CPU)
    assert about["weights"] == "float16"
    assert about["test_accuracy"] > 0.98
