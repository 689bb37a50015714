"""Tests of datasets in real worker processes and ranks.

Each program is a process of its own, because a fork of the test's process would contain its server.
An alarm ends a program that hangs before the timeout of the test.
"""

import json
import subprocess
import sys

import pytest

# Each process imports PyTorch, which takes most of the time, and on a busy machine minutes in all.
pytestmark = pytest.mark.timeout(300)

PRELUDE = """
import json, os, pickle, signal, sys, tempfile, threading, warnings
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader
from imagemint.client import Client, ClientForked
from imagemint.client.torch import (
    MixedSampler, ServerSource, SyntheticImages, SyntheticStream, mix,
)

warnings.filterwarnings("ignore", "'set_vital' is deprecated")  # torchdata 0.11 with torch 2.13
signal.alarm(240)
ADDRESS = sys.argv[1]

def stream(count=40, **options):
    source = ServerSource(ADDRESS, "tiny", seed=5, timeout_s=60)
    return SyntheticStream(source, count, block_size=4, serials=True, **options)

def load(dataset, kind=DataLoader, **options):
    return kind(dataset, batch_size=4, timeout=150 if options.get("num_workers") else 0, **options)

def indices(batches):
    return [int(each.split("/")[2].split("?")[0]) for *_, some in batches for each in some]
"""
WHOLE = list(range(40))


@pytest.fixture
def run(address, tmp_path):
    """A function that runs a program after the prelude and returns its last line as JSON."""

    def run_program(program):
        script = tmp_path / "program.py"  # a file, because spawned processes import it
        script.write_text(f"{PRELUDE}\nif __name__ == '__main__':\n    exec({program!r})\n")
        done = subprocess.run(
            [sys.executable, script, address],
            capture_output=True,
            text=True,
            timeout=270,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run_program


def test_workers_of_every_start_method_read_each_image_once(run):
    """Two workers give the same order of batches as none."""
    program = """
import multiprocessing
multiprocessing.set_forkserver_preload(["torch", "imagemint.client.torch"])
found = {
    method: indices(load(stream(), num_workers=2, multiprocessing_context=method))
    for method in ("fork", "forkserver", "spawn")
}
images = SyntheticImages(ServerSource(ADDRESS, "tiny", seed=5), 40, serials=True)
found["by index"] = indices(load(images, num_workers=2, multiprocessing_context="fork"))
found["none"] = indices(load(stream()))
print(json.dumps(found))
"""
    found = run(program)
    assert set(found) == {"fork", "forkserver", "spawn", "by index", "none"}
    assert all(each == WHOLE for each in found.values()), found


def test_forked_workers_read_beside_their_parent(run):
    """The parent has open connections, workers persist over epochs, and states can be saved."""
    program = """
own = stream(advance=True)
items = iter(own)
found = {"parent": indices([(None, None, [next(items)[2] for _ in range(10)])])}

loader = load(own, num_workers=2, persistent_workers=True)  # forked while the parent reads
found["workers"] = indices(loader)
own.set_epoch(1)
found["next epoch"] = indices(loader)
found["parent goes on"] = indices([(None, None, [next(items)[2] for _ in range(10)])])
del loader

whole = load(stream(), StatefulDataLoader, num_workers=2)
batches = iter(whole)
before = indices(next(batches) for _ in range(3))
state = whole.state_dict()
del batches
resumed = load(stream(), StatefulDataLoader, num_workers=2)
resumed.load_state_dict(state)
found["resumed"] = before + indices(resumed)
print(json.dumps(found))
"""
    assert run(program) == {
        "parent": WHOLE[:10],
        "workers": WHOLE,
        "next epoch": [40 + each for each in WHOLE],
        "parent goes on": WHOLE[10:20],
        "resumed": WHOLE,
    }


def test_ranks_read_each_image_once(run):
    """Ranks of torch.distributed read with workers. A spawned worker also knows its rank."""
    program = """
def train(rank, store):
    signal.alarm(200)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2
    )
    own = stream()
    share = indices(load(own, num_workers=2, multiprocessing_context="fork"))
    copy = pickle.loads(pickle.dumps(own))
    mixed = mix([(0, 0)] * 5, SyntheticImages(own.source, 9), ratio=1.0)
    parts = [None, None]
    answer = (share, copy._rank, list(MixedSampler(mixed)))
    torch.distributed.all_gather_object(parts, answer)
    torch.distributed.destroy_process_group()
    return parts

with tempfile.TemporaryDirectory() as folder:
    store = os.path.join(folder, "store")
    other = os.fork()
    if not other:
        train(1, store)
        os._exit(0)
    shares, ranks, mixes = zip(*train(0, store))
    assert os.waitpid(other, 0)[1] == 0
print(json.dumps({"shares": shares, "ranks": ranks, "mixed": sorted(sum(mixes, []))}))
"""
    found = run(program)
    assert sorted(found["shares"][0] + found["shares"][1]) == WHOLE
    assert found["shares"][0][:8] == [0, 1, 2, 3, 8, 9, 10, 11]
    assert found["ranks"] == [[0, 2], [1, 2]]
    assert found["mixed"] == list(range(10))


def test_inherited_iterators_and_threads_do_not_hang(run):
    """An inherited iterator raises in a child. A source serves threads and forks."""
    program = """
own = stream()
items = iter(own)
next(items)

def in_fork(work):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(200)
        try:
            answer = work()
        except BaseException as error:
            answer = type(error).__name__
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        answer = json.loads(pipe.read())
    os.waitpid(child, 0)
    return answer

def read_in_threads():
    found = []
    def read(first):
        found.extend(own.source.read(first, 4).serials)
    threads = [threading.Thread(target=read, args=(first,)) for first in range(0, 40, 4)]
    [each.start() for each in threads]
    [each.join() for each in threads]
    return sorted(indices([(None, None, found)]))

# The rest of an item's block is at hand; the next block would have to be read.
answers = [in_fork(lambda: [next(items)[1] for _ in range(10)])]
answers += [read_in_threads(), in_fork(read_in_threads)]
stop = threading.Event()
busy = [threading.Thread(target=lambda: [own.source.read(0, 4) for _ in iter(stop.is_set, True)])
        for _ in range(3)]
[each.start() for each in busy]
answers += [in_fork(read_in_threads) for _ in range(2)]  # forked in the middle of calls
stop.set()
[each.join() for each in busy]
print(json.dumps(answers))
"""
    assert run(program) == ["ClientForked", *[WHOLE] * 4]
