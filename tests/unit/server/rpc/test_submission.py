"""Tests of imagemint.server.rpc.submission: a call keeps the version that it was resolved to."""

import asyncio

import pytest
from tiny_bundles import write_bundle

from imagemint.engine.errors import Draining, ModelNotReady
from imagemint.engine.sampling import Run
from imagemint.server.access.caller import ANONYMOUS, current_caller
from imagemint.server.images.bytes_in_flight import Budget
from imagemint.server.rpc.call import Call, current_call
from imagemint.server.rpc.submission import Gate, Submission


@pytest.fixture
def several(tmp_path, new_repository):
    """A repository with versions 1 and 2 of a model."""
    for version in (1, 2):
        write_bundle(tmp_path, "tiny", version)
    return new_repository(tmp_path)


@pytest.fixture
def served(several):
    """Versions 1 and 2."""
    return [several.resolve("tiny", number) for number in ("1", "2")]


@pytest.fixture
def submission(several, metrics):
    """The submission for a caller that may use every model."""
    call, caller = current_call.set(Call()), current_caller.set(ANONYMOUS)
    yield Submission(several, metrics, Gate())
    current_caller.reset(caller)
    current_call.reset(call)


def test_retired_version_is_resolved_again(submission, several, served, monkeypatch):
    """A request that gets a version just before its unload is resolved to the next one."""
    old, new = served
    old.holds.retire()
    found = iter([old, new])
    monkeypatch.setattr(several, "resolve", lambda name, version: next(found))
    with submission.hold_version("tiny", "") as version:
        assert version is new
        assert not new.holds.wait(0)
    assert new.holds.wait(0)


def test_version_is_released_after_a_failure(submission, served):
    """A call that fails holds no version."""
    with pytest.raises(KeyError), submission.hold_version("tiny", "1"):
        raise KeyError
    assert served[0].holds.wait(0)


def test_closed_queue_is_reported_by_its_cause(submission, served):
    """The cause is the server's shutdown, or the unload of a version after its grace."""
    with pytest.raises(Draining), submission.hold_version("tiny", "1"):
        raise Draining(1.0)
    served[0].holds.expire()
    with (
        pytest.raises(ModelNotReady, match=r"version 1 of .* was unloaded"),
        submission.hold_version("tiny", "1"),
    ):
        raise Draining(1.0)


async def test_jobs_of_streams_are_marked(submission, served, new_job):
    """Every job of a stream is marked, so that the queue gives streams their share."""
    version = served[0]
    jobs = [new_job(tag, 1, class_id=[0]) for tag in range(4)]
    for job in jobs:  # the inputs of this model
        job.latents = (Run(0, 0, 1),)
    current_call.set(Call())
    await submission.submit(version, jobs[0])
    await submission.submit(version, jobs[1], 1)
    await submission.submit_when_room(version, jobs[2], 2)
    assert submission.submit_ahead(version, jobs[3], 3)
    assert [job.streamed for job in jobs] == [False, True, True, True]
    await asyncio.gather(*(job.done for job in jobs))


async def test_refused_chunk_ahead_costs_nothing(submission, served, new_job, monkeypatch):
    """Its images are returned to the quota, as if the queue were full."""
    returned = []
    caller = current_caller.get()
    monkeypatch.setattr(caller, "give_back", returned.append)
    budget = Budget(2**20)
    call = Call()
    call.budget = budget
    current_call.set(call)
    served[0].batcher.close()
    with pytest.raises(Draining):
        submission.submit_ahead(served[0], new_job(0, 7), 0)
    assert returned == [7]
    assert budget.held_bytes == 0


async def test_translation_settles_its_charge(submission, served, new_job, monkeypatch):
    """The charge follows the tiles of the decoded sources, and a refusal returns all of it."""
    returned = []
    monkeypatch.setattr(current_caller.get(), "give_back", returned.append)
    for charged in (2, 5, 3):
        job = new_job(charged, 3, class_id=[0, 0, 0])
        job.latents = (Run(0, 0, 3),)
        await submission.submit_all(served[0], [job], charged=charged)
        await job.done
    assert returned == [-1, 2]
    served[0].batcher.close()
    with pytest.raises(Draining):
        await submission.submit_all(served[0], [new_job(0, 3)], charged=2)
    assert returned == [-1, 2, -1, 3]
