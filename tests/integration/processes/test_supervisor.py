"""Tests of the supervisor in this process, with workers that only communicate or fail."""

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from held_backend import WAIT_S

from imagemint.server.processes.supervisor import Supervisor, make_worker_settings
from imagemint.server.processes.worker_keeper import StartFailed
from imagemint.server.settings import ServeSettings

SPEAKING = (sys.executable, str(Path(__file__).with_name("speaking_worker.py")))
ANYWHERE = {"grpc_address": "127.0.0.1:0", "metrics_address": "127.0.0.1:0"}


@asynccontextmanager
async def run_supervisor(processes=2):
    """Runs a supervisor whose workers are ready, and drains it at the end."""
    supervisor = Supervisor(ServeSettings(processes=processes, **ANYWHERE), SPEAKING)
    running = asyncio.create_task(supervisor.run())
    try:
        async with asyncio.timeout(WAIT_S):
            await supervisor._all_ready.wait()
            yield supervisor
            os.kill(os.getpid(), signal.SIGTERM)
            assert await running == 0
    finally:  # after a failed test, kills the workers
        running.cancel()
        await asyncio.wait({running})


async def ask_all(supervisor, topic, payload=None, *, worker, **options):
    """Returns the answers when a worker asks all: (worker, value, error) of each."""
    keepers = [supervisor._keepers[worker]]
    question = (topic, payload, options)
    (reply,) = await supervisor._questions.ask(keepers, "relay", question, timeout_s=WAIT_S)
    assert not reply.error
    return [tuple(each) for each in reply.value]


async def wait_for_replacement(supervisor, number, old):
    """Waits until another process is ready in the place of a worker."""
    keeper = supervisor._keepers[number]
    while not keeper.ready or keeper.pid == old:  # noqa: ASYNC110 - within the time of `supervised`
        await asyncio.sleep(0.01)


async def test_any_worker_can_ask_all():
    """Answers include the asking worker and come in the order of numbers."""
    async with run_supervisor() as supervisor:
        assert await ask_all(supervisor, "learn", "red", worker=1) == [(0, 1, ""), (1, 1, "")]
        for worker in (0, 1):
            known = [(0, ["red"], ""), (1, ["red"], "")]
            assert await ask_all(supervisor, "tell", worker=worker) == known
        (_, _, error), _ = await ask_all(supervisor, "tpyo", worker=0)
        assert error == "nothing answers 'tpyo'"


async def test_new_worker_gets_the_remembered_commands():
    """It gets the last command of each name in order, and no others."""
    async with run_supervisor() as supervisor:
        for word, name in (("red", "a"), ("green", ""), ("blue", "b"), ("black", "a")):
            await ask_all(supervisor, "learn", word, worker=0, remember_as=name)
        old = supervisor._keepers[1].pid
        os.kill(old, signal.SIGKILL)
        await wait_for_replacement(supervisor, 1, old)
        (_, veteran, _), (_, recruit, _) = await ask_all(supervisor, "tell", worker=0)
        assert veteran == ["red", "green", "blue", "black"]
        assert recruit == ["blue", "black"]


async def test_new_worker_knows_what_the_others_serve():
    """It learns of the versions of the others, without its own, before it accepts calls."""
    async with run_supervisor(processes=3) as supervisor:
        old = supervisor._keepers[1].pid
        os.kill(old, signal.SIGKILL)
        await wait_for_replacement(supervisor, 1, old)
        answers = await ask_all(supervisor, "tell_elsewhere", worker=0)
        assert answers[1] == (1, {"tiny": [1, 3]}, "")


async def test_death_of_a_worker_is_an_answer():
    """A question does not wait for a worker that dies because of it."""
    async with run_supervisor(3) as supervisor:
        keepers = supervisor._keepers[1:2]
        (reply,) = await supervisor._questions.ask(keepers, "die", None, timeout_s=WAIT_S)
        assert reply.error == "worker 1 died"


async def test_worker_restarts_when_descriptors_are_available(monkeypatch):
    """The supervisor retries, and the other workers continue."""
    connect, failures = socket.socketpair, [errno.EMFILE, errno.ENFILE]

    def refuse(*arguments):
        if failures:
            raise OSError(failures.pop(), "Too many open files")
        return connect(*arguments)

    async with run_supervisor() as supervisor:
        other, old = (keeper.pid for keeper in supervisor._keepers)
        monkeypatch.setattr(socket, "socketpair", refuse)
        os.kill(old, signal.SIGKILL)
        await wait_for_replacement(supervisor, 1, old)
        assert not failures
        assert supervisor._keepers[0].pid == other


@pytest.mark.parametrize("status", ["exit status 3", "killed by SIGKILL"])
async def test_workers_that_never_start_fail_the_start(status):
    """After some attempts the start fails with the reason of their end."""
    died = "sys.exit(3)" if "3" in status else "os.kill(os.getpid(), signal.SIGKILL)"
    command = (sys.executable, "-c", f"import os, signal, sys; {died}")
    supervisor = Supervisor(ServeSettings(processes=2, **ANYWHERE), command)
    with pytest.raises(StartFailed, match=f"worker [01] cannot serve: {status}"):
        await supervisor.run()


@pytest.mark.parametrize("which", ["grpc_address", "metrics_address"])
async def test_used_port_fails_the_start(which):
    """The start fails before any worker is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        supervisor = Supervisor(ServeSettings(processes=2, **ANYWHERE | {which: address}))
        with pytest.raises(OSError, match=f"cannot listen on {address}"):
            await supervisor.run()
    assert not supervisor._keepers


def test_queue_is_divided_among_workers():
    """Each worker has a share of the queue that holds the largest request."""
    settings = ServeSettings(processes=3, max_queue_images=10_000, max_images_per_request=1_000)
    assert make_worker_settings(settings, "h:1").max_queue_images == 3_334
    crowded = settings.model_copy(update={"processes": 30})
    assert make_worker_settings(crowded, "h:1").max_queue_images == 1_000
    assert make_worker_settings(crowded, "h:1").grpc_address == "h:1"


def test_supervisor_imports_neither_grpc_nor_numpy():
    """The supervisor only manages the processes that compute."""
    script = "import sys, imagemint.server.processes.supervisor; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert not {"grpc", "onnxruntime", "numpy"} & set(done.stdout.split())
