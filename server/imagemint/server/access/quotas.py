"""What callers have used: images by token bucket, and calls under way.

The unit of the rate is the image, because that is the work. A bucket holds the burst at most and
gains the rate. A request for more than the burst waits until the bucket is full and leaves it in
debt, so the rate holds in the long run whatever the size of the requests.

Each process counts for itself. Of several workers each gives a client its share of the limits, see
`Client.shared`.
"""

import time
from collections import Counter
from collections.abc import Callable


class Usage:
    """Images and calls by caller; used on one event loop.

    Args:
        clock: seconds; for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # images left, and when
        self._calls: Counter[str] = Counter()

    def take(
        self, client: str, images: int, *, rate_per_s: float, burst: float, keep: float = 0.0
    ) -> float:
        """Takes images out of a client's bucket, or tells when it could.

        Args:
            client: name.
            images: how many, 1 or more; more than the burst need a full bucket.
            rate_per_s: images that it gains a second.
            burst: images that it holds at most.
            keep: share of the burst, 0 to 1, that must be left for other calls of the client; more
                images than the rest need a full bucket.

        Returns:
            0 when the images were taken. Otherwise none were, and it is the number of seconds after
            which they could be, if no other call of the client comes first.
        """
        now_s = self._clock()
        left, since_s = self._buckets.get(client, (burst, now_s))
        left = min(burst, left + (now_s - since_s) * rate_per_s)
        needed = min(keep * burst + images, burst)
        # Repeated sums of floats lose about a millionth of an image.
        if left < needed - 1e-6:
            return max((needed - left) / rate_per_s, 1e-3)
        self._buckets[client] = left - images, now_s
        return 0.0

    def give_back(self, client: str, images: int) -> None:
        """Returns images that were taken and not asked of any model after all."""
        if client in self._buckets:
            left, since_s = self._buckets[client]
            self._buckets[client] = left + images, since_s

    def enter(self, caller: str, limit: int | None) -> bool:
        """Counts one call more unless `limit` are running, and tells whether it did."""
        if limit is not None and self.running(caller) >= limit:
            return False
        self._calls[caller] += 1
        return True

    def leave(self, caller: str) -> None:
        """Counts one call less, after an `enter` that counted."""
        self._calls[caller] -= 1
        if not self._calls[caller]:
            del self._calls[caller]

    def running(self, caller: str) -> int:
        """Returns the calls of a caller that are counted."""
        return self._calls.get(caller, 0)
