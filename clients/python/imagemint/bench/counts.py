"""Counts of calls and images, which can be added over processes."""

from collections import Counter
from dataclasses import dataclass, field

from imagemint.bench.latencies import Latencies
from imagemint.bench.target import CallFailed


@dataclass(slots=True)
class Counts:
    """Counts of one kind of request in the measured window.

    Throughput counts what arrives in the window. Latencies, failures and requested images count the
    calls that should start in the window, whenever they end, so that no slow call is lost at the
    edge.
    """

    asked_calls: int = 0
    """Calls that should start in the window."""
    asked_images: int = 0
    """Images that these calls request."""
    calls: int = 0
    """Calls whose whole answer arrived in the window."""
    images: int = 0
    """Images that arrived in the window."""
    cut_streams: int = 0
    """Streams that the generator ended at the end of the window."""
    shed: Counter[str] = field(default_factory=Counter)
    """Calls that the server refused because of load, by code."""
    failed: Counter[str] = field(default_factory=Counter)
    """Calls that failed otherwise, by code."""
    example: str = ""
    """Message of the first call that was shed or failed."""
    latency: Latencies = field(default_factory=Latencies)
    """Latency of answered calls. In a stream, the time from one chunk to the next, or from the
    start.
    """
    first_chunk: Latencies = field(default_factory=Latencies)
    """Time from the start of a stream to its first chunk."""

    def count_failure(self, error: CallFailed) -> None:
        """Counts a failed call."""
        (self.shed if error.shed else self.failed)[error.code] += 1
        self.example = self.example or str(error)

    def add(self, other: "Counts") -> None:
        """Adds the counts of `other`."""
        self.asked_calls += other.asked_calls
        self.asked_images += other.asked_images
        self.calls += other.calls
        self.images += other.images
        self.cut_streams += other.cut_streams
        self.shed.update(other.shed)
        self.failed.update(other.failed)
        self.example = self.example or other.example
        self.latency.add(other.latency)
        self.first_chunk.add(other.first_chunk)


def sum_counts(tallies: list[Counts]) -> Counts:
    """Returns the sum of all counts."""
    found = Counts()
    for tally in tallies:
        found.add(tally)
    return found
