"""Tests that a call keeps the status of the server, which grpc.aio can lose in a race."""

import grpc
import pytest
from grpc import aio

from imagemint.client import duplex

LOST = (grpc.StatusCode.INTERNAL, "Internal error from Core")


class EndedCall:
    """A call whose read fails, and whose status is the next of `statuses` at each look.

    The race of grpc.aio cannot be forced, so this call takes the place of its own.
    """

    def __init__(self, *statuses):
        self.statuses = [LOST, *statuses]

    def add_done_callback(self, callback):
        """The call has ended already."""
        callback(self)

    async def read(self):
        """Fails as grpc.aio does."""
        raise aio.AioRpcError(LOST[0], aio.Metadata(), aio.Metadata(), LOST[1])

    async def code(self):
        """Returns the code of the current status."""
        return self.statuses[0][0]

    async def details(self):
        """Returns the details of the current status, and moves on."""
        details = self.statuses[0][1]
        if len(self.statuses) > 1:
            del self.statuses[0]
        return details

    async def trailing_metadata(self):
        """Returns no metadata."""
        return aio.Metadata()


async def read_error(call):
    """Returns the error of a read."""
    with pytest.raises(aio.AioRpcError) as caught:
        await duplex.FaithfulCall(call).read()
    return caught.value


async def test_late_status_is_that_of_the_server():
    """The status that arrives after the read has failed is raised."""
    draining = (grpc.StatusCode.UNAVAILABLE, "the server drains")
    error = await read_error(EndedCall(draining, draining, draining))
    assert (error.code(), error.details()) == draining


async def test_lost_status_may_be_tried_again(monkeypatch):
    """Without the status of the server, the call was cut: UNAVAILABLE, which clients retry."""
    monkeypatch.setattr(duplex, "_STATUS_TIMEOUT_S", 0.02)
    error = await read_error(EndedCall())
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "lost its status" in error.details()
