"""Plots the report. Only this module imports matplotlib, which the extra `bench` installs."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imagemint.bench.load import Closed, Open
from imagemint.bench.point import Point

_PANEL_INCHES = (5.0, 4.0)


def draw(path: Path, points: Sequence[Point], knee: Point | None) -> None:
    """Plots latency against load, throughput against concurrency, and batch sizes.

    Each panel appears if there is something to show: latency for any loop, throughput for a closed
    loop, batch sizes if /metrics was read.

    Args:
        path: path of the picture; its suffix determines the format, as in matplotlib.
        points: one or more points.
        knee: the point to mark as the knee; None for no mark.

    Raises:
        OSError: the picture cannot be written.
        ValueError: matplotlib does not know the suffix.
    """
    closed = [point for point in points if isinstance(point.load, Closed)]
    batched = [point for point in points if point.server and any(point.server.batches.values())]
    panels = 1 + bool(closed) + bool(batched)
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(width * panels, height), layout="constrained")
    axes = iter(figure.subplots(1, panels, squeeze=False)[0])
    _plot_latency(next(axes), points, knee)
    if closed:
        _plot_throughput(next(axes), closed)
    if batched:
        _plot_batches(next(axes), batched)
    figure.savefig(path)


def _plot_latency(axes: Axes, points: Sequence[Point], knee: Point | None) -> None:
    axes.set(title="Latency against load", xlabel="images/s", ylabel="ms", yscale="log")
    for kind, marker in ((Open, "o"), (Closed, "s")):
        of_kind = sorted(
            (point for point in points if isinstance(point.load, kind) and point.sum.latency),
            key=_get_rate,
        )
        for name, q in (("p50", 0.5), ("p99", 0.99)):
            if of_kind:
                axes.plot(
                    [_get_rate(point) for point in of_kind],
                    [point.sum.latency.compute_quantile_ms(q) or 0.0 for point in of_kind],
                    marker=marker,
                    label=f"{name}, {kind.__name__.lower()} loop",
                )
    if knee:
        axes.axvline(_get_rate(knee), linestyle=":", color="gray", label="knee")
    axes.legend()


def _get_rate(point: Point) -> float:
    """Returns images per second: offered in an open loop, received in a closed one."""
    return point.offered_images_per_s or point.images_per_s


def _plot_throughput(axes: Axes, closed: Sequence[Point]) -> None:
    pairs = sorted(
        (point.load.concurrency, point.images_per_s)
        for point in closed
        if isinstance(point.load, Closed)
    )
    axes.set(title="Throughput against concurrency", xlabel="callers", ylabel="images/s")
    axes.plot([callers for callers, _ in pairs], [rate for _, rate in pairs], marker="s")
    axes.set_ylim(bottom=0)


def _plot_batches(axes: Axes, batched: Sequence[Point]) -> None:
    axes.set(title="Images in a batch", xlabel="at most", ylabel="share of the passes")
    sizes = [point.server.batches for point in batched if point.server]
    # Up to the largest bucket with batches. All points have the same buckets, as they are of one
    # server.
    shown = max(n for size in sizes for n, count in enumerate(size.values(), start=1) if count)
    for point, batches in zip(batched, sizes, strict=True):
        passes = sum(batches.values())
        shares = [count / passes for count in batches.values()]
        names = [bound.removesuffix(".0") for bound in batches]
        axes.plot(names[:shown], shares[:shown], marker=".", label=str(point.load))
    axes.legend(fontsize="small")
