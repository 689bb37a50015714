"""What one version of a model has done, as sums: for those who divide one by another.

Prometheus has the same as histograms; these are the exact counts and durations that Triton's
clients ask for over the Open Inference Protocol.
"""

import copy
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Phases:
    """Where the time of a pass went, in nanoseconds; of a request, the sum over its passes."""

    input_ns: int
    """Drawing latents and gathering inputs."""
    inference_ns: int
    """The backend."""
    output_ns: int
    """Handing out images."""


@dataclass(frozen=True, slots=True)
class Account:
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

    def add(self, ns: int) -> None:
        """Counts once more."""
        self.count += 1
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
    into.count += tally.count
    into.ns += tally.ns


class Statistics:
    """The sums of one version; any thread may add or look."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums = Sums()

    def add_batch(self, images: int, took: Phases, finished: Iterable[Account]) -> None:
        """Counts a pass and the requests that it made whole, so that nobody sees one half.

        Args:
            images: in the pass.
            took: by the pass.
            finished: requests whose last image it held.
        """
        with self._lock:
            passes = self._sums.passes.setdefault(images, Passes())
            passes.input.add(took.input_ns)
            passes.inference.add(took.inference_ns)
            passes.output.add(took.output_ns)
            self._sums.last_ms = time.time_ns() // 1_000_000
            for account in finished:
                self._add(account)

    def _add(self, account: Account) -> None:
        """Counts a request; what its passes do not account for is waiting, before or between."""
        sums, left = self._sums, account.total_ns
        sums.success.add(left)
        for tally, ns in (
            (sums.inference, account.phases.inference_ns),
            (sums.input, account.phases.input_ns),
            (sums.output, account.phases.output_ns),
        ):
            tally.add(min(ns, left))
            left -= min(ns, left)
        sums.queue.add(left)

    def add_failure(self, ns: int) -> None:
        """Counts a request that was refused for want of room, came too late, or failed.

        Args:
            ns: since its acceptance; 0 if it was not accepted.
        """
        with self._lock:
            self._sums.fail.add(ns)

    def sums(self) -> Sums:
        """Returns a copy of the sums."""
        with self._lock:
            return copy.deepcopy(self._sums)
