"""Tests of imagemint.server.rpc.lookahead: the chunks that a stream drops and computes again."""

from imagemint.engine.sampling import Run
from imagemint.server.access.caller import Caller, current_caller
from imagemint.server.batching import Conditions, Job
from imagemint.server.rpc.call import Call, current_call
from imagemint.server.rpc.lookahead import Lookahead


async def test_dropped_chunks_are_returned_to_the_rate(repository, monkeypatch):
    """Chunks that are dropped because the reader pauses are charged once, not twice."""
    returned, caller, call = [], Caller(), Call()
    monkeypatch.setattr(caller, "give_back", returned.append)
    current_call.set(call)
    current_caller.set(caller)
    version = repository.resolve("tiny")
    ahead = Lookahead(version, 10)
    for first_index in (0, 10):
        job = Job(10, (Run(0, first_index, 10),), Conditions([0] * 10))
        assert version.batcher.submit_ahead(job)
        ahead.add(job)
    call.relieve()
    assert returned == [20]
    assert (ahead.next_offset, len(ahead.pending)) == (0, 0)
