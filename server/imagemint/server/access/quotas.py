"""Counts what callers have used: images in token buckets, and running calls.

The unit of the rate is the image, because images are the work. A bucket holds at most the burst and
is refilled at the rate. A request for more images than the burst waits until the bucket is full and
leaves it in debt. The rate therefore holds in the long run for requests of any size.

Each process counts separately. Each of several workers gives a client its share of the limits, see
`Client.divide_limits`.
"""

import time
from collections import Counter
from collections.abc import Callable


class Usage:
    """Images and calls by caller. Use it on one event loop.

    Args:
        clock: returns seconds; tests replace it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # images left, and time of the update
        self._calls: Counter[str] = Counter()

    def take(
        self, client: str, images: int, *, rate_per_s: float, burst: float, keep: float = 0.0
    ) -> float:
        """Takes images from a client's bucket, or returns the delay until it has them.

        Args:
            client: name of the client.
            images: number of images, 1 or more. More than the burst need a full bucket.
            rate_per_s: images that the bucket gains per second.
            burst: images that the bucket holds at most.
            keep: share of the burst, 0 to 1, that must remain for other calls of the client. More
                images than the rest need a full bucket.

        Returns:
            0 if the images were taken. Otherwise no images were taken, and the result is the number
            of seconds until they are available, if no other call of the client takes them first.
        """
        now_s = self._clock()
        left, since_s = self._buckets.get(client, (burst, now_s))
        left = min(burst, left + (now_s - since_s) * rate_per_s)
        needed = min(keep * burst + images, burst)
        # Rounding errors of repeated sums amount to about a millionth of an image.
        if left < needed - 1e-6:
            return max((needed - left) / rate_per_s, 1e-3)
        self._buckets[client] = left - images, now_s
        return 0.0

    def give_back(self, client: str, images: int) -> None:
        """Returns images to the bucket that were taken and then not computed."""
        if client in self._buckets:
            left, since_s = self._buckets[client]
            self._buckets[client] = left + images, since_s

    def enter(self, caller: str, limit: int | None) -> bool:
        """Counts one more call unless `limit` calls are running; returns whether it did."""
        if limit is not None and self.count_running(caller) >= limit:
            return False
        self._calls[caller] += 1
        return True

    def leave(self, caller: str) -> None:
        """Counts one call less. Call it after an `enter` that returned True."""
        self._calls[caller] -= 1
        if not self._calls[caller]:
            del self._calls[caller]

    def count_running(self, caller: str) -> int:
        """Returns the number of running calls of a caller."""
        return self._calls.get(caller, 0)
