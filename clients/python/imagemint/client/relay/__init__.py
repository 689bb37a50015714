"""Calls of a forked process that must not use gRPC, made by a helper process on its behalf.

The helper is a fresh interpreter. The two talk over a socket pair: a frame for each request,
answer, read and cancellation. One channel has one helper, which ends with it.
"""

from imagemint.client.relay.channel import RelayChannel

__all__ = ["RelayChannel"]
