"""Who calls, and whether he may: API keys, permissions, rates and numbers of calls.

Without a file of keys everybody may do everything that the server offers, and only the number of
calls is limited. With one, every method wants a key but those of `_OPEN`: balancers have none.
"""

import asyncio
import contextvars
from collections.abc import Callable, Iterable, Iterator

from imagemint.engine.errors import ModelNotFound
from imagemint.server.errors import NotAllowed, RateLimited, TooManyCalls, Unauthenticated
from imagemint.server.keys import Client, KeyRing, digest_of
from imagemint.server.limits import Ledger
from imagemint.server.metrics import Metrics

# Health in its three forms: each tells one bit, to probes that cannot hold a key.
_OPEN = (
    "/grpc.health.v1.Health/",
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
)
_KEY_HEADER = "x-api-key"
_BEARER_HEADER = "authorization"
_BEARER = "bearer "
# When a call of the same client will end nobody knows; soon enough to lose little.
_CALLS_RETRY_S = 0.5
# Streams leave this share of a burst to the single calls of the same client, as they leave half of
# the queue to those who come anew.
_STREAMS_KEEP = 0.5
# How often a stream that waits looks whether its key, and the server, still hold.
_LONGEST_NAP_S = 1.0

Metadata = Iterable[tuple[str, str | bytes]]


class Caller:
    """Whoever makes the call being answered, found by `current_caller`.

    Args:
        client: who it is; None where keys are not asked for, and then he may do everything.
        ring: knows what the client may by now.
        ledger: what the client has used.
        metrics: where to count.
        digest: of the key that the caller presented. Not the client's name decides what a call may
            do, but the key: a key that was replaced is withdrawn, although the client stays.
    """

    def __init__(
        self,
        client: Client | None = None,
        ring: KeyRing | None = None,
        ledger: Ledger | None = None,
        metrics: Metrics | None = None,
        digest: str = "",
    ) -> None:
        self._client = client
        self._digest = digest
        self._ring = ring
        self._ledger = ledger
        self._metrics = metrics

    @property
    def name(self) -> str:
        """Name of the client; empty for anybody."""
        return self._client.name if self._client else ""

    @property
    def model_control(self) -> bool:
        """Whether he may load and unload models, where the server allows it at all."""
        return self._client is None or self._client.model_control

    def may_use(self, model: str) -> bool:
        """Whether he may use a model, be there one of that name or not."""
        return self._client is None or self._client.may_use(model)

    def check_model(self, model: str) -> None:
        """Checks that he may use a model.

        Raises:
            NotAllowed: his key is for other models. The same whether there is one of that name or
                not, so that it tells nothing about what else is served.
        """
        if not self.may_use(model):
            raise NotAllowed(self.name, "use this model")

    def check_model_control(self) -> None:
        """Checks that he may load and unload models.

        Raises:
            NotAllowed: his key is not for that.
        """
        if not self.model_control:
            raise NotAllowed(self.name, "control models")

    def charge(self, images: int) -> None:
        """Takes the images of one call from his rate.

        Raises:
            RateLimited: he has had his images for now; says how long.
            Unauthenticated: the key was withdrawn during the call.
        """
        if delay_s := self._take(images, keep=0.0):
            raise RateLimited(self.name, delay_s)

    def charge_ahead(self, images: int) -> bool:
        """Takes the images of a chunk that can wait; tells whether it did.

        Raises:
            Unauthenticated: the key was withdrawn during the call.
        """
        return not self._take(images, keep=_STREAMS_KEEP)

    async def pace(self, images: int, stay: Callable[[], None]) -> None:
        """Takes the images of a chunk from his rate, waiting until they can be had.

        Args:
            images: how many.
            stay: called while waiting; raises when there is no point any more.

        Raises:
            Unauthenticated: the key was withdrawn during the call.
        """
        while delay_s := self._take(images, keep=_STREAMS_KEEP):
            await asyncio.sleep(min(delay_s, _LONGEST_NAP_S))
            stay()

    def give_back(self, images: int) -> None:
        """Returns images that were charged and then refused for another reason."""
        if self._client is not None and self._client.rate_images_per_s and self._ledger:
            self._ledger.give_back(self.name, images)

    def chunk_size(self, usual: int) -> int:
        """Returns the images in a chunk of a stream whose caller names no size.

        With a rate it is a second's worth at most, for a chunk that took minutes would pass for a
        server that hangs, and no more than a burst has for streams.
        """
        client = self._client
        if client is None or client.rate_images_per_s is None:
            return usual
        share = min(client.rate_images_per_s, (1 - _STREAMS_KEEP) * client.burst)
        return max(1, min(usual, int(share)))

    def _take(self, images: int, *, keep: float) -> float:
        if self._client is None or self._ring is None or self._ledger is None:
            return 0.0
        client = self._ring.client_of(self._digest)
        if client is None:
            raise Unauthenticated("the API key was withdrawn")
        self._client = client
        if client.rate_images_per_s is None:
            return 0.0
        return self._ledger.take(
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

    def as_seen(self, error: Exception) -> Exception:
        """Returns an error as this caller may see it: without models that are not his."""
        if isinstance(error, ModelNotFound) and self._client is not None:
            model = error.metadata["model"]
            return ModelNotFound(model, [name for name in error.known if self.may_use(name)])
        return error


class _Anybody(Caller):
    """Who calls where keys are not asked for: asked often, and answering at once."""

    def check_model(self, model: str) -> None:
        """Checks nothing."""

    def charge(self, images: int) -> None:
        """Charges nothing."""

    def count(self, model: str, images: int) -> None:
        """Counts nothing."""


ANYBODY = _Anybody()
"""Who calls where keys are not asked for."""

current_caller: contextvars.ContextVar[Caller] = contextvars.ContextVar(
    "current_caller", default=ANYBODY
)


class Guard:
    """Lets calls in, or says why not.

    Args:
        metrics: where to count.
        ring: the API keys; None asks for none.
        ledger: what clients have used; one of this process's own by default.
        max_calls: calls that run side by side in this process at most; None for any number.
    """

    def __init__(
        self,
        metrics: Metrics,
        ring: KeyRing | None = None,
        ledger: Ledger | None = None,
        max_calls: int | None = None,
    ) -> None:
        self._metrics = metrics
        self._ring = ring
        self._ledger = ledger or Ledger()
        self._max_calls = max_calls
        self._running = 0

    def caller(self, method: str, metadata: Metadata) -> Caller:
        """Returns who makes a call.

        Args:
            method: `/package.Service/Method`.
            metadata: what came with the call.

        Raises:
            Unauthenticated: the method wants a key, and there is none, or none that is known.
            TooManyCalls: as many as may run in this process are running.
        """
        # Here too, because here the request has not been read yet.
        if self._is_full and not method.startswith(_OPEN):
            self._check_room()
        if self._ring is None or method.startswith(_OPEN):
            return ANYBODY
        presented = set(_presented(metadata))
        if not presented:
            raise Unauthenticated(
                "this server wants an API key: metadata `authorization: Bearer KEY`"
            )
        digest = digest_of(presented.pop()) if len(presented) == 1 else ""
        client = self._ring.client_of(digest)
        if client is None:
            raise Unauthenticated("the API key is not known")
        return Caller(client, self._ring, self._ledger, self._metrics, digest)

    def counts(self, method: str) -> bool:
        """Whether the calls of a method are counted, with `enter` and `leave`."""
        return not method.startswith(_OPEN)

    def enter(self, caller: Caller) -> str | None:
        """Counts a call from now on; returns what `leave` wants to know.

        Raises:
            TooManyCalls: as many as may run are running, in this process or of this client.
        """
        self._check_room()
        limit = caller._client.max_concurrent_calls if caller._client else None  # noqa: SLF001 - one unit with Caller
        if limit is not None and not self._ledger.enter(caller.name, limit):
            raise TooManyCalls(f"key {caller.name!r}", limit, _CALLS_RETRY_S)
        self._running += 1
        return None if limit is None else caller.name

    def leave(self, entered: str | None) -> None:
        """Counts a call no more.

        Args:
            entered: what `enter` returned.
        """
        self._running -= 1
        if entered is not None:
            self._ledger.leave(entered)

    @property
    def _is_full(self) -> bool:
        return self._max_calls is not None and self._running >= self._max_calls

    def _check_room(self) -> None:
        if self._is_full and self._max_calls is not None:
            raise TooManyCalls("the server", self._max_calls, _CALLS_RETRY_S)

    def close(self) -> None:
        """Gives back what is counted here."""
        self._ledger.close()


def count_refusal(metrics: Metrics, error: Exception, model: str) -> None:
    """Counts a call that was refused for a reason of this module's.

    Args:
        metrics: where to count.
        error: why it was refused; any other error counts nothing.
        model: a model that exists, or ''.
    """
    if isinstance(error, Unauthenticated | NotAllowed | RateLimited | TooManyCalls):
        metrics.rejected.labels(model, error.reason.lower()).inc()


def _presented(metadata: Metadata) -> Iterator[str]:
    """Every key that came with a call."""
    for name, value in metadata:
        if isinstance(value, bytes):
            continue
        if name == _KEY_HEADER:
            yield value.strip()
        elif name == _BEARER_HEADER and value[: len(_BEARER)].lower() == _BEARER:
            yield value[len(_BEARER) :].strip()
