"""gRPC over HTTP/2 for a load generator, on the transports of asyncio and uvloop.

    async with open_wire("127.0.0.1:8001") as wire:
        call = wire.unary("/imagemint.v1.GenerationService/Generate", timeout_s=30.0)
        answer = await call(request)

Whoever generates load on the cores of the server that is measured should cost little beside it. A
call through grpcio's asyncio costs its caller as much as an empty handler costs the server; this
one, which knows bytes only, has no retries, no interceptors and no thread of its own, costs a
fraction of that (docs/performance.md).

From below: `frames` and `headers` know the format of HTTP/2, `exchange` what gRPC makes of it,
`connection` moves both, `link` keeps a connection to one address (`dialing`), and `calls` is what
callers see.
"""

from imagemint.client.bench.wire.calls import Metadata, Streaming, Unary, Wire, open_wire

__all__ = ["Metadata", "Streaming", "Unary", "Wire", "open_wire"]
