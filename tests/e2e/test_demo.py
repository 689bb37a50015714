"""Tests of `make demo` as a user runs it: output, sheet and exit status."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


def _run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "scripts/demo.py", *arguments],
        cwd=ROOT,
        # As on a slow machine, older versions would serve first.
        env=os.environ | {"IMAGEMINT_START_TIMEOUT_S": "0"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The output of a successful demo, and the path of its sheet."""
    sheet = tmp_path_factory.mktemp("demo") / "sheet.png"
    done = _run("--out", sheet)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, sheet


def test_demo_sheet_has_different_digits_and_people(demo: tuple[str, Path]):
    """Each model has ten rows of ten tiles. No tile is blank, and no two are equal."""
    _, path = demo
    with Image.open(path) as picture:
        assert picture.size == (1920 + 128, 640)
        pixels = np.asarray(picture.convert("L"))
    for part in np.split(pixels[:, :1920], 3, axis=1):
        tiles = part.reshape(10, 64, 10, 64).swapaxes(1, 2)[:, :, 4:-4, 4:-4].reshape(100, -1)
        assert np.all(np.ptp(tiles, axis=1) > 150)
        assert len(np.unique(tiles, axis=0)) == 100
    colours = np.asarray(Image.open(path).convert("RGB"))[:, 640:]
    assert np.ptp(colours, axis=2).max() > 100


def test_demo_enlarges_people(demo: tuple[str, Path]):
    """The result is nearer to the original than its source of a sixteenth of the pixels."""
    output, path = demo
    assert re.search(r"serial srgan@\d+/\S*source=[0-9a-f]{32}$", output, re.MULTILINE)
    pixels = np.asarray(Image.open(path).convert("RGB"), np.float64).reshape(10, 64, 32, 64, 3)
    originals, sources, results = (pixels[:, :, column] for column in (10, 30, 31))
    assert np.abs(results - originals).mean() < 0.7 * np.abs(sources - originals).mean()


def test_demo_prints_serials_of_the_fixed_seed(demo: tuple[str, Path]):
    """The printed serials have model, newest version, seed, index and class."""
    newest = max(int(path.name) for path in (ROOT / "models/mnist").glob("[0-9]*"))
    serials = re.findall(rf"serial (mnist@{newest}/42/0\?class=\d)$", demo[0], re.MULTILINE)
    assert len(set(serials)) >= 3


def test_demo_ends_with_the_command_of_the_page(demo: tuple[str, Path]):
    """The last lines have the command that serves the page, and its address."""
    *_, command, place = demo[0].splitlines()
    assert re.search(r"imagemint serve --http-address (\S+) --http-metrics$", command)
    assert place.strip() == f"and open http://{command.split()[-2]}/"


def test_demo_prints_speed_from_the_metrics(demo: tuple[str, Path]):
    """Latency and throughput are positive and cover the calls of the demo."""
    found = re.search(
        r"from /metrics: ([\d.]+) ms mean latency of 10 calls .*; ([\d,]+) images/s", demo[0]
    )
    assert found, demo[0]
    assert float(found[1]) > 0
    assert int(found[2].replace(",", "")) > 0


def test_demo_generates_a_serial_again(demo: tuple[str, Path]):
    """An image is requested again by its serial alone, and the bytes are equal."""
    assert re.search(r"generated again from its serial alone: mnist@\d+/42/9\?class=9", demo[0])
    assert "the 784 bytes are equal" in demo[0]


def test_demo_stops_the_server(demo: tuple[str, Path]):
    """SIGTERM ended the server with exit status 0."""
    assert "server stopped cleanly, exit status 0\n" in demo[0]


def test_demo_without_a_bundle_is_an_error(tmp_path: Path):
    """An empty repository gives one clear line and exit status 1, and no file is written."""
    sheet = tmp_path / "sheet.png"
    done = _run("--repository", tmp_path, "--out", sheet)
    assert done.returncode == 1
    assert "holds no bundle `mnist/<version>/model.onnx`" in done.stderr
    assert "Traceback" not in done.stderr
    assert not sheet.exists()


def test_demo_with_a_refused_bundle_is_an_error(tmp_path: Path):
    """One line has the reason of the server, without a traceback."""
    version = tmp_path / "mnist" / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(b"not a model")
    done = _run("--repository", tmp_path, "--out", tmp_path / "sheet.png")
    assert done.returncode == 1
    assert done.stderr.startswith("demo: ")
    assert "Traceback" not in done.stderr
