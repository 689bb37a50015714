"""Tests of clients and forks: inherited clients raise, new ones work, and the parent continues.

Each program is a process of its own, because a fork of the test's process would contain its server.
An alarm ends parent and child before the timeout of the test if they hang.
"""

import subprocess
import sys

import pytest

PRELUDE = """
import asyncio, gc, multiprocessing as mp, os, signal, sys, threading
from imagemint.client import AsyncClient, Client, ClientForked
signal.alarm(90)
ADDRESS = sys.argv[1]

def in_fork(work):
    # What work() returns in a forked child, as text; the child ends as those of multiprocessing do.
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        signal.alarm(60)
        os.close(reading)
        try:
            answer = str(work())
        except BaseException as error:
            answer = type(error).__name__
        os.write(writing, answer.encode())
        os.close(writing)
        os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    return answer if status == 0 else f"{answer} and status {status}"

def fresh():
    with Client(ADDRESS, timeout_s=50) as own:
        return own.generate("tiny", 2, seed=5).serials[1]

def fresh_stream():
    with Client(ADDRESS, timeout_s=50) as own:
        return sum(len(chunk) for chunk in own.stream("tiny", 30, chunk_size=4))

async def fresh_asyncio():
    async with AsyncClient(ADDRESS, timeout_s=50) as own:
        return (await own.generate("tiny", 2, seed=5)).serials[1]

def unreachable():
    with Client("127.0.0.1:1", timeout_s=50) as own:
        own.models()
"""
SERIAL = "tiny@3/5/1?class=1"


@pytest.fixture
def run(address, tmp_path):
    """A function that runs a program after the prelude and returns the lines that it prints."""

    def run_program(program):
        script = tmp_path / "program.py"  # a file, because spawned processes import it
        script.write_text(PRELUDE + program)
        done = subprocess.run(
            [sys.executable, script, address],
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run_program


def test_inherited_client_raises(run):
    """Every kind of call raises ClientForked at once. Closing and collecting it are allowed."""
    program = """
client = Client(ADDRESS)
client.generate("tiny")
chunks = client.stream("tiny", 10**6)
next(chunks)

def close():
    global client, chunks
    client.close()
    del client, chunks
    gc.collect()
    return "closed"

print(in_fork(lambda: client.generate("tiny")))
print(in_fork(lambda: next(client.stream("tiny", 4))))
print(in_fork(lambda: next(chunks)))
print(in_fork(close))
print(len(next(chunks)), len(client.generate("tiny")))
"""
    assert run(program) == ["ClientForked"] * 3 + ["closed", "4 1"]


def test_new_client_works_in_the_child(run):
    """Calls, streams, asyncio, errors and a nested fork work, while the parent keeps its client."""
    program = """
client = Client(ADDRESS)
client.generate("tiny")
print(in_fork(fresh))
print(in_fork(fresh_stream))
print(in_fork(lambda: asyncio.run(fresh_asyncio())))
print(in_fork(unreachable))
print(in_fork(lambda: (fresh(), in_fork(fresh))))
print(client.generate("tiny", 2, seed=5).serials[1])
"""
    assert run(program) == [
        SERIAL,
        "30",
        SERIAL,
        "Unavailable",
        f"('{SERIAL}', '{SERIAL}')",
        SERIAL,
    ]


def test_child_of_a_parent_without_clients_uses_grpc(run):
    """A fork without a live client needs no helper process."""
    program = """
from imagemint.client import forks
print(in_fork(lambda: (fresh(), forks.is_grpc_broken())))
with Client(ADDRESS) as client:
    client.generate("tiny")
del client
gc.collect()
print(in_fork(lambda: (fresh(), forks.is_grpc_broken())))
"""
    assert run(program) == [f"('{SERIAL}', False)"] * 2


def test_fork_during_calls(run):
    """Each child works while threads of the parent call and stream, and no call fails."""
    program = """
client, other, stop, failures = Client(ADDRESS), Client(ADDRESS), threading.Event(), []

def call():
    try:
        while not stop.is_set():
            client.generate("tiny", 3)
            sum(len(chunk) for chunk in other.stream("tiny", 100))
    except BaseException as error:
        failures.append(repr(error))

callers = [threading.Thread(target=call) for _ in range(4)]
for caller in callers:
    caller.start()
for _ in range(4):
    print(in_fork(fresh), in_fork(lambda: client.generate("tiny")))
stop.set()
for caller in callers:
    caller.join()
print(failures)
"""
    assert run(program) == [f"{SERIAL} ClientForked"] * 4 + ["[]"]


def test_child_exits_normally(run):
    """A child of os.fork that finalizes its interpreter neither hangs nor crashes."""
    program = """
client = Client(ADDRESS)
chunks = client.stream("tiny", 10**6)
next(chunks)
child = os.fork()
if not child:
    signal.alarm(60)
    fresh()
    sys.exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(next(chunks)))
"""
    assert run(program) == ["0 4"]


def test_fork_inside_asyncio(run):
    """A client of the parent's running loop is neither destroyed nor usable in the child."""
    program = """
async def main():
    async with AsyncClient(ADDRESS) as client:
        await client.generate("tiny")
        print(in_fork(lambda: asyncio.run(fresh_asyncio())))
        def inherited():
            async def call():
                await client.generate("tiny")
            asyncio.run(call())
        print(in_fork(inherited))
        print(len(await client.generate("tiny")))
asyncio.run(main())
"""
    assert run(program) == [SERIAL, "ClientForked", "1"]


def test_pools_and_start_methods_work(run):
    """Daemonic workers of a pool or data loader work with every start method."""
    program = """
def work(number):
    with Client(ADDRESS, timeout_s=30) as own:
        return own.generate("tiny", 1, seed=number).serials[0]

if __name__ == "__main__":
    client = Client(ADDRESS)
    client.generate("tiny")
    for method in ("fork", "forkserver", "spawn"):
        with mp.get_context(method).Pool(2) as pool:
            print(method, *pool.map(work, range(3)))
    print(len(client.generate("tiny")))
"""
    serials = " ".join(f"tiny@3/{number}/0?class=0" for number in range(3))
    expected = [f"{method} {serials}" for method in ("fork", "forkserver", "spawn")]
    assert run(program) == [*expected, "1"]


@pytest.mark.parametrize(
    ("first", "switch", "warned"),
    [("grpc", None, True), ("grpc", "0", False), ("imagemint.client", None, False)],
)
def test_grpc_imported_first_is_a_warning(address, monkeypatch, first, switch, warned):
    """GRPC reads its environment at import.

    If it is too late to disable its fork support, there is a warning.
    """
    monkeypatch.delenv("GRPC_ENABLE_FORK_SUPPORT", raising=False)
    if switch is not None:
        monkeypatch.setenv("GRPC_ENABLE_FORK_SUPPORT", switch)
    program = f"""
import {first}, os, sys
from imagemint.client import Client
client = Client(sys.argv[1])
client.models()
if not os.fork():
    os._exit(0)
os.wait()
assert os.environ.get("GRPC_ENABLE_FORK_SUPPORT") == {switch!r}
"""
    done = subprocess.run(
        [sys.executable, "-c", program, address],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ("RuntimeWarning: this process forks" in done.stderr) is warned
