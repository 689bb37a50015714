"""Calls of a forked process that must not use gRPC, through a helper process.

The helper is a new interpreter. The two processes communicate over a socket pair, with one frame
for each request, answer, read and cancellation. Each channel has one helper, which ends with it.
"""

from imagemint.client.relay.channel import RelayChannel, RelayDuplex

__all__ = ["RelayChannel", "RelayDuplex"]
