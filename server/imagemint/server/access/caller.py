"""Identifies callers and limits what they may do: keys, models, rates and numbers of calls.

Without a key file everybody may do everything that the server offers, within the limits on calls.
With one, every method wants a key except those of `_KEYLESS_METHODS`, because balancers have none.
"""

import asyncio
import contextvars
from collections.abc import Callable, Iterable, Iterator

from imagemint.engine.errors import ImagemintError, ModelNotFound
from imagemint.server.access.api_keys import Client, KeyRing, compute_digest
from imagemint.server.access.quotas import Usage
from imagemint.server.errors import NotAllowed, RateLimited, TooManyCalls, Unauthenticated
from imagemint.server.telemetry.metrics import Metrics

# Health in its three forms: each tells one bit, to probes that cannot hold a key.
_KEYLESS_METHODS = (
    "/grpc.health.v1.Health/",
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
)
_KEY_HEADER = "x-api-key"
_BEARER_HEADER = "authorization"
_BEARER = "bearer "
# Nobody knows when a call of the same caller will end; this is soon enough to lose little.
_CALLS_RETRY_S = 0.5
# Streams leave this share of a burst to the single calls of the same client.
_STREAMS_KEEP = 0.5
# Longest time between two checks of a waiting stream whether it should end.
_MAX_CHECK_INTERVAL_S = 1.0

Metadata = Iterable[tuple[str, str | bytes]]


class Caller:
    """The caller of a call, found by `current_caller`.

    Args:
        client: the client whose key was presented; None where keys are not asked for, and then the
            caller may do everything.
        ring: knows what the client may do by now.
        usage: what the client has used.
        metrics: where to count.
        digest: of the key that the caller presented. The key decides what a call may do, not the
            client's name: a key that was replaced is withdrawn, although the client stays.
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
        """Name of the client; empty for anybody."""
        return self._client.name if self._client else ""

    @property
    def model_control(self) -> bool:
        """Whether it may load and unload models, where the server allows it at all."""
        return self._client is None or self._client.model_control

    @property
    def max_calls(self) -> int | None:
        """Calls that the client may run at the same time; None for what the server allows."""
        return self._client.max_concurrent_calls if self._client else None

    def may_use(self, model: str) -> bool:
        """Whether it may use a model, whether or not there is one of that name."""
        return self._client is None or self._client.may_use(model)

    def check_model(self, model: str) -> None:
        """Checks that it may use a model.

        Raises:
            NotAllowed: its key is for other models. The error is the same whether or not there is a
                model of that name, so that it does not tell what else is served.
        """
        if not self.may_use(model):
            raise NotAllowed(self.name, "use this model")

    def check_model_control(self) -> None:
        """Checks that it may load and unload models.

        Raises:
            NotAllowed: its key does not allow that.
        """
        if not self.model_control:
            raise NotAllowed(self.name, "control models")

    def find_end_reason(self, model: str) -> ImagemintError | None:
        """Returns why a call that is under way must end, as the key file says now; None if not.

        Args:
            model: the model of the call; empty while none is known.
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
        """Takes the images of one call from its rate.

        Raises:
            RateLimited: the client has had its images for now; says how long.
            Unauthenticated: the key was withdrawn during the call.
        """
        if delay_s := self._take(images, keep=0.0):
            raise RateLimited(self.name, delay_s)

    def charge_ahead(self, images: int) -> bool:
        """Takes the images of a chunk that can wait, and tells whether it did.

        Raises:
            Unauthenticated: the key was withdrawn during the call.
        """
        return not self._take(images, keep=_STREAMS_KEEP)

    async def pace(self, images: int, stay: Callable[[], None]) -> None:
        """Takes the images of a chunk from its rate, waiting until there are enough.

        Args:
            images: how many.
            stay: called while waiting; raises when the call should end.

        Raises:
            Unauthenticated: the key was withdrawn during the call.
        """
        while delay_s := self._take(images, keep=_STREAMS_KEEP):
            await asyncio.sleep(min(delay_s, _MAX_CHECK_INTERVAL_S))
            stay()

    def give_back(self, images: int) -> None:
        """Returns images that were charged and then refused for another reason."""
        if self._client is not None and self._client.rate_images_per_s and self._usage:
            self._usage.give_back(self.name, images)

    def chunk_size(self, usual: int) -> int:
        """Returns the images in a chunk of a stream whose caller names no size.

        With a rate it is a second's worth at most, because a chunk that took minutes would look
        like a server that hangs, and no more than a burst has for streams.
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
        """Counts images that were let in."""
        if self._client is not None and self._metrics is not None:
            self._metrics.client_images.labels(self.name, model).inc(images)

    def filter_error(self, error: Exception) -> Exception:
        """Returns an error as this caller may see it: without the models of others."""
        if isinstance(error, ModelNotFound) and self._client is not None:
            model = error.metadata["model"]
            return ModelNotFound(model, [name for name in error.known if self.may_use(name)])
        return error


class _AnonymousCaller(Caller):
    """The caller where keys are not asked for: asked often, and answering at once."""

    def check_model(self, model: str) -> None:
        """Checks nothing."""

    def charge(self, images: int) -> None:
        """Charges nothing."""

    def count(self, model: str, images: int) -> None:
        """Counts nothing."""


ANONYMOUS = _AnonymousCaller()
"""The caller where keys are not asked for."""

current_caller: contextvars.ContextVar[Caller] = contextvars.ContextVar(
    "current_caller", default=ANONYMOUS
)


class Guard:
    """Lets calls in, or says why not.

    Args:
        metrics: where to count.
        ring: the API keys; None asks for none.
        max_calls: calls that run at the same time in this process, health checks aside; None for
            any number.
        max_calls_per_caller: calls of one key, or without keys of one machine, that run at the
            same time; None for any number. For health checks it holds by itself.
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
        """Returns who makes a call.

        Args:
            method: `/package.Service/Method`.
            metadata: what came with the call.

        Raises:
            Unauthenticated: the method wants a key, and there is none, or none that is known.
            TooManyCalls: as many calls as may run in this process are running.
        """
        # Checked here as well as in `enter`, because here the request has not been read yet.
        if self._is_full and not method.startswith(_KEYLESS_METHODS):
            self._check_room()
        if self._ring is None or method.startswith(_KEYLESS_METHODS):
            return ANONYMOUS
        presented = set(_read_keys(metadata))
        if not presented:
            raise Unauthenticated(
                "this server wants an API key: metadata `authorization: Bearer KEY`"
            )
        digest = compute_digest(presented.pop()) if len(presented) == 1 else ""
        client = self._ring.find_by_digest(digest)
        if client is None:
            raise Unauthenticated("the API key is not known")
        return Caller(client, self._ring, self._usage, self._metrics, digest)

    def is_health_check(self, method: str) -> bool:
        """Whether a method is a health check, which everybody may ask for."""
        return method.startswith(_KEYLESS_METHODS)

    def reload_if_changed(self) -> None:
        """Reads the key file again if it has changed."""
        if self._ring is not None:
            self._ring.reload_if_changed()

    def enter(self, caller: Caller, owner: str, *, is_health_check: bool = False) -> None:
        """Counts a call from now on, until `leave`.

        Args:
            caller: who calls.
            owner: the name of the key, or the machine of a caller without one.
            is_health_check: whether it is a health check.

        Raises:
            TooManyCalls: as many as may run are running, in this process or of this caller.
        """
        if is_health_check:
            limit = self._max_calls_per_caller
            if not self._usage.enter(_name_health_owner(owner), limit):
                raise TooManyCalls("this address", limit or 0, _CALLS_RETRY_S)
            return
        self._check_room()
        limit = caller.max_calls or self._max_calls_per_caller
        if not self._usage.enter(owner, limit):
            whose = f"key {caller.name!r}" if caller.name else "this address"
            raise TooManyCalls(whose, limit or 0, _CALLS_RETRY_S)
        self._running += 1

    def leave(self, owner: str, *, is_health_check: bool = False) -> None:
        """Counts a call no more; arguments as of `enter`."""
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
    """Counts a call that was refused for a reason of this module's.

    Args:
        metrics: where to count.
        error: why it was refused; any other error counts nothing.
        model: a model that exists, or ''.
    """
    if isinstance(error, Unauthenticated | NotAllowed | RateLimited | TooManyCalls):
        metrics.rejected.labels(model, error.reason.lower()).inc()


def _read_keys(metadata: Metadata) -> Iterator[str]:
    """Yields every key that came with a call."""
    for name, value in metadata:
        if isinstance(value, bytes):
            continue
        if name == _KEY_HEADER:
            yield value.strip()
        elif name == _BEARER_HEADER and value[: len(_BEARER)].lower() == _BEARER:
            yield value[len(_BEARER) :].strip()
