"""Identifies callers and enforces their permissions, rates and numbers of calls.

Without a key file, every caller may use everything that the server offers, within the limits on
calls. With a key file, every method except `_KEYLESS_METHODS` requires a key. Load balancers call
these methods and have no key.
"""

import asyncio
import contextvars
from collections.abc import Callable, Iterable, Iterator

from imagemint.engine.errors import ImagemintError, ModelNotFound
from imagemint.server.access.api_keys import Client, KeyRing, compute_digest
from imagemint.server.access.quotas import Usage
from imagemint.server.errors import NotAllowed, RateLimited, TooManyCalls, Unauthenticated
from imagemint.server.telemetry.metrics import Metrics

# The three health checks. Each returns one bit, to probes that cannot hold a key.
_KEYLESS_METHODS = (
    "/grpc.health.v1.Health/",
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
)
_KEY_HEADER = "x-api-key"
_BEARER_HEADER = "authorization"
_BEARER = "bearer "
# The server cannot know when a call of the same caller will end. This delay is short enough to
# waste little time.
_CALLS_RETRY_S = 0.5
# Streams leave this share of a burst to single calls of the same client.
_STREAMS_KEEP = 0.5
# Longest time between two checks whether a waiting stream should end.
_MAX_CHECK_INTERVAL_S = 1.0

Metadata = Iterable[tuple[str, str | bytes]]


class Caller:
    """The caller of a call. Get it from `current_caller`.

    Args:
        client: the client whose key came with the call; None if the server requires no keys, and
            then the caller may do everything.
        ring: the current permissions of the clients.
        usage: the images and calls that clients have used.
        metrics: the server's metrics.
        digest: digest of the caller's key. Permissions belong to the key, not to the client's name:
            a key that was replaced is no longer valid, although its client remains.
    """

    def __init__(
        self,
        client: Client | None = None,
        ring: KeyRing | None = None,
        usage: Usage | None = None,
        metrics: Metrics | None = None,
        digest: str = "",
    ) -> None:
        self._client = client
        self._digest = digest
        self._ring = ring
        self._usage = usage
        self._metrics = metrics

    @property
    def name(self) -> str:
        """Name of the client; empty without keys."""
        return self._client.name if self._client else ""

    @property
    def model_control(self) -> bool:
        """Whether the caller may load and unload models, if the server allows it at all."""
        return self._client is None or self._client.model_control

    @property
    def max_calls(self) -> int | None:
        """Number of calls that the client may run at the same time; None for the server's limit."""
        return self._client.max_concurrent_calls if self._client else None

    def may_use(self, model: str) -> bool:
        """Returns whether the caller may use a model. The model need not exist."""
        return self._client is None or self._client.may_use(model)

    def check_model(self, model: str) -> None:
        """Checks that the caller may use a model.

        Raises:
            NotAllowed: the caller's key is for other models. The error is the same whether or not
                the model exists, so that it does not reveal which models the server has.
        """
        if not self.may_use(model):
            raise NotAllowed(self.name, "use this model")

    def check_model_control(self) -> None:
        """Checks that the caller may load and unload models.

        Raises:
            NotAllowed: the caller's key does not allow model control.
        """
        if not self.model_control:
            raise NotAllowed(self.name, "control models")

    def find_end_reason(self, model: str) -> ImagemintError | None:
        """Returns why a running call must end under the current key file; None if it may go on.

        Args:
            model: the model of the call; empty if it is not known yet.
        """
        if self._client is None or self._ring is None:
            return None
        client = self._ring.find_by_digest(self._digest)
        if client is None:
            return Unauthenticated("the API key was withdrawn")
        self._client = client
        if model and not client.may_use(model):
            return NotAllowed(client.name, "use this model")
        return None

    def charge(self, images: int) -> None:
        """Charges the images of one call to the client's rate.

        Raises:
            RateLimited: the client has used up its rate; the error has the delay before a retry.
            Unauthenticated: the key was withdrawn during the call.
        """
        if delay_s := self._take(images, keep=0.0):
            raise RateLimited(self.name, delay_s)

    def charge_ahead(self, images: int) -> bool:
        """Charges the images of a chunk that can wait; returns whether the rate allowed it.

        Raises:
            Unauthenticated: the key was withdrawn during the call.
        """
        return not self._take(images, keep=_STREAMS_KEEP)

    async def pace(self, images: int, stay: Callable[[], None]) -> None:
        """Charges the images of a chunk to the client's rate, and waits until the rate allows it.

        Args:
            images: number of images.
            stay: called repeatedly while waiting; raises if the call should end.

        Raises:
            Unauthenticated: the key was withdrawn during the call.
        """
        while delay_s := self._take(images, keep=_STREAMS_KEEP):
            await asyncio.sleep(min(delay_s, _MAX_CHECK_INTERVAL_S))
            stay()

    def give_back(self, images: int) -> None:
        """Returns charged images to the client's rate, after a refusal for another reason."""
        if self._client is not None and self._client.rate_images_per_s and self._usage:
            self._usage.give_back(self.name, images)

    def choose_chunk_size(self, usual: int) -> int:
        """Returns the number of images per chunk for a stream that names no chunk size.

        With a rate, a chunk has at most the images of one second, because a chunk that takes
        minutes looks like a server that hangs. It also has at most the part of a burst that streams
        may use.
        """
        client = self._client
        if client is None or client.rate_images_per_s is None:
            return usual
        share = min(client.rate_images_per_s, (1 - _STREAMS_KEEP) * client.burst)
        return max(1, min(usual, int(share)))

    def _take(self, images: int, *, keep: float) -> float:
        if self._client is None or self._ring is None or self._usage is None:
            return 0.0
        client = self._ring.find_by_digest(self._digest)
        if client is None:
            raise Unauthenticated("the API key was withdrawn")
        self._client = client
        if client.rate_images_per_s is None:
            return 0.0
        return self._usage.take(
            client.name,
            images,
            rate_per_s=client.rate_images_per_s,
            burst=client.burst,
            keep=keep,
        )

    def count(self, model: str, images: int) -> None:
        """Counts images that were accepted for computation."""
        if self._client is not None and self._metrics is not None:
            self._metrics.client_images.labels(self.name, model).inc(images)

    def filter_error(self, error: Exception) -> Exception:
        """Returns the error without the names of models that this caller may not use."""
        if isinstance(error, ModelNotFound) and self._client is not None:
            model = error.metadata["model"]
            return ModelNotFound(model, [name for name in error.known if self.may_use(name)])
        return error


class _AnonymousCaller(Caller):
    """The caller of a server without keys. It is a fast path: the methods return at once."""

    def check_model(self, model: str) -> None:
        """Does nothing: every model is allowed."""

    def charge(self, images: int) -> None:
        """Does nothing: there is no rate."""

    def count(self, model: str, images: int) -> None:
        """Does nothing: there is no client to count for."""


ANONYMOUS = _AnonymousCaller()
"""The caller of every call on a server without keys."""

current_caller: contextvars.ContextVar[Caller] = contextvars.ContextVar(
    "current_caller", default=ANONYMOUS
)


class Guard:
    """Accepts calls, or raises why they are refused.

    Args:
        metrics: the server's metrics.
        ring: the API keys. Default: no keys are required.
        max_calls: number of calls that may run at the same time in this process, health checks
            excluded; None for no limit.
        max_calls_per_caller: number of calls of one key, or of one machine without keys, that may
            run at the same time; None for no limit. Health checks are counted separately.
    """

    def __init__(
        self,
        metrics: Metrics,
        ring: KeyRing | None = None,
        max_calls: int | None = None,
        max_calls_per_caller: int | None = None,
    ) -> None:
        self._metrics = metrics
        self._ring = ring
        self._usage = Usage()
        self._max_calls = max_calls
        self._max_calls_per_caller = max_calls_per_caller
        self._running = 0

    def identify(self, method: str, metadata: Metadata) -> Caller:
        """Returns the caller of a call.

        Args:
            method: `/package.Service/Method`.
            metadata: the metadata of the call.

        Raises:
            Unauthenticated: the method requires a key, and the call has none or an unknown one.
            TooManyCalls: the limit on calls of this process is reached.
        """
        # `enter` checks this too. Here the request has not been read yet.
        if self._is_full and not method.startswith(_KEYLESS_METHODS):
            self._check_room()
        if self._ring is None or method.startswith(_KEYLESS_METHODS):
            return ANONYMOUS
        metadata = list(metadata)
        presented = set(_read_keys(metadata))
        if not presented:
            if any(name == _BEARER_HEADER for name, _ in metadata):
                raise Unauthenticated(
                    "the metadata `authorization` has another form than `Bearer KEY`, with the word"
                    " Bearer before the API key"
                )
            raise Unauthenticated(
                "this server requires an API key: send metadata `authorization: Bearer KEY`"
            )
        digest = compute_digest(presented.pop()) if len(presented) == 1 else ""
        client = self._ring.find_by_digest(digest)
        if client is None:
            raise Unauthenticated("the API key is not known")
        return Caller(client, self._ring, self._usage, self._metrics, digest)

    def is_health_check(self, method: str) -> bool:
        """Returns whether a method is a health check, which needs no key."""
        return method.startswith(_KEYLESS_METHODS)

    def reload_if_changed(self) -> None:
        """Reads the key file again if it has changed."""
        if self._ring is not None:
            self._ring.reload_if_changed()

    def enter(self, caller: Caller, owner: str, *, is_health_check: bool = False) -> None:
        """Counts a running call until `leave`.

        Args:
            caller: the caller of the call.
            owner: the name of the key, or the machine of a caller without one.
            is_health_check: whether it is a health check.

        Raises:
            TooManyCalls: the limit on calls of this process or of this caller is reached.
        """
        if is_health_check:
            limit = self._max_calls_per_caller
            if not self._usage.enter(_name_health_owner(owner), limit):
                raise TooManyCalls("this address", limit or 0, _CALLS_RETRY_S, is_of_caller=True)
            return
        self._check_room()
        limit = caller.max_calls or self._max_calls_per_caller
        if not self._usage.enter(owner, limit):
            whose = f"key {caller.name!r}" if caller.name else "this address"
            raise TooManyCalls(whose, limit or 0, _CALLS_RETRY_S, is_of_caller=True)
        self._running += 1

    def leave(self, owner: str, *, is_health_check: bool = False) -> None:
        """Stops counting a call; the arguments are those of `enter`."""
        if is_health_check:
            self._usage.leave(_name_health_owner(owner))
        else:
            self._running -= 1
            self._usage.leave(owner)

    @property
    def _is_full(self) -> bool:
        return self._max_calls is not None and self._running >= self._max_calls

    def _check_room(self) -> None:
        if self._is_full and self._max_calls is not None:
            raise TooManyCalls("the server", self._max_calls, _CALLS_RETRY_S)


def _name_health_owner(owner: str) -> str:
    return f"health of {owner}"


def count_refusal(metrics: Metrics, error: Exception, model: str) -> None:
    """Counts a call that was refused for an access reason.

    Args:
        metrics: the server's metrics.
        error: the reason of the refusal; any other error is not counted.
        model: name of an existing model, or ''.
    """
    if isinstance(error, Unauthenticated | NotAllowed | RateLimited | TooManyCalls):
        reason = error.reason.lower()
        if isinstance(error, TooManyCalls) and error.is_of_caller:
            reason += "_of_caller"
        metrics.rejected.labels(model, reason).inc()


def _read_keys(metadata: Metadata) -> Iterator[str]:
    """Yields every key in the metadata of a call."""
    for name, value in metadata:
        if isinstance(value, bytes):
            continue
        if name == _KEY_HEADER:
            yield value.strip()
        elif name == _BEARER_HEADER and value[: len(_BEARER)].lower() == _BEARER:
            yield value[len(_BEARER) :].strip()
