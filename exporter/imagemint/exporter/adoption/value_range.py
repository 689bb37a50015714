"""Checks whether the declared value range fits the values of the output."""

import numpy as np
import numpy.typing as npt

from imagemint.exporter.errors import ExportError

_COMMON = ((-1.0, 1.0), (0.0, 1.0), (0.0, 255.0))
_MARGIN = 0.05  # share of the range; a linear last layer exceeds it slightly
_MOST_OUTSIDE = 0.25
_LEAST_USED = 0.05
_FEW_USED = 0.6


def check_value_range(values: npt.NDArray[np.float32], declared: tuple[float, float]) -> list[str]:
    """Compares output values with the declared values of black and white.

    Returns:
        Warnings if the values use only a part of the range, which suggests another range.

    Raises:
        ExportError: a quarter of the values lies outside, or they use less than a twentieth of the
            range. Images would be white, black or gray.
    """
    if not np.isfinite(values).all():
        raise ExportError("The output holds values that are not finite")
    low, high = declared
    span = high - low
    least, most = float(values.min()), float(values.max())
    found = (
        f"Output values lie between {least:.3g} and {most:.3g}, --value-range says {low:g},{high:g}"
    )
    outside = float(np.mean((values < low - _MARGIN * span) | (values > high + _MARGIN * span)))
    used = (min(most, high) - max(least, low)) / span
    hint = _suggest_range(values, declared)
    anyway = hint or " To adopt it all the same, use --no-check-value-range."
    if outside > _MOST_OUTSIDE:
        raise ExportError(f"{found}: {outside:.0%} of them are outside.{anyway}")
    if used < _LEAST_USED:
        raise ExportError(f"{found}: they use {max(used, 0):.1%} of it.{anyway}")
    if used < _FEW_USED:
        return [f"{found}: they use {used:.0%} of it, so images have little contrast.{hint}"]
    return []


def _suggest_range(values: npt.NDArray[np.float32], declared: tuple[float, float]) -> str:
    low, high = np.quantile(values, [0.001, 0.999])
    for least, most in sorted(_COMMON, key=lambda each: each[1] - each[0]):
        margin = _MARGIN * (most - least)
        if least - margin <= low and high <= most + margin and (least, most) != declared:
            return f" Did you mean --value-range={least:g},{most:g}?"
    return ""
