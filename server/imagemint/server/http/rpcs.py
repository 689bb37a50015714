"""Answers HTTP requests as RPCs, through the interceptor of the gRPC server.

Each request is a call of one RPC, with the caller, limits, metrics, log lines and errors of that
RPC.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

from starlette.types import Receive, Scope, Send

from imagemint.engine.errors import DeadlinePassed, ImagemintError, InvalidRequest, Violation
from imagemint.server.http.context import RpcFailed
from imagemint.server.http.exchange import Exchange
from imagemint.server.http.problems import Problem
from imagemint.server.rpc.call import current_call
from imagemint.server.rpc.interceptor import CallInterceptor

Handler = Callable[[Exchange], Awaitable["Reply | None"]]


@dataclass(frozen=True)
class Reply:
    """A whole answer.

    Attributes:
        body: bytes of the answer.
        headers: headers of the answer, except the length.
        status: HTTP status.
    """

    body: bytes
    headers: dict[str, str]
    status: int = 200


class Rpcs:
    """Makes ASGI applications of RPCs.

    Args:
        interceptor: identifies callers, and counts and logs calls.
        max_request_bytes: largest body.
        receive_timeout_s: time for a body to arrive.
    """

    def __init__(
        self, interceptor: CallInterceptor, max_request_bytes: int, receive_timeout_s: float
    ) -> None:
        self._interceptor = interceptor
        self._max_request_bytes = max_request_bytes
        self._receive_timeout_s = receive_timeout_s

    def make_endpoint(self, name: str, handler: Handler, *, has_body: bool = False) -> "Endpoint":
        """Returns the ASGI application that answers requests as calls of an RPC.

        Args:
            name: `/package.Service/Method`.
            handler: answers one request: returns the reply, or None if it has sent a stream.
            has_body: whether requests have a body, which is read before the call runs.
        """

        async def answer(exchange: Exchange) -> None:
            await self._answer(name, handler, exchange, has_body=has_body)

        return Endpoint(answer, self._max_request_bytes)

    async def _answer(
        self, name: str, handler: Handler, exchange: Exchange, *, has_body: bool
    ) -> None:
        """Answers one request, on a task of its own."""
        error = self._interceptor.begin(name, exchange.headers.items())
        exchange.request_id = current_call.get().given_id
        if error is None:
            error = await self._read(exchange, has_body=has_body)
        refusal = error

        async def behave(request: object, context: object) -> Reply | None:
            del request, context
            if refusal is not None:
                raise refusal
            try:
                return await handler(exchange)
            except InvalidRequest as fault:
                raise _spell(fault, exchange) from None

        context = cast("Any", exchange.context)  # it has all members that the handlers use
        try:
            async with asyncio.timeout(_get_timeout(exchange)):
                reply = await self._interceptor.run(name, behave, context, admit=refusal is None)
            if reply is None:
                await exchange.end_stream()
            else:
                await exchange.answer(reply.body, status=reply.status, headers=reply.headers)
        except RpcFailed as failed:
            await exchange.answer_problem(_adjust(failed.problem, exchange))
        except TimeoutError:
            await exchange.answer_problem(_make_deadline_problem())
        finally:
            exchange.context.finish()

    async def _read(self, exchange: Exchange, *, has_body: bool) -> ImagemintError | None:
        """Reads the body, if there is one; returns why the request is refused, or None."""
        if not has_body:
            exchange.body_read.set()
            return exchange.deadline_error
        try:
            await exchange.read_body(self._receive_timeout_s)
        except ImagemintError as error:
            return error
        return None


class Endpoint:
    """An ASGI application that cancels its work when the client leaves.

    Args:
        answer: answers one request.
        max_request_bytes: largest body.
    """

    def __init__(
        self, answer: Callable[[Exchange], Awaitable[None]], max_request_bytes: int
    ) -> None:
        self._answer = answer
        self._max_request_bytes = max_request_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        exchange = Exchange(scope, receive, send, self._max_request_bytes)

        async def answer() -> None:
            await self._answer(exchange)

        answering = asyncio.create_task(answer())
        leaving = asyncio.create_task(exchange.wait_until_left())
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            if not answering.done():
                answering.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await answering


def _make_deadline_problem() -> Problem:
    """Returns the problem of a call whose deadline passed while it ran."""
    return Problem(
        HTTPStatus.GATEWAY_TIMEOUT,
        "the deadline of the call has passed",
        "DEADLINE_EXCEEDED",
        {"reason": DeadlinePassed.reason, "request_id": current_call.get().request_id},
    )


def _spell(error: InvalidRequest, exchange: Exchange) -> InvalidRequest:
    """Returns the error with the caller's names of the fields."""
    return InvalidRequest(
        [
            Violation(exchange.spell_field(violation.field), violation.description)
            for violation in error.violations
        ]
    )


def _get_timeout(exchange: Exchange) -> float | None:
    return None if exchange.deadline is None else exchange.deadline - time.monotonic()


def _adjust(problem: Problem, exchange: Exchange) -> Problem:
    """Returns the problem with the status that HTTP has for requests that cannot be read."""
    if exchange.failure_status is None:
        return problem
    return Problem(
        exchange.failure_status,
        problem.detail,
        problem.code,
        problem.members,
        problem.retry_delay_s,
    )
