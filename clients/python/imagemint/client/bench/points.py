"""One measured point: what all client processes found together, under one load."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from imagemint.client.bench.effort import Effort
from imagemint.client.bench.exposition import ServerSide
from imagemint.client.bench.generator import Share
from imagemint.client.bench.load import Load, Open
from imagemint.client.bench.mix import Mix
from imagemint.client.bench.tally import Tally, total
from imagemint.client.bench.verifying import Verified


@dataclass(frozen=True)
class Point:
    """What was measured under one load."""

    load: Load
    mix: Mix
    kinds: tuple[Tally, ...]
    """One for each kind of request, in the order of the mix."""
    elapsed_s: float
    """Length of the window."""
    efforts: tuple[Effort, ...]
    """One for each client process."""
    verified: Verified
    client_limit: str | None
    """Why a client was the limit, in words: the figures are then not the server's. None else."""
    server: ServerSide | None = None
    """What the server's own metrics said of the same time, where they were read."""

    @cached_property
    def sum(self) -> Tally:
        """All kinds together."""
        return total(list(self.kinds))

    @property
    def images_per_s(self) -> float:
        """Images that arrived, a second."""
        return self.sum.images / self.elapsed_s

    @property
    def calls_per_s(self) -> float:
        """Calls that were answered, a second."""
        return self.sum.calls / self.elapsed_s

    @property
    def offered_images_per_s(self) -> float | None:
        """Images that were asked for, a second; None in a closed loop, which offers no load."""
        if not isinstance(self.load, Open):
            return None
        return self.sum.asked_images / self.elapsed_s

    @property
    def client_ms_per_call(self) -> float | None:
        """CPU time of all clients by the number of calls; None without calls."""
        calls = sum(each.calls for each in self.efforts)
        return sum(each.cpu_s for each in self.efforts) / calls * 1e3 if calls else None


def joined(
    load: Load, mix: Mix, shares: Sequence[Share], server: ServerSide | None = None
) -> Point:
    """The point that the client processes measured together; at least one of them."""
    limits = (share.limit for share in shares)
    return Point(
        load,
        mix,
        kinds=tuple(total(list(same)) for same in zip(*(s.tallies for s in shares), strict=True)),
        elapsed_s=max(share.elapsed_s for share in shares),
        efforts=tuple(share.effort for share in shares),
        verified=sum((share.verified for share in shares), start=Verified()),
        client_limit=next((why for why in limits if why), None),
        server=server,
    )
