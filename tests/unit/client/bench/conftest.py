"""Fixtures: a target and a clock that the test controls."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from imagemint.bench.client_cost import ClientCost
from imagemint.bench.counts import Counts
from imagemint.bench.generator import Generator
from imagemint.bench.latencies import Latencies
from imagemint.bench.load import Closed, Open, Plan
from imagemint.bench.mix import parse_mix
from imagemint.bench.point import Point
from imagemint.bench.target import CallFailed, Reply
from imagemint.bench.verification import Verified

SECOND = 1_000_000_000


async def settle():
    """Runs every task that can run."""
    for _ in range(50):
        await asyncio.sleep(0)


class FakeClock:
    """A clock that advances only on request."""

    def __init__(self):
        self.now = 0
        self._waiting = []

    def now_ns(self):
        """Returns the current time."""
        return self.now

    async def wait_until(self, moment_ns):
        """Waits until the test reaches the moment."""
        if moment_ns <= self.now:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        self._waiting.append((moment_ns, woken))
        await woken

    async def run_to(self, moment_ns):
        """Advances to a moment and stops at every moment that a task waits for."""
        await settle()
        while due := [each for each in self._waiting if each[0] <= moment_ns]:
            await self.jump_to(min(moment for moment, _ in due))
        await self.jump_to(moment_ns)

    async def jump_to(self, moment_ns):
        """Advances to a moment at once. Tasks that waited for an earlier one wake late."""
        self.now = moment_ns
        due = [each for each in self._waiting if each[0] <= moment_ns]
        self._waiting = [each for each in self._waiting if each[0] > moment_ns]
        for _, woken in sorted(due, key=lambda each: each[0]):
            woken.set_result(None)
        await settle()


class FakeTarget:
    """A target that answers after `takes_ns` or when `free` is set, and raises `faults`."""

    def __init__(self, clock, takes_ns=0):
        self.clock = clock
        self.takes_ns = takes_ns
        self.free = asyncio.Event()
        self.free.set()
        self.asked = []
        self.moments_ns = []
        self.faults = []
        self.opened = 0
        self.closed_streams = 0
        self.version = 0

    @asynccontextmanager
    async def connect(self):
        """Opens another connection."""
        self.opened += 1
        yield FakeConnection(self, self.opened)


class FakeConnection:
    """A connection that records its calls."""

    def __init__(self, target, number):
        self.target = target
        self.number = number

    def prepare_unary(self, ask, seed):
        """Returns a call that answers with all images."""

        async def send(turn):
            await self._wait(ask, seed, turn)
            return Reply(ask.count, (ask.count, seed, turn, self.target.version))

        return send

    def prepare_streaming(self, ask, seed):
        """Returns a call that answers in chunks."""

        async def chunks(turn):
            try:
                for start in range(0, ask.count, ask.chunk):
                    await self._wait(ask, seed, turn)
                    yield Reply(min(ask.chunk, ask.count - start), (seed, turn, start))
            finally:
                self.target.closed_streams += 1

        return chunks

    def compute_fingerprint(self, content):
        """Returns the whole content."""
        return repr(content).encode()

    async def _wait(self, ask, seed, turn):
        target = self.target
        target.moments_ns.append(target.clock.now)
        target.asked.append((self.number, ask.count, seed, turn))
        if target.takes_ns:
            await target.clock.wait_until(target.clock.now + target.takes_ns)
        else:
            await asyncio.sleep(0)
        await target.free.wait()
        if target.faults:
            raise target.faults.pop()


@pytest.fixture
def clock():
    """A clock at zero."""
    return FakeClock()


@pytest.fixture
def target(clock):
    """A target that answers at once by default."""
    return FakeTarget(clock)


@pytest.fixture
def generate(clock, target):
    """A function that starts the load of a plan and returns the generator and its task."""

    async def start(load, mix="count=1", **plan):
        plan = Plan(load, parse_mix(mix), **plan)
        connections = []
        for _ in range(plan.connections):
            async with target.connect() as connection:
                connections.append(connection)
        generator = Generator(plan, connections, clock)
        running = asyncio.create_task(generator.run(0))
        await settle()
        return generator, running

    return start


@pytest.fixture
def busy():
    """A CallFailed of a server that sheds load."""
    return CallFailed("RESOURCE_EXHAUSTED", "queue full", shed=True)


@pytest.fixture
def make_effort():
    """A function that makes the cost of a client process.

    Arguments are shares of a window of ten seconds, and lateness in milliseconds.
    """

    def make(busy=0.1, lag_ms=0.1, late_ms=None):
        lag, late = Latencies(), Latencies()
        lag.record(round(lag_ms * 1e6))
        if late_ms is not None:
            late.record(round(late_ms * 1e6))
        return ClientCost(10.0, busy * 20, busy * 10, 100, lag, late)

    return make


@pytest.fixture
def make_point(make_effort):
    """A function that makes a point of ten seconds.

    Arguments are received images per second, p99 and, for an open loop, the offered rate.
    """

    def make(images_per_s, p99_ms, *, rate=None, concurrency=1, mix="count=1"):
        tally = Counts(calls=round(images_per_s * 10), images=round(images_per_s * 10))
        tally.asked_images = tally.asked_calls = round((rate or images_per_s) * 10)
        tally.latency.record(round(p99_ms * 1e6))
        load = Open(rate) if rate else Closed(concurrency)
        return Point(load, parse_mix(mix), (tally,), 10.0, (make_effort(),), Verified(), None)

    return make
