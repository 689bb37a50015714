"""Statistics of one version of a model, as sums of counts and durations.

Prometheus has the same data as histograms. Triton's clients request these exact sums over the Open
Inference Protocol.
"""

import copy
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import TypeAdapter


class Phases(NamedTuple):
    """Durations of the phases of a pass, in nanoseconds; of a request, summed over its passes."""

    input_ns: int
    """Drawing latents and collecting inputs."""
    inference_ns: int
    """Running the backend."""
    output_ns: int
    """Distributing the images to the requests."""


class Account(NamedTuple):
    """The durations of a completed request."""

    total_ns: int
    """From acceptance to the last image."""
    phases: Phases
    """Passes that ran in parallel count in full, so the sum can exceed the total."""


@dataclass(slots=True)
class Tally:
    """A count and a total duration."""

    count: int = 0
    ns: int = 0

    def add(self, count: int, ns: int) -> None:
        """Adds `count` events with a total duration of `ns` nanoseconds."""
        self.count += count
        self.ns += ns


@dataclass(slots=True)
class Passes:
    """Passes of one batch size; all three tallies have the same count."""

    input: Tally = field(default_factory=Tally)
    inference: Tally = field(default_factory=Tally)
    output: Tally = field(default_factory=Tally)


@dataclass(slots=True)
class Sums:
    """All sums at one point in time.

    The counts of ``success``, ``queue``, ``input``, ``inference`` and ``output`` are equal, and the
    durations of the last four add up to the duration of the first.
    """

    success: Tally = field(default_factory=Tally)
    fail: Tally = field(default_factory=Tally)
    queue: Tally = field(default_factory=Tally)
    input: Tally = field(default_factory=Tally)
    inference: Tally = field(default_factory=Tally)
    output: Tally = field(default_factory=Tally)
    passes: dict[int, Passes] = field(default_factory=dict)
    """Passes by batch size."""
    last_ms: int = 0
    """End of the last pass, in milliseconds since 1970; 0 if there was none."""

    @property
    def images(self) -> int:
        """Number of images computed."""
        return sum(size * each.inference.count for size, each in self.passes.items())

    @property
    def executions(self) -> int:
        """Number of passes."""
        return sum(each.inference.count for each in self.passes.values())


_VERSIONS = TypeAdapter(list[tuple[str, int, Sums]])


def dump_sums(sums: Mapping[tuple[str, int], Sums]) -> list[Any]:
    """Returns the sums of versions, by model and number, as a JSON value for other workers."""
    found = [(name, number, sum_) for (name, number), sum_ in sums.items()]
    value: list[Any] = _VERSIONS.dump_python(found, mode="json")
    return value


def parse_sums(value: object) -> dict[tuple[str, int], Sums]:
    """Returns the sums of `dump_sums`."""
    return {(name, number): each for name, number, each in _VERSIONS.validate_python(value)}


def add_sums(parts: Iterable[Sums]) -> Sums:
    """Returns the total of the sums of several workers; zeros for no workers."""
    total = Sums()
    for part in parts:
        for name in ("success", "fail", "queue", "input", "inference", "output"):
            _add_to(getattr(part, name), getattr(total, name))
        for size, passes_of_size in part.passes.items():
            passes = total.passes.setdefault(size, Passes())
            for name in ("input", "inference", "output"):
                _add_to(getattr(passes_of_size, name), getattr(passes, name))
        total.last_ms = max(total.last_ms, part.last_ms)
    return total


def _add_to(tally: Tally, into: Tally) -> None:
    into.add(tally.count, tally.ns)


class Statistics:
    """The statistics of one version; thread-safe.

    Args:
        catch_up: called before `copy_sums` reads, to add values that are still buffered.
    """

    def __init__(self, catch_up: Callable[[], None] = lambda: None) -> None:
        self._catch_up = catch_up
        self._lock = threading.Lock()
        self._sums = Sums()

    def add_batch(
        self, images: int, took: Phases, finished: Sequence[Account], at_ns: int | None = None
    ) -> None:
        """Counts a pass and the requests that it completes, atomically.

        Args:
            images: number of images in the pass.
            took: the durations of the pass.
            finished: the requests whose last image the pass computed.
            at_ns: end of the pass in nanoseconds since 1970. Default: now.
        """
        with self._lock:
            sums = self._sums
            passes = sums.passes.get(images)
            if passes is None:
                passes = sums.passes[images] = Passes()
            passes.input.add(1, took.input_ns)
            passes.inference.add(1, took.inference_ns)
            passes.output.add(1, took.output_ns)
            sums.last_ms = (at_ns or time.time_ns()) // 1_000_000
            self._add(finished)

    def _add(self, accounts: Sequence[Account]) -> None:
        """Counts requests; time outside of their passes counts as queue time."""
        total = waiting = input_ns = inference_ns = output_ns = 0
        for total_ns, phases in accounts:
            inference = min(phases.inference_ns, total_ns)
            inputs = min(phases.input_ns, total_ns - inference)
            outputs = min(phases.output_ns, total_ns - inference - inputs)
            total += total_ns
            inference_ns += inference
            input_ns += inputs
            output_ns += outputs
            waiting += total_ns - inference - inputs - outputs
        sums, count = self._sums, len(accounts)
        sums.success.add(count, total)
        sums.queue.add(count, waiting)
        sums.input.add(count, input_ns)
        sums.inference.add(count, inference_ns)
        sums.output.add(count, output_ns)

    def add_failure(self, ns: int) -> None:
        """Counts a request that failed, missed its deadline, or was refused by a full queue.

        Args:
            ns: nanoseconds since its acceptance; 0 if it was not accepted.
        """
        with self._lock:
            self._sums.fail.add(1, ns)

    def copy_sums(self) -> Sums:
        """Returns a copy of the sums."""
        self._catch_up()
        with self._lock:
            return copy.deepcopy(self._sums)
