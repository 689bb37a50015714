"""Errors of the server's protection: who asks, what he may, and how much of it.

They belong to the tree of `imagemint.engine.errors`::

    ImagemintError
    ├── Unauthenticated       no API key, or none that is known
    ├── NotAllowed            the key is known, and may not do this
    ├── RateLimited           the key has had its images for now; says when to come back
    └── TooManyCalls          as many calls as may run are running; says when to come back

None of them holds what the caller presented: they travel to logs and to callers.
"""
# ruff: noqa: N818 - they name what happened, as in imagemint.engine.errors

from imagemint.engine.errors import ImagemintError


class Unauthenticated(ImagemintError):
    """No API key, or none that is known; which of both is all that is told.

    Args:
        message: one sentence without anything that was presented.
    """

    reason = "UNAUTHENTICATED"


class NotAllowed(ImagemintError):
    """The key is known, and may not do this.

    Args:
        client: the name of the key.
        what: what it may not do, such as `use model 'mnist'`.
    """

    reason = "NOT_ALLOWED"

    def __init__(self, client: str, what: str) -> None:
        super().__init__(f"key {client!r} may not {what}", metadata={"client": client})


class RateLimited(ImagemintError):
    """The key has had its images for now.

    Args:
        client: the name of the key.
        retry_delay_s: seconds after which the same request fits its rate, if nothing else of the
            same key comes between.
    """

    reason = "RATE_LIMITED"

    def __init__(self, client: str, retry_delay_s: float) -> None:
        self.retry_delay_s = retry_delay_s
        super().__init__(
            f"key {client!r} is over its rate; try again in {retry_delay_s:.2f} s",
            metadata={"client": client},
        )


class TooManyCalls(ImagemintError):
    """As many calls as may run are running.

    Args:
        whose: `the server`, or the key that is named.
        limit: how many may run.
        retry_delay_s: seconds after which to ask again; a guess, for nobody knows when a call ends.
    """

    reason = "TOO_MANY_CALLS"

    def __init__(self, whose: str, limit: int, retry_delay_s: float) -> None:
        self.retry_delay_s = retry_delay_s
        super().__init__(f"{whose} runs {limit} calls, which is its limit")
