"""Tests of faults of the machine with two workers: a hung worker, no descriptors, a full disk."""

import asyncio
import ctypes
import errno
import json
import os
import resource
import signal
import socket

import grpc
import pytest
from held_backend import WAIT_S
from server_process import ended, line_of, process
from tiny_bundles import write_bundle

from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import generation_service_pb2_grpc

PLAIN = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A repository with one small model."""
    directory = tmp_path_factory.mktemp("tiny")
    write_bundle(directory, "tiny", conditional=False)
    return directory


async def generate(address):
    """Requests one image over its own connection."""
    request = pb.GenerateRequest(images={"model": "tiny", "count": 1})
    options = [*PLAIN, ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        return await stub.Generate(request, timeout=WAIT_S, wait_for_ready=True)


async def wait_for_start(server):
    """Returns the log line of the start and the process ids of the two workers."""
    pids = {}
    for _ in range(2):
        line = await line_of(server, "worker ready")
        pids[line["worker"]] = line["pid"]
    return await line_of(server, "ready"), pids


async def test_hung_worker_is_replaced(tiny, scrape):
    """It is not ready, is killed after a while, and another worker takes its place."""
    options = (f"--repository={tiny}", "--processes=2")
    async with process(*options) as server:
        ready, pids = await wait_for_start(server)
        os.kill(pids[0], signal.SIGSTOP)
        await line_of(server, "worker does not answer", worker=0, pid=pids[0])
        samples = await scrape(ready["metrics_address"])
        assert samples["imagemint_workers_ready", frozenset()] == 1
        died = await line_of(server, "worker died", worker=0)
        assert died["cause"] == "no heartbeat for 10 s"
        assert (await line_of(server, "worker ready", worker=0))["pid"] != pids[0]
        samples = await scrape(ready["metrics_address"])
        assert samples["imagemint_workers_ready", frozenset()] == 2
        for _ in range(8):  # whichever worker the kernel selects
            await generate(ready["grpc_address"])
        server.send_signal(signal.SIGTERM)
        assert await ended(server) == 0


async def test_worker_that_continues_is_kept(tiny):
    """A short pause only interrupts the readiness of the worker."""
    async with process(f"--repository={tiny}", "--processes=2") as server:
        _, pids = await wait_for_start(server)
        os.kill(pids[1], signal.SIGSTOP)
        await line_of(server, "worker does not answer", worker=1)
        os.kill(pids[1], signal.SIGCONT)
        await line_of(server, "worker answers again", worker=1, pid=pids[1])
        server.send_signal(signal.SIGTERM)
        assert await ended(server) == 0


async def replace_worker_without_models(server, pid, folder):
    """Loses the models, kills a worker, and returns when its successor waits for a model."""
    (folder / "models/tiny").rename(folder / "away")
    os.kill(pid, signal.SIGKILL)
    await line_of(server, "worker has no model that serves, and takes no calls until it has one")


async def test_worker_without_a_model_takes_no_calls(tmp_path, scrape):
    """If the mount is lost when a worker dies, the new one leaves the calls to the others."""
    write_bundle(tmp_path / "models", "tiny", conditional=False)
    options = (f"--repository={tmp_path / 'models'}", "--processes=2", "--poll-interval-s=0.1")
    async with process(*options) as server:
        ready, pids = await wait_for_start(server)
        await replace_worker_without_models(server, pids[0], tmp_path)
        samples = await scrape(ready["metrics_address"])
        assert samples["imagemint_workers_ready", frozenset()] == 1
        for _ in range(8):  # whichever worker the kernel selects
            await generate(ready["grpc_address"])
        (tmp_path / "away").rename(tmp_path / "models/tiny")
        assert (await line_of(server, "worker ready", worker=0))["pid"] != pids[0]
        server.send_signal(signal.SIGTERM)
        assert await ended(server) == 0


async def test_worker_without_a_model_ends_by_a_drain(tmp_path):
    """The supervisor does not wait for a worker that waits for a model."""
    write_bundle(tmp_path / "models", "tiny", conditional=False)
    options = (f"--repository={tmp_path / 'models'}", "--processes=2")
    async with process(*options) as server:
        _, pids = await wait_for_start(server)
        await replace_worker_without_models(server, pids[0], tmp_path)
        server.send_signal(signal.SIGTERM)
        assert await ended(server) == 0


@pytest.mark.parametrize("processes", [1, 2])
async def test_hangup_reloads_the_models(tiny, processes):
    """SIGHUP refreshes the models at once, also if the whole process group gets it."""
    options = (f"--repository={tiny}", f"--processes={processes}", "--poll-interval-s=3600")
    async with process(*options) as server:
        ready = await line_of(server, "ready")
        write_bundle(tiny, "more", conditional=False)
        try:
            os.killpg(server.pid, signal.SIGHUP)
            seen = []
            async with asyncio.timeout(WAIT_S):
                while sum("serving more@1" in each["event"] for each in seen) < processes:
                    seen.append(json.loads(await server.stderr.readline()))
            assert "reload" in {each["event"] for each in seen}
            await generate(ready["grpc_address"])
        finally:
            for path in sorted((tiny / "more").rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            (tiny / "more").rmdir()
        server.send_signal(signal.SIGTERM)
        assert await ended(server) == 0


async def test_idle_scrapers_do_not_prevent_a_restart(tiny):
    """With more idle connections than descriptors, a dead worker is replaced."""
    async with process(f"--repository={tiny}", "--processes=2") as server:
        ready, pids = await wait_for_start(server)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (60, 60))
        host, port = ready["metrics_address"].split(":")
        idle = [socket.create_connection((host, int(port)), WAIT_S) for _ in range(300)]
        os.kill(pids[0], signal.SIGKILL)
        await line_of(server, "worker ready", worker=0)
        await generate(ready["grpc_address"])
        for each in idle:
            each.close()
        server.send_signal(signal.SIGTERM)
        assert await ended(server) == 0


async def test_invalid_key_file_is_one_line(tiny, tmp_path):
    """As with one process, the log has the reason, no traceback, and the exit status is 1."""
    (tmp_path / "keys.toml").write_text("not toml")
    options = (f"--repository={tiny}", "--processes=2", f"--api-keys={tmp_path / 'keys.toml'}")
    async with process(*options) as server:
        async with asyncio.timeout(WAIT_S):
            _, log = await server.communicate()
    assert server.returncode == 1
    assert b"Traceback" not in log
    records = [line for line in log.decode().splitlines() if not line.startswith("{")]
    (last,) = records
    assert last.startswith("imagemint serve: worker ")
    assert "keys.toml" in last


@pytest.fixture
def full_disk(tmp_path):
    """A file system without free space."""
    where = tmp_path / "full"
    where.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", str(where).encode(), b"tmpfs", 0, b"size=64k") != 0:
        pytest.skip(f"cannot mount a tmpfs: {os.strerror(ctypes.get_errno())}")
    yield where
    libc.umount2(str(where).encode(), 2)


def fill_disk(directory):
    """Fills a disk completely."""
    with (directory / "filling").open("wb", buffering=0) as file:
        written = 1
        while written:
            try:
                written = file.write(bytes(4096))
            except OSError as error:
                assert error.errno == errno.ENOSPC  # noqa: PT017 - the end of the loop
                written = 0


async def test_full_disk_is_no_failure(tiny, full_disk, scrape):
    """Workers start, serve and are replaced without free space in TMPDIR."""
    fill_disk(full_disk)
    options = (f"--repository={tiny}", "--processes=2")
    async with process(*options, TMPDIR=str(full_disk)) as server:
        ready, pids = await wait_for_start(server)
        os.kill(pids[0], signal.SIGKILL)
        await line_of(server, "worker ready", worker=0)
        for _ in range(8):
            await generate(ready["grpc_address"])
        samples = await scrape(ready["metrics_address"])
        assert samples["imagemint_workers_ready", frozenset()] == 2
        server.send_signal(signal.SIGTERM)
        assert await ended(server) == 0
