"""Tests of client processes that share a load."""

import multiprocessing
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from imagemint.bench.client_processes import ClientLost, ClientProcesses, _answer, _Worker
from imagemint.bench.imagemint_target import ImagemintTarget
from imagemint.bench.load import Closed, Open, Plan
from imagemint.bench.mix import parse_mix
from imagemint.bench.point import join_results
from imagemint.bench.target import CallFailed

ONE = parse_mix("count=1")


def test_plan_is_divided_completely():
    """Callers, images and rate add up. No part is empty, and each has its own number."""
    parts = Plan(Closed(5), ONE, images=11).split(3)
    assert [part.load.concurrency for part in parts] == [2, 2, 1]
    assert [part.images for part in parts] == [4, 4, 3]
    assert [part.client for part in parts] == [0, 1, 2]
    assert len(Plan(Closed(2), ONE, duration_s=1.0).split(4)) == 2
    parts = Plan(Open(30.0), ONE, duration_s=1.0).split(4)
    assert [part.load.calls_per_s for part in parts] == [7.5] * 4


def test_results_of_processes_add_up(address, mint):
    """Two real processes receive all images from two seeds, with every latency."""
    plan = Plan(Closed(4), parse_mix("count=2 class=1"), images=40, verify=True)
    with ClientProcesses(ImagemintTarget((address,), "tiny"), 2) as clients:
        point = join_results(plan.load, plan.mix, clients.measure(plan))
        again = join_results(plan.load, plan.mix, clients.measure(plan))
    assert (point.sum.images, point.sum.calls, len(point.sum.latency)) == (40, 20, 20)
    assert again.sum.images == 40
    assert (point.verified.compared, point.verified.different) == (20, 0)
    assert len(point.efforts) == 2
    assert len({request.images.seed for request in mint.requests}) == 2


def test_failure_in_a_process_is_raised():
    """The error is raised in the parent, and the process waits for the next plan."""
    ours, theirs = multiprocessing.Pipe()
    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(_answer, theirs, ImagemintTarget(("127.0.0.1:1",), "tiny"))
        for _ in range(2):
            ours.send(Plan(Closed(2), ONE, images=2))
            found = ours.recv()
            assert isinstance(found, CallFailed)
            assert (found.code, found.shed) == ("UNAVAILABLE", False)
        ours.close()
        serving.result()
    assert pickle.loads(pickle.dumps(CallFailed("X", "why", shed=True))).shed  # noqa: S301 - our own


def test_lost_process_is_an_error():
    """The error has its exit status, and the parent does not wait."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=sys.exit, args=(3,))
    process.start()
    theirs.close()
    with pytest.raises(ClientLost, match="ended with status 3"):
        _Worker(process, ours).receive()
