"""What one version of a model has done, as sums: for those who divide one by another.

Prometheus has the same as histograms; these are the exact counts and durations that Triton's
clients ask for over the Open Inference Protocol.
"""

import copy
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Phases(NamedTuple):
    """Where the time of a pass went, in nanoseconds; of a request, the sum over its passes."""

    input_ns: int
    """Drawing latents and gathering inputs."""
    inference_ns: int
    """The backend."""
    output_ns: int
    """Handing out images."""


class Account(NamedTuple):
    """A request that was answered."""

    total_ns: int
    """From acceptance to the last image."""
    phases: Phases
    """Passes that ran side by side count in full, so the sum may exceed the total."""


@dataclass(slots=True)
class Tally:
    """How often, and how long in all."""

    count: int = 0
    ns: int = 0

    def add(self, count: int, ns: int) -> None:
        """Counts so many more, that took so long in all."""
        self.count += count
        self.ns += ns


@dataclass(slots=True)
class Passes:
    """Passes of one size; all three have the same count."""

    input: Tally = field(default_factory=Tally)
    inference: Tally = field(default_factory=Tally)
    output: Tally = field(default_factory=Tally)


@dataclass(slots=True)
class Sums:
    """Everything up to one moment.

    The counts of ``success``, ``queue``, ``input``, ``inference`` and ``output`` are equal, and the
    times of the last four add up to that of the first.
    """

    success: Tally = field(default_factory=Tally)
    fail: Tally = field(default_factory=Tally)
    queue: Tally = field(default_factory=Tally)
    input: Tally = field(default_factory=Tally)
    inference: Tally = field(default_factory=Tally)
    output: Tally = field(default_factory=Tally)
    passes: dict[int, Passes] = field(default_factory=dict)
    """By images in the pass."""
    last_ms: int = 0
    """When the last pass ended, in milliseconds since 1970; 0 for never."""

    @property
    def images(self) -> int:
        """Images computed."""
        return sum(size * each.inference.count for size, each in self.passes.items())

    @property
    def executions(self) -> int:
        """Passes run."""
        return sum(each.inference.count for each in self.passes.values())


def added(parts: Iterable[Sums]) -> Sums:
    """Returns the sums of several workers as those of one; of none, zeros."""
    whole = Sums()
    for part in parts:
        for name in ("success", "fail", "queue", "input", "inference", "output"):
            _pour(getattr(part, name), getattr(whole, name))
        for size, each in part.passes.items():
            passes = whole.passes.setdefault(size, Passes())
            for name in ("input", "inference", "output"):
                _pour(getattr(each, name), getattr(passes, name))
        whole.last_ms = max(whole.last_ms, part.last_ms)
    return whole


def _pour(tally: Tally, into: Tally) -> None:
    into.add(tally.count, tally.ns)


class Statistics:
    """The sums of one version; any thread may add or look.

    Args:
        catch_up: called before anybody looks: adds what is still to be added.
    """

    def __init__(self, catch_up: Callable[[], None] = lambda: None) -> None:
        self._catch_up = catch_up
        self._lock = threading.Lock()
        self._sums = Sums()

    def add_batch(
        self, images: int, took: Phases, finished: Sequence[Account], at_ns: int | None = None
    ) -> None:
        """Counts a pass and the requests that it made whole, so that nobody sees one half.

        Args:
            images: in the pass.
            took: by the pass.
            finished: requests whose last image it held.
            at_ns: when it ended, since 1970; by default now.
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
        """Counts requests; what their passes do not account for is waiting, before or between."""
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
        """Counts a request that was refused for want of room, came too late, or failed.

        Args:
            ns: since its acceptance; 0 if it was not accepted.
        """
        with self._lock:
            self._sums.fail.add(1, ns)

    def sums(self) -> Sums:
        """Returns a copy of the sums."""
        self._catch_up()
        with self._lock:
            return copy.deepcopy(self._sums)
