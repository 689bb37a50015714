"""Reports the progress of a run, and writes its log and pictures.

``log.jsonl`` (a row per interval), TensorBoard events, ``grids/<images seen>.png``, and at the end
``losses.png`` and ``grids.gif``. All but the timings and the progress bar are functions of the
run's state, so a run that was stopped and resumed leaves the same files as one that was not.

A row of a grid shows ten samples of one class. Look at each row by itself: its pictures should
differ from each other as pictures of that class do. A row of one picture, ten times, is a generator
that ignores its latent; the figures ``within_class_spread`` and ``within_class_nearest`` of the log
measure it (see `samples.Variety`; about 1 is what real images have, below 0.1 is a collapse).
"""

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from imagemint.training.durable import flush, flush_directory
from imagemint.training.json_lines import read_json_lines
from imagemint.training.loop.samples import SAMPLES_PER_CLASS, Variety, arrange_grid
from imagemint.training.loop.state import TrainingState
from imagemint.training.whole_files import write_whole

_log = logging.getLogger(__name__)

_LOG = "log.jsonl"
_FRAME_MS = 250
_LAST_FRAME_MS = 2_000
_MOST_FRAMES = 100
_LOSSES = "loss_D", "loss_G"
_VARIETY = "within_class_spread", "within_class_nearest"
_QUALITY = "frechet_over_floor", "coverage", "class_accuracy", "modes"
_NO_TERMS = {
    *(*_LOSSES, *_VARIETY, *_QUALITY),
    *("images", "images_per_s", "cpu_s", "real_logit", "rollbacks", "augment_p"),
}


class Monitor:
    """Progress bar, log, scalars and pictures of one run.

    Args:
        run: the run's directory.
        total: images the run will show to the discriminator.
        state: the run's state, read when reporting; its unlogged figures are kept here.
        quiet: no progress bar.
    """

    def __init__(self, run: Path, total: int, state: TrainingState, *, quiet: bool) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - a second to import

        self._run = run
        self._state = state
        (run / "grids").mkdir(parents=True, exist_ok=True)
        self._unflushed: list[Path] = []
        self._log = (run / _LOG).open("a", buffering=1)
        self._scalars = SummaryWriter(str(run / "tensorboard"), purge_step=state.images_seen + 1)
        self._bar = tqdm(
            total=total,
            initial=state.images_seen,
            unit="images",
            unit_scale=True,
            disable=quiet,
            mininterval=1,
        )
        self._last = (time.perf_counter(), time.process_time(), state.images_seen)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for close in (self._bar.close, self._log.close, self._scalars.close):
            try:
                close()
            except OSError as fault:  # for example because of a full disk, which the error reports
                if error is None:
                    raise
                _log.warning("the log of the failed run is incomplete: %s", fault)
        try:
            plot_losses(self._run)
            animate_grids(self._run)
        except Exception as fault:
            if error is None:
                raise
            _log.warning("no plots of the failed run: %s", fault)  # the run has its own error

    def add_step(self, figures: list[tuple[str, float]]) -> None:
        """Adds the figures of a step with their names; a row has their means."""
        for name, figure in figures:
            self._state.unlogged.setdefault(name, []).append(figure)
        self._bar.update(self._state.images_seen - self._bar.n)

    def log(self) -> dict[str, Any]:
        """Writes a row and returns it: means since the last one, images/s and CPU seconds.

        The CPU seconds are those of this process since the last row, all its threads together.
        """
        then, used, before = self._last
        now, using, seen = time.perf_counter(), time.process_time(), self._state.images_seen
        row: dict[str, Any] = {"images": seen}
        row |= {name: float(np.mean(values)) for name, values in self._state.unlogged.items()}
        if self._state.rollbacks:
            row["rollbacks"] = self._state.rollbacks
        row["images_per_s"] = (seen - before) / (now - then)
        row["cpu_s"] = using - used
        self._log.write(json.dumps(row) + "\n")
        for name, value in row.items():
            self._scalars.add_scalar(name, value, seen)
        self._bar.set_postfix(D=f"{row.get('loss_D', 0):.3f}", G=f"{row.get('loss_G', 0):.3f}")
        self._state.unlogged.clear()
        self._last = (now, using, seen)
        return row

    def note_variety(self, variety: Variety) -> None:
        """Adds the variety of the samples to the next row of the log.

        Figures that need two real images of one class are omitted without them.
        """
        for name, figure in zip(_VARIETY, (variety.spread, variety.nearest), strict=True):
            if np.isfinite(figure):
                self._state.unlogged.setdefault(name, []).append(figure)

    def note_quality(self, figures: Mapping[str, float]) -> None:
        """Adds figures of the generator, by their names, to the next row of the log."""
        for name, figure in figures.items():
            self._state.unlogged.setdefault(name, []).append(figure)

    def draw(self, samples: NDArray[np.uint8], columns: int = SAMPLES_PER_CLASS) -> None:
        """Writes the grid of the fixed samples uint8 [N, H, W, C]."""
        seen = self._state.images_seen
        picture = arrange_grid(samples, columns)
        path = self._run / "grids" / f"{seen:010d}.png"
        Image.fromarray(picture).save(path)
        self._unflushed.append(path)
        image = picture[np.newaxis] if picture.ndim == 2 else picture.transpose(2, 0, 1)  # noqa: PLR2004 - gray
        self._scalars.add_image("samples", image, seen)

    def flush(self) -> None:
        """Flushes log, scalars and grids to the disk.

        A resume writes only what comes after its checkpoint, so all before must survive a power
        cut when the checkpoint does.

        Raises:
            OSError: the disk is full, for example.
        """
        self._scalars.flush()
        flush_directory(self._run / "tensorboard")
        flush([*self._unflushed, self._run / "grids", self._run / _LOG, self._run])
        self._unflushed.clear()


def read_log(run: Path) -> list[dict[str, Any]]:
    """Returns the rows of a run's log; [] without a log. An incomplete end is left out.

    Raises:
        DamagedLog: a line in the middle is unreadable.
    """
    return read_json_lines(run / _LOG, "images")


def forget_after(run: Path, images_seen: int) -> None:
    """Deletes what an interrupted run wrote after the checkpoint that it resumes from.

    Raises:
        DamagedLog: a line in the middle of the log is unreadable.
    """
    log = run / _LOG
    if log.exists():
        # Nothing of a run that starts anew is kept, so its log need not be readable.
        rows = read_log(run) if images_seen else []
        kept = [row for row in rows if row["images"] <= images_seen]
        write_whole(log, "".join(json.dumps(row) + "\n" for row in kept).encode())
    for picture in _list_grids(run):
        if int(picture.stem) > images_seen:
            picture.unlink()


def _list_grids(run: Path) -> list[Path]:
    """Returns the grids drawn so far, in order."""
    return sorted(path for path in (run / "grids").glob("*.png") if path.stem.isdigit())


def plot_losses(run: Path) -> None:
    """Draws ``losses.png`` from ``log.jsonl``; does nothing if the log is empty."""
    rows = read_log(run)
    if not rows:
        return
    from matplotlib.figure import Figure  # noqa: PLC0415 - half a second, needed once

    known = dict.fromkeys(name for row in rows for name in row)
    terms = [name for name in known if name not in _NO_TERMS]
    panels = [("adversarial loss", [*_LOSSES])]
    if terms:
        panels.append(("further losses and penalties, before their weights", terms))
    if varieties := [name for name in _VARIETY if name in known]:
        panels.append(("variety within a class, as a multiple of that of real images", varieties))
    panels += [
        (title, [name])
        for name, title in (
            ("frechet_over_floor", "Frechet distance, as a multiple of that of real images"),
            ("coverage", "coverage of the test images"),
        )
        if name in known
    ]
    figure = Figure(figsize=(8, 3 * len(panels) + 0.5), layout="constrained")
    columns = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, names) in zip(columns, panels, strict=True):
        for name in names:
            found = [(row["images"], row[name]) for row in rows if name in row]
            axes.plot(*zip(*found, strict=True), label=name, linewidth=1)
        axes.set_title(title)
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
    if terms and all(row[name] > 0 for row in rows for name in terms if name in row):
        columns[1].set_yscale("log")
    columns[-1].set_xlabel("real images shown to D")
    columns[-1].xaxis.set_major_formatter("{x:,.0f}")
    figure.savefig(run / "losses.png", dpi=120)


def animate_grids(run: Path) -> None:
    """Writes ``grids.gif`` from the grids in order; does nothing without grids.

    Of a long run it shows 100 grids at even distances, the first and the last among them: all
    frames are in memory at once.
    """
    grids = _list_grids(run)
    if not grids:
        return
    chosen = np.linspace(0, len(grids) - 1, min(len(grids), _MOST_FRAMES)).round().astype(int)
    frames = [frame for each in chosen if (frame := _read_picture(grids[each])) is not None]
    if not frames:
        return
    durations = [_FRAME_MS] * (len(frames) - 1) + [_LAST_FRAME_MS]
    frames[0].save(
        run / "grids.gif", save_all=True, append_images=frames[1:], duration=durations, loop=0
    )


def _read_picture(path: Path) -> Image.Image | None:
    """Returns a picture; None, with a warning, if it is damaged."""
    try:
        with Image.open(path) as picture:
            return picture.copy()
    except (OSError, SyntaxError) as error:  # the latter is Pillow's for a damaged PNG file
        _log.warning("%s is damaged, and grids.gif goes without it: %s", path, error)
        return None
