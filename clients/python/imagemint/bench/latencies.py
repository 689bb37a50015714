"""Latencies in HDR histograms: three significant digits from a microsecond to an hour.

High dynamic range histograms (Gil Tene, http://hdrhistogram.org) keep every value to a fixed
relative precision. Histograms of several processes and machines add up exactly to the histogram of
all their calls, which percentiles do not. The text form is the V2 encoding, which libraries of
other languages read.
"""

from typing import Self

from hdrh.histogram import HdrHistogram

_LOWEST_US = 1
_HIGHEST_US = 3_600_000_000
_DIGITS = 3


class Latencies:
    """A histogram of latencies. It merges, pickles, and has a text form."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)

    @classmethod
    def decode(cls, text: str) -> Self:
        """Reads the text form that `encode` writes."""
        latencies = cls()
        latencies._histogram.decode_and_add(text.encode())
        return latencies

    def encode(self) -> str:
        """Returns all values in microseconds: HdrHistogram V2, compressed, base64."""
        return str(self._histogram.encode().decode())

    def record(self, nanoseconds: int) -> None:
        """Counts one latency. More than an hour counts as an hour."""
        self._histogram.record_value(min(max(nanoseconds, 0) // 1000, _HIGHEST_US))

    def add(self, others: "Latencies") -> None:
        """Adds the latencies of `others`."""
        self._histogram.add(others._histogram)  # noqa: SLF001 - of this class

    def compute_quantile_ms(self, q: float) -> float | None:
        """Returns the quantile `q` (0 to 1) in milliseconds; None if nothing was counted."""
        if not len(self):
            return None
        return float(self._histogram.get_value_at_percentile(q * 100)) / 1e3

    def compute_mean_ms(self) -> float | None:
        """Returns the mean in milliseconds; None if nothing was counted."""
        return float(self._histogram.get_mean_value()) / 1e3 if len(self) else None

    def __len__(self) -> int:
        return int(self._histogram.get_total_count())

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return type(self).decode, (self.encode(),)
