"""Tests of benchmarks/augmentation/example.py and plot.py."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

FOLDER = Path(__file__).parents[3] / "benchmarks/augmentation"


def load(name):
    """Returns a program as a module, which imports other modules of its folder."""
    spec = importlib.util.spec_from_file_location(f"augmentation_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.path.append(str(FOLDER))
    spec.loader.exec_module(module)
    sys.path.remove(str(FOLDER))
    return module


def test_accuracies_are_read_from_the_example(tmp_path, monkeypatch):
    """The program reads the lines that the example prints, by arm, and passes on the seed."""
    example, program = load("example"), tmp_path / "train.py"
    program.write_text(
        "import sys\n"
        "print('real: 200 images, accuracy 0.8%s0 on 9 others' % sys.argv[-1])\n"
        "print('real and synthetic: 5000 images, accuracy 0.950 on 9 others')\n"
    )
    monkeypatch.setattr(example, "PROGRAM", program)
    found = {str(seed): example.run_example(["--steps", "1"], seed) for seed in (1, 3)}
    assert found["3"] == {"real": 0.83, "real and synthetic": 0.95}
    summary = example.summarise(found)
    assert summary["difference"] == pytest.approx(0.13)
    assert summary["interval_95"] == pytest.approx(12.706 * 0.01, rel=1e-3)


@pytest.mark.parametrize(
    "record",
    [
        {"accuracy": {"1": {"real": 0.9, "synthetic": 0.8}, "2": {"real": 0.7}}},
        {
            "summary": {
                "10": {
                    "real": {"accuracy": 0.5, "minus_classical": {"interval_95": None}},
                    "mixed": {"accuracy": 0.6},
                },
                "all": {"real": {"accuracy": 0.9, "minus_classical": {"interval_95": 0.1}}},
            }
        },
    ],
)
def test_records_are_drawn(tmp_path, monkeypatch, record):
    """The picture shows pairs, or the arms over the number of images."""
    (tmp_path / "record.json").write_text(json.dumps(record))
    out = tmp_path / "picture.png"
    monkeypatch.setattr(sys, "argv", ["plot.py", str(tmp_path / "record.json"), str(out)])
    load("plot").main()
    with Image.open(out) as picture:
        assert picture.size == (750, 525)
        assert len(picture.convert("RGB").getcolors(2**20)) > 10
