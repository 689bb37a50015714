"""Tests of the priority of the computing threads, as the kernel reports it."""

import os
import sys
import threading

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have none")


@pytest.mark.parametrize("niceness", [0, 5])
async def test_instances_have_the_niceness(backend, new_batcher, new_job, niceness):
    """The threads of instances have the niceness, and the event loop keeps its priority."""
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    found = []
    compute = backend.run

    def noting(*inputs):
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return compute(*inputs)

    backend.run = noting
    batcher = new_batcher(niceness=niceness)
    job = new_job(1, 1)
    batcher.submit(job)
    await job.done
    assert found == [max(before, niceness)]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
