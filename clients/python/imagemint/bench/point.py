"""One measured point: the results of all client processes under one load."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from imagemint.bench.client_cost import ClientCost
from imagemint.bench.counts import Counts, sum_counts
from imagemint.bench.generator import ClientResult
from imagemint.bench.load import Load, Open
from imagemint.bench.mix import Mix
from imagemint.bench.server_metrics import ServerMetrics
from imagemint.bench.verification import Verified


@dataclass(frozen=True)
class Point:
    """The measurement under one load."""

    load: Load
    mix: Mix
    kinds: tuple[Counts, ...]
    """Counts of each kind of request, in the order of the mix."""
    elapsed_s: float
    """Length of the window."""
    efforts: tuple[ClientCost, ...]
    """Cost of the load for each client process."""
    verified: Verified
    client_limit: str | None
    """Reason why a client, and not the server, was the limit; None if the server was."""
    server: ServerMetrics | None = None
    """The server's own metrics of the same time, if they were read."""

    @cached_property
    def sum(self) -> Counts:
        """Counts of all kinds together."""
        return sum_counts(list(self.kinds))

    @property
    def images_per_s(self) -> float:
        """Images received per second."""
        return self.sum.images / self.elapsed_s

    @property
    def calls_per_s(self) -> float:
        """Answered calls per second."""
        return self.sum.calls / self.elapsed_s

    @property
    def offered_images_per_s(self) -> float | None:
        """Requested images per second; None in a closed loop, which has no offered load."""
        if not isinstance(self.load, Open):
            return None
        return self.sum.asked_images / self.elapsed_s

    @property
    def client_ms_per_call(self) -> float | None:
        """CPU time of all clients per call, in milliseconds; None without calls."""
        calls = sum(effort.calls for effort in self.efforts)
        return sum(effort.cpu_s for effort in self.efforts) / calls * 1e3 if calls else None


def join_results(
    load: Load, mix: Mix, shares: Sequence[ClientResult], server: ServerMetrics | None = None
) -> Point:
    """Returns the point that joins the results of one or more client processes."""
    limits = (share.limit for share in shares)
    return Point(
        load,
        mix,
        kinds=tuple(
            sum_counts(list(same)) for same in zip(*(s.tallies for s in shares), strict=True)
        ),
        elapsed_s=max(share.elapsed_s for share in shares),
        efforts=tuple(share.effort for share in shares),
        verified=sum((share.verified for share in shares), start=Verified()),
        client_limit=next((why for why in limits if why), None),
        server=server,
    )
