"""Tests of imagemint.server.rpc.submission: the version of a call, and what its jobs cost."""

import asyncio
from types import SimpleNamespace

import pytest
from tiny_bundles import write_bundle

from imagemint.engine.errors import BackendFailed, Draining, ModelNotReady
from imagemint.engine.sampling import Run
from imagemint.server.access.caller import ANONYMOUS, current_caller
from imagemint.server.images.bytes_in_flight import Budget
from imagemint.server.rpc.call import Call, current_call
from imagemint.server.rpc.submission import Gate, Submission, wait_for_all


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


async def test_refused_jobs_cost_nothing(submission, served, new_job, monkeypatch):
    """The images of a job that the queue refuses are returned to the caller's rate."""
    returned = []
    monkeypatch.setattr(current_caller.get(), "give_back", returned.append)
    current_call.set(Call())
    version = served[0]
    version.batcher.close()
    for attempt in (
        submission.submit(version, new_job(0, 7)),
        submission.submit(version, new_job(0, 6), 1),
        submission.submit_when_room(version, new_job(0, 5), 2),
        submission.submit_candidates(version, new_job(0, 4)),
    ):
        with pytest.raises(Draining):
            await attempt
    assert returned == [7, 6, 5, 4]


async def test_candidates_are_charged_and_counted(submission, served, new_job, monkeypatch):
    """The candidates of a filter are charged to the caller's rate, and the metric has them."""
    charged, counted = [], []

    async def pace(images, stay):
        del stay
        charged.append(images)

    caller = current_caller.get()
    monkeypatch.setattr(caller, "pace", pace)
    monkeypatch.setattr(caller, "count", lambda model, images: counted.append((model, images)))
    job = new_job(0, 3, class_id=[0, 0, 0])
    job.latents = (Run(0, 0, 3),)
    await submission.submit_candidates(served[0], job)
    await job.done
    assert charged == [3]
    assert counted == [("tiny", 3)]


async def test_stream_that_waits_for_its_rate_ends(several, served, metrics, new_job, monkeypatch):
    """While the rate delays a stream, it still ends with the server's grace."""

    async def pace(images, stay):
        del images
        stay()

    monkeypatch.setattr(current_caller.get(), "pace", pace)
    current_call.set(Call())
    submission, version = Submission(several, metrics, Gate(expiring=True)), served[0]
    for attempt in (
        submission.submit(version, new_job(0, 1), 1),
        submission.submit_when_room(version, new_job(0, 1), 2),
        submission.charge(version, 1, streamed=True),
    ):
        with pytest.raises(Draining):
            await attempt
    assert version.batcher._queue.images == 0


async def test_search_for_candidates_ends_with_the_grace(several, served, metrics, new_job):
    """A filter that rejects nearly everything does not delay the end of the server."""
    submission = Submission(several, metrics, Gate(expiring=True))
    with pytest.raises(Draining):
        await submission.submit_candidates(served[0], new_job(0, 1))
    assert served[0].batcher._queue.images == 0


async def test_chunk_ahead_beyond_the_rate_holds_no_bytes(submission, served, new_job, monkeypatch):
    """If the rate does not allow a chunk ahead, the memory for it is released."""
    monkeypatch.setattr(current_caller.get(), "charge_ahead", lambda images: False)
    call = Call()
    call.budget = Budget(2**20)
    current_call.set(call)
    assert not submission.submit_ahead(served[0], new_job(0, 7), 0)
    assert call.budget.held_bytes == 0


@pytest.mark.parametrize("failure", [BackendFailed("no"), None])
async def test_failed_translation_drops_all_its_jobs(new_job, failure):
    """If one job fails or the caller leaves, no other job of the translation is computed."""
    current_call.set(Call())
    jobs, dropped = [new_job(tag, 1) for tag in range(3)], []
    for job in jobs:
        job.done = asyncio.get_running_loop().create_future()
    jobs[0].done.set_result(None)
    if failure is not None:
        jobs[1].done.set_exception(failure)
    waiting = asyncio.create_task(wait_for_all(SimpleNamespace(drop=dropped.append), jobs))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(BackendFailed if failure else asyncio.CancelledError):
        await waiting
    assert dropped == jobs
