"""Tests of imagemint.training.loop.monitor: the log, the images and their robustness."""

import json
import logging
import shutil

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from imagemint.training.loop import monitor
from imagemint.training.loop.monitor import Monitor, animate_grids, forget_after, plot_losses
from imagemint.training.loop.samples import Variety
from imagemint.training.loop.state import TrainingState

VARIED = Variety(spread=0.5, nearest=0.75, worst_class=0, worst=0.25)


@pytest.fixture
def _skip_plots():
    """Overrides the fixture of this name, because these tests need real plots."""


@pytest.fixture
def _skip_animation():
    """Overrides the fixture of this name, because these tests need real animations."""


@pytest.fixture
def state():
    """A state whose counts alone are read."""
    return TrainingState(None, None, None, None, None)


@pytest.fixture(scope="module")
def monitored_run(tmp_path_factory):
    """The directory of a monitor that wrote two rows and two grids, as the training loop does."""
    run, state = tmp_path_factory.mktemp("run"), TrainingState(None, None, None, None, None)
    rng = np.random.Generator(np.random.Philox(key=[0, 0]))
    with Monitor(run, 400, state, quiet=True) as watch:
        for step in range(1, 5):
            state.images_seen = 100 * step
            penalties = [("r1", 0.1 * step), ("r2", 0.2)] if step % 2 else []
            watch.add_step([*penalties, ("loss_D", step), ("loss_G", -step), ("real_logit", 0.5)])
            if step % 2 == 0:
                watch.draw(rng.integers(0, 256, (20, 6, 6, 1)).astype(np.uint8))
                watch.note_variety(VARIED)
                watch.log()
    return run


def read_rows(run):
    """Returns the rows of a run's log."""
    return [json.loads(row) for row in (run / "log.jsonl").read_text().splitlines()]


def test_rows_have_means(monitored_run):
    """A row has the means since the last one. Penalties count only the steps that have them."""
    first, second = read_rows(monitored_run)
    timings = [first.pop(name) for name in ("images_per_s", "cpu_s")]
    assert min(timings) > 0
    assert first == {
        "images": 200,
        "r1": 0.1,
        "r2": 0.2,
        "loss_D": 1.5,
        "loss_G": -1.5,
        "real_logit": 0.5,
        "within_class_spread": 0.5,
        "within_class_nearest": 0.75,
    }
    assert (second["images"], second["loss_D"]) == (400, 3.5)


def test_scalars_are_written_to_tensorboard(monitored_run):
    """TensorBoard gets the same values, the spread of samples and their grid."""
    events = EventAccumulator(str(monitored_run / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss_D")] == [(200, 1.5), (400, 3.5)]
    assert [e.value for e in events.Scalars("within_class_spread")] == [0.5, 0.5]
    assert [e.value for e in events.Scalars("within_class_nearest")] == [0.75, 0.75]
    assert [e.step for e in events.Images("samples")] == [200, 400]


def test_grids_become_frames(monitored_run):
    """Each grid is an image of ten columns and a frame of the animation.

    The last frame is longer.
    """
    with Image.open(monitored_run / "grids" / f"{200:010d}.png") as picture:
        assert (picture.size, picture.mode) == ((60, 12), "L")
    with Image.open(monitored_run / "grids.gif") as animation:
        durations = []
        for frame in range(animation.n_frames):
            animation.seek(frame)
            durations.append(animation.info["duration"])
        assert animation.info["loop"] == 0
    assert durations == [250, 2_000]


def test_loss_plot_is_not_blank(monitored_run):
    """The plot has many colours, so it shows curves."""
    with Image.open(monitored_run / "losses.png") as picture:
        assert len(picture.convert("RGB").getcolors(maxcolors=2**24)) > 50


def test_plot_needs_rows_and_skips_empty_panels(tmp_path):
    """No rows give no plot, and no penalties give no second panel."""
    (tmp_path / "log.jsonl").write_text("")
    plot_losses(tmp_path)
    assert not (tmp_path / "losses.png").exists()
    row = {"images": 1, "loss_D": 1, "loss_G": 2}
    heights = []
    for terms in ({}, {"gp": 0.5, "features": 0.0}):
        (tmp_path / "log.jsonl").write_text(json.dumps(row | terms) + "\n")
        plot_losses(tmp_path)
        with Image.open(tmp_path / "losses.png") as picture:
            heights.append(picture.height)
    assert heights == [420, 780]


def test_colour_grids_are_animated(tmp_path, state):
    """RGB samples give an RGB grid. Without a grid there is no animation."""
    animate_grids(tmp_path)
    assert not (tmp_path / "grids.gif").exists()
    with Monitor(tmp_path, 1, state, quiet=True) as watch:
        watch.draw(np.full((10, 4, 4, 3), (250, 0, 0), np.uint8))
    with Image.open(tmp_path / "grids.gif") as animation:
        assert animation.convert("RGB").getpixel((3, 3)) == pytest.approx((250, 0, 0), abs=8)


def test_long_runs_are_animated_in_100_frames(tmp_path):
    """The animation of many grids has the first and the last one and stays small."""
    (tmp_path / "grids").mkdir()
    for number in range(250):
        Image.new("L", (4, 4), number).save(tmp_path / "grids" / f"{number:010d}.png")
    animate_grids(tmp_path)
    with Image.open(tmp_path / "grids.gif") as animation:
        assert animation.n_frames == 100
        shades = []
        for frame in (0, 99):
            animation.seek(frame)
            shades.append(animation.convert("L").getpixel((0, 0)))
    assert shades == [0, 249]


def test_damaged_grids_are_left_out(tmp_path, caplog):
    """The animation goes without a grid that a power cut tore, and there is none without grids."""
    grids = [tmp_path / "grids" / f"{number:010d}.png" for number in (1, 2, 3)]
    grids[0].parent.mkdir()
    for number, grid in enumerate(grids):
        Image.new("L", (8, 8), 100 * number).save(grid)
    grids[1].write_bytes(grids[1].read_bytes()[:50])
    animate_grids(tmp_path)
    assert f"{grids[1]} is damaged, and grids.gif goes without it" in caplog.text
    with Image.open(tmp_path / "grids.gif") as animation:
        assert animation.n_frames == 2
    (tmp_path / "grids.gif").unlink()
    for grid in grids:
        grid.write_bytes(b"")
    animate_grids(tmp_path)
    assert not (tmp_path / "grids.gif").exists()


def test_torn_log_is_plotted(monitored_run, tmp_path, caplog):
    """The plot of a run that failed on a full disk shows the rows before the torn one."""
    run = shutil.copytree(monitored_run, tmp_path / "run")
    (run / "losses.png").unlink()
    with (run / "log.jsonl").open("a") as log:
        log.write('{"images": 500')
    plot_losses(run)
    assert "line 3 at the end is incomplete" in caplog.text
    assert (run / "losses.png").exists()


def test_resume_removes_later_rows(monitored_run, tmp_path, state):
    """Rows and grids after the checkpoint are removed, with a torn last row. Other files stay."""
    run = shutil.copytree(monitored_run, tmp_path / "run")
    with (run / "log.jsonl").open("a") as log:
        log.write('{"images": 150')
    (run / "grids" / "mine.png").write_bytes(b"mine")
    state.images_seen = 200
    forget_after(run, 200)
    with Monitor(run, 400, state, quiet=True):
        pass
    assert [row["images"] for row in read_rows(run)] == [200]
    assert sorted(p.name for p in (run / "grids").iterdir()) == [f"{200:010d}.png", "mine.png"]
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss_D")] == [200]


def test_failing_plot_hides_no_error(tmp_path, state, monkeypatch, caplog):
    """The error of the run is raised even if the plots also fail, which is logged."""

    def fail(_):
        raise ValueError("no canvas")

    monkeypatch.setattr(monitor, "plot_losses", fail)
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(KeyError, match="the real one"),
        Monitor(tmp_path, 1, state, quiet=True),
    ):
        raise KeyError("the real one")
    assert "no canvas" in caplog.text
    with pytest.raises(ValueError, match="no canvas"), Monitor(tmp_path, 1, state, quiet=True):
        pass


def test_progress_bar_shows_rate_and_time_left(tmp_path, state, capsys):
    """The bar counts images and shows the rate and the time left."""
    with Monitor(tmp_path, 200, state, quiet=False) as watch:
        state.images_seen = 100
        watch.add_step([("loss_D", 1.0), ("loss_G", 1.0), ("real_logit", 0.0)])
        watch.log()
    said = capsys.readouterr().err
    assert "100/200" in said
    assert "images/s" in said
    assert "D=1.000, G=1.000" in said
