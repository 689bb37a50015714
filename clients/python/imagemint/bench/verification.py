"""Checks that the server repeats the answers that it gave under load."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

_KEPT = 64


@dataclass(frozen=True, slots=True)
class Verified:
    """Number of compared answers, and number of those that differed."""

    compared: int = 0
    different: int = 0

    def __add__(self, other: "Verified") -> "Verified":
        return Verified(self.compared + other.compared, self.different + other.different)


class Sample:
    """A sample of the answers, spread evenly over a run of any length.

    Every n-th answer is kept. When there are too many, n doubles and every other one is dropped.
    The comparison happens after the measurement.
    """

    def __init__(self) -> None:
        self.kept: list[tuple[int, object]] = []
        self._stride = 1

    def offer(self, turn: int, content: object) -> None:
        """Keeps the answer to a request if it is part of the sample."""
        if turn % self._stride:
            return
        self.kept.append((turn, content))
        if len(self.kept) == 2 * _KEPT:
            self._stride *= 2
            self.kept = [each for each in self.kept if each[0] % self._stride == 0]


async def compare_again(
    sample: Sample,
    again: Callable[[int], Awaitable[object]],
    fingerprint: Callable[[object], bytes],
) -> Verified:
    """Sends every request of `sample` again and compares the answers.

    Args:
        sample: the answers to compare.
        again: sends the request of a turn again and returns the content of the answer.
        fingerprint: returns the part of an answer that must be equal.

    Raises:
        CallFailed: a second answer did not arrive.
    """
    different = 0
    for turn, content in sample.kept:
        different += fingerprint(await again(turn)) != fingerprint(content)
    return Verified(len(sample.kept), different)
