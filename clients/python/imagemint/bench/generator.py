"""The load of one client process for one point, on one event loop.

Everything possible is prepared before the measurement, because the cost of a call here counts as
cost of the client.
"""

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from imagemint.bench.client_cost import ClientCost, CostMeter, explain_limit
from imagemint.bench.clock import Clock
from imagemint.bench.counts import Counts, sum_counts
from imagemint.bench.load import Closed, Plan
from imagemint.bench.schedule import Purpose, derive_seed, draw_arrivals, draw_kinds, make_generator
from imagemint.bench.target import CallFailed, Connection
from imagemint.bench.verification import Sample, Verified, compare_again

# A caller waits after a failed call, because refusals come fast and real clients back off.
PAUSE_NS = 10_000_000
_NEVER_NS = 2**63


@dataclass(frozen=True, slots=True)
class ClientResult:
    """Result of one client process."""

    tallies: list[Counts]
    """Counts of each kind of request, in the order of the mix."""
    elapsed_s: float
    """Length of the window."""
    effort: ClientCost
    """Cost of the load for this process."""
    verified: Verified = field(default_factory=Verified)
    """Number of answers that were compared with a second one."""

    @property
    def limit(self) -> str | None:
        """Reason why this client was the limit; None if it was not."""
        return explain_limit(
            self.effort, sum_counts(self.tallies).latency.compute_quantile_ms(0.99)
        )


class _Span:
    """The window in which calls count."""

    def __init__(self, plan: Plan, start_ns: int) -> None:
        self.begin_ns = start_ns + round(plan.warmup_s * 1e9)
        self.end_ns = _NEVER_NS
        if plan.duration_s is not None:
            self.end_ns = self.begin_ns + round(plan.duration_s * 1e9)
        self._images_left = plan.images

    def takes(self, intended_ns: int, images: int) -> bool:
        """Returns whether a call that should start at this time counts."""
        if not self.begin_ns <= intended_ns < self.end_ns:
            return False
        if self._images_left is not None:
            self._images_left -= images
        return True

    def holds(self, now_ns: int) -> bool:
        """Returns whether an answer that arrives now is in the window."""
        return self.begin_ns <= now_ns <= self.end_ns

    def is_over(self, now_ns: int) -> bool:
        """Returns whether no further call starts."""
        return now_ns >= self.end_ns or (self._images_left is not None and self._images_left <= 0)


class Generator:
    """Makes the calls of a plan and counts the answers.

    Args:
        plan: the load.
        connections: connections that the calls take in turn.
        clock: clock for all times.

    Raises:
        CallFailed: a connection cannot make calls of some kind.
    """

    def __init__(self, plan: Plan, connections: Sequence[Connection], clock: Clock) -> None:
        self._plan = plan
        self._connections = connections
        self._clock = clock
        self._begin_at(clock.now_ns())
        self._watch = CostMeter()
        self._request_kinds = plan.mix.kinds
        self._tallies = [Counts() for _ in self._request_kinds]
        self._samples = [Sample() for _ in self._request_kinds]
        self._turns = [itertools.count() for _ in self._request_kinds]
        random = make_generator(plan.seed, plan.client, Purpose.KINDS)
        self._kinds = draw_kinds(plan.mix.shares, random)
        seeds = [
            derive_seed(plan.seed, plan.client, kind) for kind in range(len(self._request_kinds))
        ]
        self._unary = [
            {
                kind: connection.prepare_unary(request_kind, seeds[kind])
                for kind, request_kind in enumerate(self._request_kinds)
                if not request_kind.stream
            }
            for connection in connections
        ]
        self._streaming = [
            {
                kind: connection.prepare_streaming(request_kind, seeds[kind])
                for kind, request_kind in enumerate(self._request_kinds)
                if request_kind.stream
            }
            for connection in connections
        ]

    async def open_connections(self) -> None:
        """Makes one call on each connection, so that none is opened during the measurement.

        Raises:
            CallFailed: the server does not answer, or refuses the request.
        """
        for connection in range(len(self._connections)):
            await self._repeat(connection, 0, 0)

    async def run(self, start_ns: int) -> ClientResult:
        """Makes the calls, and returns when the last one is answered.

        Args:
            start_ns: when the load begins, by the clock.
        """
        self._begin_at(start_ns)
        window = asyncio.create_task(self._measure_window())
        if isinstance(self._plan.load, Closed):
            await self._run_closed(self._plan.load.concurrency)
        else:
            await self._run_open(self._plan.load.calls_per_s)
        effort = await window or self._watch.close()
        elapsed_s = self._plan.duration_s
        if elapsed_s is None:
            elapsed_s = max(self._last_ns - self._span.begin_ns, 1) / 1e9
        return ClientResult(self._tallies, elapsed_s, effort)

    async def verify(self) -> Verified:
        """Sends the sampled requests again and compares the answers.

        Raises:
            CallFailed: a second answer did not arrive.
        """
        found = Verified()
        for kind, sample in enumerate(self._samples):

            async def repeat(turn: int, kind: int = kind) -> object:
                return await self._repeat(0, kind, turn)

            found += await compare_again(sample, repeat, self._connections[0].compute_fingerprint)
        return found

    async def _repeat(self, connection: int, kind: int, turn: int) -> object:
        """Returns the content of one answer, or of the first chunk of a stream."""
        if not self._request_kinds[kind].stream:
            return (await self._unary[connection][kind](turn)).content
        async with aclosing(self._streaming[connection][kind](turn)) as chunks:
            return (await anext(chunks)).content

    def _begin_at(self, start_ns: int) -> None:
        self._start_ns = self._last_ns = start_ns
        self._span = _Span(self._plan, start_ns)

    async def _measure_window(self) -> ClientCost | None:
        """Measures this process in the window; returns None if the last answer ends the window."""
        await self._clock.wait_until(self._span.begin_ns)
        self._watch.open()
        if self._plan.duration_s is None:
            return None
        await self._clock.wait_until(self._span.end_ns)
        return self._watch.close()

    async def _run_closed(self, concurrency: int) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(concurrency):
                group.create_task(self._run_caller(number % len(self._connections)))

    async def _run_caller(self, connection: int) -> None:
        await self._clock.wait_until(self._start_ns)
        while not self._span.is_over(now_ns := self._clock.now_ns()):
            kind = next(self._kinds)
            counted = self._count_asked(kind, now_ns)
            if not await self._call(connection, kind, now_ns, counted=counted):
                await self._clock.wait_until(self._clock.now_ns() + PAUSE_NS)

    async def _run_open(self, calls_per_s: float) -> None:
        random = make_generator(self._plan.seed, self._plan.client, Purpose.ARRIVALS)
        async with asyncio.TaskGroup() as group:
            for number, at_s in enumerate(draw_arrivals(calls_per_s, random)):
                intended_ns = self._start_ns + round(at_s * 1e9)
                if self._span.is_over(intended_ns):
                    break
                kind = next(self._kinds)
                counted = self._count_asked(kind, intended_ns)
                await self._clock.wait_until(intended_ns)
                connection = number % len(self._connections)
                group.create_task(self._run_arrival(connection, kind, intended_ns, counted=counted))

    async def _run_arrival(
        self, connection: int, kind: int, intended_ns: int, *, counted: bool
    ) -> None:
        if self._watch.is_open:
            self._watch.late.record(self._clock.now_ns() - intended_ns)
        await self._call(connection, kind, intended_ns, counted=counted)

    def _count_asked(self, kind: int, intended_ns: int) -> bool:
        """Counts a call that should start at this time; returns whether it is in the window."""
        tally, images = self._tallies[kind], self._request_kinds[kind].count
        if not self._span.takes(intended_ns, images):
            return False
        tally.asked_calls += 1
        tally.asked_images += images
        return True

    async def _call(self, connection: int, kind: int, intended_ns: int, *, counted: bool) -> bool:
        """Makes one call, counts the result, and returns whether it was answered."""
        tally = self._tallies[kind]
        turn = next(self._turns[kind])
        try:
            if self._request_kinds[kind].stream:
                await self._read(connection, kind, turn, intended_ns, counted=counted)
            else:
                reply = await self._unary[connection][kind](turn)
                self._last_ns = now_ns = self._clock.now_ns()
                if counted:
                    tally.latency.record(now_ns - intended_ns)
                if self._span.holds(now_ns):
                    tally.calls += 1
                    tally.images += reply.images
                self._keep(kind, turn, reply.content)
        except CallFailed as error:
            self._last_ns = self._clock.now_ns()
            if counted:
                tally.count_failure(error)
            return False
        finally:
            self._watch.calls += self._watch.is_open
        return True

    async def _read(
        self, connection: int, kind: int, turn: int, intended_ns: int, *, counted: bool
    ) -> None:
        """Reads one stream to its end, or to the end of the window."""
        tally = self._tallies[kind]
        previous_ns, first = intended_ns, True
        async with aclosing(self._streaming[connection][kind](turn)) as chunks:
            async for reply in chunks:
                self._last_ns = now_ns = self._clock.now_ns()
                if first:
                    first = False
                    if counted:
                        tally.first_chunk.record(now_ns - intended_ns)
                    self._keep(kind, turn, reply.content)
                if now_ns >= self._span.end_ns:
                    tally.cut_streams += 1
                    return
                if self._span.holds(now_ns):
                    tally.images += reply.images
                    tally.latency.record(now_ns - previous_ns)
                previous_ns = now_ns
        tally.calls += self._span.holds(self._last_ns)

    def _keep(self, kind: int, turn: int, content: object) -> None:
        if self._plan.verify:
            self._samples[kind].offer(turn, content)
