"""Measures the cost of the load for the client, and whether the client is the limit.

A load generator without spare time measures itself. Three figures are recorded in every client
process during the window, and each has a bound:

- *busy*: share of the window in which the thread of the event loop ran on a core. From `BUSY` on,
  the process cannot make more load.
- *lag*: how late the event loop runs a timer, 99th percentile. Every answer waits as long before it
  is seen, so lag is part of every latency.
- *late*: in an open loop, how long after its intended start a call is sent, 99th percentile. It is
  part of the latency, which counts from the intended start, and not the server's part.

Lag and lateness make the client the limit if they exceed `OWN_SHARE` of the 99th percentile of the
latency and `NOTICEABLE_MS`. Where client and server share cores, a wait of a few milliseconds for a
core is normal.
"""

import asyncio
import time
from dataclasses import dataclass

from imagemint.bench.latencies import Latencies

BUSY = 0.9
OWN_SHARE = 0.5
NOTICEABLE_MS = 5.0
# Often enough for a 99th percentile within seconds, and too seldom to cost anything.
_TICK_S = 0.02


@dataclass(frozen=True, slots=True)
class ClientCost:
    """Cost of the load for one client process during the window."""

    wall_s: float
    """Length of the window."""
    cpu_s: float
    """CPU time of the process, all threads, system calls included."""
    loop_cpu_s: float
    """CPU time of the thread of the event loop."""
    calls: int
    """Calls that ended in the window, answered or not."""
    lag: Latencies
    """How late the event loop ran a timer."""
    late: Latencies
    """How late calls were sent; empty in a closed loop."""

    @property
    def busy(self) -> float:
        """Share of the window in which the thread of the event loop used a core."""
        return self.loop_cpu_s / self.wall_s if self.wall_s else 0.0

    @property
    def cpu_ms_per_call(self) -> float | None:
        """CPU time of the client for each call, in milliseconds; None without calls."""
        return self.cpu_s / self.calls * 1e3 if self.calls else None


def explain_limit(effort: ClientCost, latency_p99_ms: float | None) -> str | None:
    """Returns the reason why the client was the limit; None if it was not.

    Args:
        effort: cost of one client process.
        latency_p99_ms: 99th percentile of the measured latencies; None if there are none.
    """
    if effort.busy >= BUSY:
        return f"its event loop was busy {effort.busy:.0%} of the time"
    if latency_p99_ms is None:
        return None
    bound_ms = max(NOTICEABLE_MS, OWN_SHARE * latency_p99_ms)
    late_ms = effort.late.compute_quantile_ms(0.99)
    if late_ms is not None and late_ms > bound_ms:
        return f"it sent 1 % of the calls {late_ms:.1f} ms late or later"
    lag_ms = effort.lag.compute_quantile_ms(0.99)
    if lag_ms is not None and lag_ms > bound_ms:
        return f"its event loop noticed 1 % of events {lag_ms:.1f} ms late or later"
    return None


class CostMeter:
    """Measures this process from `open` to `close`, on the thread of the running event loop."""

    def __init__(self) -> None:
        self.late = Latencies()
        self.calls = 0
        self._lag = Latencies()
        self._opened: tuple[int, int, int] | None = None
        self._ticking: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the window is open."""
        return self._ticking is not None

    def open(self) -> None:
        """Begins the window."""
        self._opened = _read_clocks()
        self._ticking = asyncio.get_running_loop().create_task(self._tick())

    def close(self) -> ClientCost:
        """Ends the window and returns the cost."""
        if self._opened is None or self._ticking is None:
            raise RuntimeError("the window was never opened")
        wall, cpu, loop_cpu = (
            (now - then) / 1e9 for now, then in zip(_read_clocks(), self._opened, strict=True)
        )
        self._ticking.cancel()
        self._ticking = None
        return ClientCost(wall, cpu, loop_cpu, self.calls, self._lag, self.late)

    async def _tick(self) -> None:
        while True:
            due = time.monotonic_ns() + int(_TICK_S * 1e9)
            await asyncio.sleep(_TICK_S)
            self._lag.record(time.monotonic_ns() - due)


def _read_clocks() -> tuple[int, int, int]:
    return time.monotonic_ns(), time.process_time_ns(), time.thread_time_ns()
