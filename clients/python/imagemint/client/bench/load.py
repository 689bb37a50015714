"""How hard to ask, and for how long."""

from dataclasses import dataclass, replace
from typing import TypeAlias

from imagemint.client.bench.mix import Mix


@dataclass(frozen=True, slots=True)
class Closed:
    """A closed loop: so many callers, each of whom calls again when the answer is there.

    The load follows the server: one that stands still is asked nothing meanwhile, and its stall is
    one slow call for each caller. Right for throughput, not for the latency that independent
    callers would see.
    """

    concurrency: int

    def share(self, client: int, clients: int) -> "Closed":
        """The callers of one of several client processes."""
        return Closed(_part(self.concurrency, client, clients))

    def __str__(self) -> str:
        return f"concurrency {self.concurrency}"


@dataclass(frozen=True, slots=True)
class Open:
    """An open loop: calls arrive at random, so many a second on average, whatever the server does.

    A Poisson process. Latency counts from the moment at which the call should have been made, so
    that a server that stands still is charged for everyone who would have called meanwhile
    (coordinated omission; Gil Tene, "How NOT to Measure Latency").
    """

    calls_per_s: float

    def share(self, client: int, clients: int) -> "Open":
        """The part of one of several client processes."""
        del client
        return Open(self.calls_per_s / clients)

    def __str__(self) -> str:
        return f"rate {self.calls_per_s:g}"


Load: TypeAlias = Closed | Open


@dataclass(frozen=True, slots=True)
class Plan:
    """What one client process does for one point.

    Attributes:
        load: how hard it asks.
        mix: what it asks for.
        warmup_s: seconds of load before anything is counted.
        duration_s: seconds that are counted; None where `images` says it.
        images: calls for so many images are counted; None where `duration_s` says it.
        connections: connections that the calls take in turn.
        seed: of arrivals, of the order of kinds, and of the images.
        client: which of the client processes this is, from 0.
        verify: whether some answers are compared with a second one to the same request.
    """

    load: Load
    mix: Mix
    warmup_s: float = 0.0
    duration_s: float | None = None
    images: int | None = None
    connections: int = 1
    seed: int = 0
    client: int = 0
    verify: bool = False

    def shared(self, clients: int) -> list["Plan"]:
        """The plans of each of `clients` processes: fewer where there are not callers for all."""
        if isinstance(self.load, Closed):
            clients = min(clients, self.load.concurrency)
        return [
            replace(
                self,
                load=self.load.share(client, clients),
                images=self.images and max(_part(self.images, client, clients), 1),
                client=client,
            )
            for client in range(clients)
        ]


def _part(whole: int, part: int, parts: int) -> int:
    return whole // parts + (part < whole % parts)
