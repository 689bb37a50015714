"""Checks whether the declared value range fits the values of the output."""

import numpy as np
import numpy.typing as npt

from imagemint.exporter.errors import ExportError

_COMMON = ((-1.0, 1.0), (0.0, 1.0), (0.0, 255.0))
_MARGIN = 0.05  # share of the range; a linear last layer exceeds it slightly
_MOST_OUTSIDE = 0.25
_LEAST_USED = 0.05
_FEW_USED = 0.6


def check_declared_range(declared: tuple[float, float]) -> None:
    """Checks the declared values of black and white, without any output.

    Raises:
        ExportError: black is not below white, or their distance is no finite float32 other than 0.
    """
    low, high = declared
    if not high > low:
        remedy = f" Did you mean --value-range={high:g},{low:g}?" if high < low else ""
        raise ExportError(
            f"value range {low:g},{high:g}: black must be below white.{remedy}"
            " For inverted images, negate the output in the file"
        )
    with np.errstate(all="ignore"):
        scale = np.float32(255) / (np.float32(high) - np.float32(low))
    if not (np.isfinite(scale) and scale > 0 and np.isfinite(np.float32(low) * scale)):
        raise ExportError(
            f"value range {low:g},{high:g}: the distance of black and white must be a float32"
            " that can divide 255"
        )


def check_value_range(values: npt.NDArray[np.float32], declared: tuple[float, float]) -> list[str]:
    """Compares output values with the declared values of black and white.

    Returns:
        Warnings if the values use only a part of the range, which suggests another range.

    Raises:
        ExportError: a quarter of the values lies outside, or they use less than a twentieth of the
            range. Images would be white, black or gray.
    """
    if not np.isfinite(values).all():
        share = 1 - float(np.mean(np.isfinite(values)))
        raise ExportError(
            f"{share:.1%} of the output values are NaN or infinite. Check --distribution,"
            " --fix-input and the file itself: latents may have to be drawn otherwise"
        )
    low, high = declared
    span = high - low
    least, most = float(values.min()), float(values.max())
    found = (
        f"Output values lie between {least:.3g} and {most:.3g}, --value-range says {low:g},{high:g}"
    )
    outside = float(np.mean((values < low - _MARGIN * span) | (values > high + _MARGIN * span)))
    used = _compute_used_share((least, most), declared)
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
    for common in sorted(_COMMON, key=lambda each: each[1] - each[0]):
        least, most = common
        margin = _MARGIN * (most - least)
        fits = least - margin <= low and high <= most + margin
        if fits and _compute_used_share((low, high), common) >= _FEW_USED and common != declared:
            return f" Did you mean --value-range={least:g},{most:g}?"
    return ""


def _compute_used_share(found: tuple[float, float], declared: tuple[float, float]) -> float:
    (least, most), (low, high) = found, declared
    return (min(most, high) - max(least, low)) / (high - low)
