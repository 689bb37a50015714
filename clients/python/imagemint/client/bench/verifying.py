"""Whether answers given under load are those that the server gives again."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

_KEPT = 64


@dataclass(frozen=True, slots=True)
class Verified:
    """How many answers were compared, and how many were not the same twice."""

    compared: int = 0
    different: int = 0

    def __add__(self, other: "Verified") -> "Verified":
        return Verified(self.compared + other.compared, self.different + other.different)


class Sample:
    """Some of all answers, spread evenly over the run however long it is.

    Every n-th is kept; n doubles, and every other one is dropped, when too many are held. Nothing
    is compared while the clock runs.
    """

    def __init__(self) -> None:
        self.kept: list[tuple[int, object]] = []
        self._every = 1

    def offer(self, turn: int, content: object) -> None:
        """Keeps the answer to a request, or does not."""
        if turn % self._every:
            return
        self.kept.append((turn, content))
        if len(self.kept) == 2 * _KEPT:
            self._every *= 2
            self.kept = [each for each in self.kept if each[0] % self._every == 0]


async def compared(
    sample: Sample,
    again: Callable[[int], Awaitable[object]],
    fingerprint: Callable[[object], bytes],
) -> Verified:
    """Asks for everything in `sample` once more and compares.

    Args:
        sample: the answers.
        again: makes the request of a turn once more and returns the content of the answer.
        fingerprint: what must be equal.

    Raises:
        CallFailed: a second answer did not come.
    """
    different = 0
    for turn, content in sample.kept:
        different += fingerprint(await again(turn)) != fingerprint(content)
    return Verified(len(sample.kept), different)
