"""Tests of imagemint.server.rpc.running_calls: which calls count towards the limits."""

from imagemint.server.access.caller import ANONYMOUS, Guard
from imagemint.server.images.bytes_in_flight import Budget
from imagemint.server.rpc.call import Call
from imagemint.server.rpc.running_calls import RunningCalls


class Context:
    """The context of a call on one connection."""

    def peer(self):
        """Returns the name of the connection."""
        return "ipv4:127.0.0.1:50123"

    def add_done_callback(self, callback):
        """Keeps the function that gRPC calls at the end of the call."""
        self.end = callback


async def test_each_connection_may_repeat_its_health_check(metrics):
    """The one health check of a connection that is not limited may be made again after its end."""
    limits = {"stall_timeout_s": None, "max_connections": 10}
    calls = RunningCalls(Guard(metrics, max_calls_per_caller=1), Budget(1), metrics, **limits)
    for _ in range(3):
        contexts = [Context(), Context()]
        for context in contexts:  # the second one uses up the limit
            calls.enter(Call(), ANONYMOUS, context, is_health_check=True)
        assert len(calls._calls) == 2
        for context in contexts:
            context.end(context)
    assert not calls._calls
