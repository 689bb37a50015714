"""The load of a measurement: how many calls, and for how long."""

from dataclasses import dataclass, replace
from typing import TypeAlias

from imagemint.bench.mix import Mix


@dataclass(frozen=True, slots=True)
class Closed:
    """A closed loop: each caller sends its next call when the last one is answered.

    The load follows the server. A server that stalls receives no calls meanwhile, so its stall
    counts as one slow call for each caller. A closed loop measures throughput well, and not the
    latency that independent callers see.
    """

    concurrency: int

    def take_share(self, client: int, clients: int) -> "Closed":
        """Returns the callers of one of several client processes."""
        return Closed(_compute_part(self.concurrency, client, clients))

    def __str__(self) -> str:
        return f"concurrency {self.concurrency}"


@dataclass(frozen=True, slots=True)
class Open:
    """An open loop: calls arrive at random at a fixed mean rate, independent of the server.

    Arrivals are a Poisson process. Latency counts from the moment at which a call should start, so
    a stall of the server counts for every call that should start meanwhile (coordinated omission;
    Gil Tene, "How NOT to Measure Latency").
    """

    calls_per_s: float

    def take_share(self, client: int, clients: int) -> "Open":
        """Returns the part of one of several client processes."""
        del client
        return Open(self.calls_per_s / clients)

    def __str__(self) -> str:
        return f"rate {self.calls_per_s:g}"


Load: TypeAlias = Closed | Open


@dataclass(frozen=True, slots=True)
class Plan:
    """The work of one client process for one point.

    Attributes:
        load: the load to make.
        mix: the requests.
        warmup_s: seconds of load before anything is counted.
        duration_s: seconds that are counted; None if `images` ends the measurement.
        images: images to request; None if `duration_s` ends the measurement.
        connections: connections that the calls take in turn.
        seed: seed of the arrivals, of the order of kinds, and of the images.
        client: number of the client process, from 0.
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

    def split(self, clients: int) -> list["Plan"]:
        """Returns the plan of each of `clients` processes; fewer if there are fewer callers."""
        if isinstance(self.load, Closed):
            clients = min(clients, self.load.concurrency)
        return [
            replace(
                self,
                load=self.load.take_share(client, clients),
                images=self.images and max(_compute_part(self.images, client, clients), 1),
                client=client,
            )
            for client in range(clients)
        ]


def _compute_part(total: int, part: int, parts: int) -> int:
    return total // parts + (part < total % parts)
