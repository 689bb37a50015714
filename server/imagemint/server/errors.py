"""Errors for callers without permission and for callers over their limits.

They belong to the tree of `imagemint.engine.errors`::

    ImagemintError
    ├── Unauthenticated       no API key, or an unknown one
    ├── NotAllowed            the API key does not permit this
    ├── OriginNotAllowed      a web page of another origin sent the request
    ├── RateLimited           the API key is over its image rate; has a retry delay
    └── TooManyCalls          the limit of concurrent calls is reached; has a retry delay

No error contains what the caller presented, because logs and callers receive the errors.
"""
# ruff: noqa: N818 - the names state the condition, as in imagemint.engine.errors

from imagemint.engine.errors import ImagemintError


class Unauthenticated(ImagemintError):
    """The call has no API key, one without `Bearer`, or an unknown one. The message says which.

    Args:
        message: one sentence that contains nothing of what the caller presented.
    """

    reason = "UNAUTHENTICATED"


class NotAllowed(ImagemintError):
    """The API key is known but does not permit this.

    Args:
        client: the name of the API key.
        what: the action that is not permitted, such as `use model 'mnist'`.
    """

    reason = "NOT_ALLOWED"

    def __init__(self, client: str, what: str) -> None:
        super().__init__(f"key {client!r} may not {what}", metadata={"client": client})


class OriginNotAllowed(ImagemintError):
    """A browser sent the request for a web page whose origin is not in `http_allow_origins`."""

    reason = "ORIGIN_NOT_ALLOWED"

    def __init__(self) -> None:
        super().__init__(
            "pages of this origin may not send forms; the operator can name it in"
            " http_allow_origins, and a script of the server's own page sends x-requested-with"
        )


class RateLimited(ImagemintError):
    """The API key is over its image rate.

    Args:
        client: the name of the API key.
        retry_delay_s: seconds after which the same request fits the rate, if the key makes no other
            request meanwhile.
    """

    reason = "RATE_LIMITED"

    def __init__(self, client: str, retry_delay_s: float) -> None:
        self.retry_delay_s = retry_delay_s
        super().__init__(
            f"key {client!r} is over its rate; try again in {retry_delay_s:.2f} s",
            metadata={"client": client},
        )


class TooManyCalls(ImagemintError):
    """The maximum number of concurrent calls is reached.

    Args:
        whose: `the server`, or the API key with its name.
        limit: the maximum number of calls.
        retry_delay_s: seconds after which to retry; an estimate, since calls end at any time.
        is_of_caller: whether it is the limit of one caller, so that others are served.
    """

    reason = "TOO_MANY_CALLS"

    def __init__(
        self, whose: str, limit: int, retry_delay_s: float, *, is_of_caller: bool = False
    ) -> None:
        self.retry_delay_s = retry_delay_s
        self.is_of_caller = is_of_caller
        super().__init__(f"{whose} runs {limit} calls, which is its limit")
