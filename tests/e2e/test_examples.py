"""Tests of the examples as a user runs them: real processes and a real server."""

import asyncio
import functools
import json
import os
import re
import signal
import sys
import urllib.error
import urllib.request
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from grpc import aio
from held_backend import WAIT_S
from node import CLIENT, hold_package, require_node, run_node
from PIL import Image
from server_process import line_of, process
from tiny_translators import write_translator

from imagemint.client import AsyncClient, Cycle
from imagemint.v1 import generation_service_pb2_grpc

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))

pytestmark = pytest.mark.asyncio(loop_scope="session")


@asynccontextmanager
async def run_service(*command, says, **environment):
    """Runs a server program and yields the address that it prints after `says`."""
    async with run_program(*command, says=says, **environment) as (_, address):
        yield address


@asynccontextmanager
async def run_program(*command, says, **environment):
    """Runs a server program and yields its process, and the address that it prints after `says`."""
    started = await asyncio.create_subprocess_exec(
        *command,
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(WAIT_S):
            while line := (await started.stdout.readline()).decode():
                if found := re.search(rf"{says} (http://\S+)", line):
                    yield started, found[1]
                    break
            else:
                raise AssertionError("the program ended without an address")
    finally:
        if started.returncode is None:
            os.killpg(started.pid, signal.SIGKILL)
        await started.communicate()


async def fetch(url):
    """Returns status, headers and body of a response with any status."""

    def read():
        try:
            with DIRECT.open(url, timeout=WAIT_S) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    return await asyncio.to_thread(read)


async def check_avatars(address, serials):
    """Checks that a name always gives the same picture with its serial."""
    ada, again, bob = [
        await fetch(f"{address}/avatars/{name}.png") for name in ("ada", "ada", "bob")
    ]
    for status, headers, picture in (ada, bob):
        assert (status, headers["Content-Type"]) == (200, "image/png")
        assert picture.startswith(b"\x89PNG")
        assert headers["Serial-Number"].encode() in picture
    assert ada[2] == again[2] != bob[2]
    serials.append(ada[1]["Serial-Number"])


@pytest.fixture(scope="module")
def serials():
    """The serials of the same name in each service."""
    return []


def serve_with_fastapi(address, deadline_s="60"):
    """Runs the service in Python."""
    return run_service(
        *(sys.executable, "-m", "uvicorn", "--app-dir", EXAMPLES / "backend_service"),
        *("app:app", "--port", "0", "--log-level", "info"),
        says="Uvicorn running on",
        IMAGEMINT_SERVER=address,
        DEADLINE_S=deadline_s,
    )


def serve_with_node(program, address, deadline_s="60"):
    """Runs the service in TypeScript."""
    return run_service("node", program, says="on", **set_up_node(address, deadline_s))


def set_up_node(address, deadline_s):
    """Returns the environment of the service in TypeScript."""
    return {"IMAGEMINT_SERVER": address, "PORT": "0", "DEADLINE_S": deadline_s}


async def check_failures(serve):
    """Checks that 503 has a retry time without a server, and 504 is the status of a slow call."""
    async with serve("127.0.0.1:1") as address:
        status, headers, _ = await fetch(f"{address}/avatars/ada.png")
        assert (status, headers["Retry-After"]) == (503, "1")
    async with serve("127.0.0.1:1", deadline_s="0.001") as address:
        assert (await fetch(f"{address}/avatars/ada.png"))[0] == 504


async def test_backend_service_returns_pictures(mnist_server, serials):
    """FastAPI answers with a PNG for each name."""
    async with serve_with_fastapi(mnist_server) as address:
        await check_avatars(address, serials)


async def test_backend_service_has_retry_times():
    """Without a server the status is 503, or 504 at the deadline."""
    await check_failures(serve_with_fastapi)


@pytest.fixture
def built_client():
    """The folder of the TypeScript client, whose `dist` is built and stays as it is."""
    require_node()
    with hold_package():
        run_node("npm", "run", "build")
        yield CLIENT


@pytest.fixture
def typescript_service(built_client, tmp_path):
    """The compiled program of the service in TypeScript."""
    modules = tmp_path / "node_modules"
    modules.mkdir()
    (modules / "imagemint").symlink_to(built_client)
    for name in ("@types", "undici-types"):
        (modules / name).symlink_to(built_client / "node_modules" / name)
    for name in ("package.json", "tsconfig.json", "src"):
        (tmp_path / name).symlink_to(EXAMPLES / "typescript_service" / name)
    compiler = built_client / "node_modules/.bin/tsc"
    run_node(compiler, "--preserveSymlinks", cwd=tmp_path)
    return tmp_path / "dist/server.js"


async def test_typescript_service_equals_the_python_one(mnist_server, serials, typescript_service):
    """Node returns the same picture for a name, and the same failures. Bad paths do not end it."""
    serve = functools.partial(serve_with_node, typescript_service)
    async with serve(mnist_server) as address:
        assert (await fetch(f"{address}/avatars/%E0%A4%A.png"))[0] == 400
        assert (await fetch(f"{address}/nothing"))[0] == 404
        await check_avatars(address, serials)
    assert len(set(serials)) == 1
    await check_failures(serve)


class Endless(generation_service_pb2_grpc.GenerationServiceServicer):
    """Calls that are never answered."""

    def __init__(self):
        self.asked, self.left = asyncio.Event(), asyncio.Event()

    async def Generate(self, request, context):  # noqa: N802 - the name of the RPC
        """Waits until the caller leaves."""
        del request, context
        self.asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()


@pytest_asyncio.fixture(loop_scope="session")
async def endless():
    """A server that never answers, with its address."""
    server, servicer = aio.server(), Endless()
    generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(servicer, server)
    servicer.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield servicer
    await server.stop(0)


async def test_typescript_service_ends_after_its_requests(endless, typescript_service):
    """After SIGTERM, a request that waits still gets its own answer: here, 504 at the deadline."""
    settings = set_up_node(endless.address, "3")
    async with run_program("node", typescript_service, says="on", **settings) as (program, address):
        waiting = asyncio.create_task(fetch(f"{address}/avatars/ada.png"))
        await endless.asked.wait()
        program.terminate()
        assert (await waiting)[0] == 504
        assert await program.wait() == 0


async def test_typescript_service_drops_the_work_for_a_visitor_who_leaves(
    endless, typescript_service
):
    """The call ends long before its deadline."""
    async with serve_with_node(typescript_service, endless.address) as address:
        reader, writer = await asyncio.open_connection(*address.removeprefix("http://").split(":"))
        del reader
        writer.write(b"GET /avatars/ada.png HTTP/1.1\r\nHost: mint\r\n\r\n")
        await endless.asked.wait()
        writer.close()
        async with asyncio.timeout(WAIT_S / 2):
            await endless.left.wait()


async def test_augmentation_adds_images(mnist_server, tmp_path):
    """The program trains on the real images, and with synthetic ones of each class."""
    async with AsyncClient(mnist_server) as client:
        batch = await client.generate("mnist", 80, seed=7, condition=Cycle())
    np.savez(tmp_path / "few.npz", image=batch.image, label=batch.class_id)
    done = await asyncio.create_subprocess_exec(
        *(sys.executable, EXAMPLES / "augmentation/train.py", "--real", tmp_path / "few.npz"),
        *("--server", mnist_server, "--per-class", "20", "--steps", "5"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, errors = await done.communicate()
    assert done.returncode == 0, errors.decode()
    lines = printed.decode().splitlines()
    assert [line.partition(", accuracy")[0] for line in lines] == [
        "real: 60 images",
        "real and synthetic: 200 images",
    ]


async def test_export_writes_a_dataset_that_opens(mnist_server, tmp_path):
    """The script writes Parquet that `datasets` opens. A second run has nothing to do."""
    command = (EXAMPLES / "dataset_export/export.sh", tmp_path / "digits", "40")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "1",
        "IMAGEMINT_SERVER": mnist_server,
    }
    for line in ("seed 7", "is complete"):
        done = await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        printed, errors = (each.decode() for each in await done.communicate())
        assert done.returncode == 0, errors
        assert "40 images of ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9']" in printed
        assert line in printed + errors


async def test_folder_is_translated(tmp_path):
    """Every picture is enlarged but the one that is no picture, which the program names."""
    write_translator(tmp_path / "models", "srgan", scale=4)
    (tmp_path / "small").mkdir()
    for level in range(3):
        Image.new("RGB", (16, 24), (80 * level, 0, 40)).save(tmp_path / f"small/{level}.png")
    (tmp_path / "small/note.txt").write_text("not a picture")
    async with process(f"--repository={tmp_path / 'models'}") as started:
        address = (await line_of(started, "ready"))["grpc_address"]
        done = await asyncio.create_subprocess_exec(
            *(sys.executable, EXAMPLES / "translation/translate_folder.py"),
            *(tmp_path / "small", tmp_path / "large", "--server", address),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        printed, errors = (each.decode() for each in await done.communicate())
    assert done.returncode == 1, errors
    summary, refused = printed.splitlines()
    assert summary == f"3 of 4 pictures are in {tmp_path / 'large'}"
    assert refused.startswith("note.txt: ")
    made = sorted((tmp_path / "large").iterdir())
    assert [path.name for path in made] == ["0.png.png", "1.png.png", "2.png.png"]
    for path in made:
        with Image.open(path) as picture:
            assert picture.size == (64, 96)


async def test_feeding_benchmark_measures_each_way(mnist_server, tmp_path):
    """A short run writes a share and a rate for each way."""
    done = await asyncio.create_subprocess_exec(
        *(sys.executable, ROOT / "benchmarks/feeding.py", "--server", mnist_server),
        *("--batch", "8", "--steps", "2", "--rounds", "1", "--json", tmp_path / "found.json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await done.communicate()
    assert done.returncode == 0, errors.decode()
    ways = json.loads((tmp_path / "found.json").read_text())["ways"]
    assert set(ways) == {"memory", "disk", "disk, 1 worker", "server"}
    assert all(0 <= way["waiting_share"] <= 1 for way in ways.values())
    assert all(way["images_per_s"] > 0 for way in ways.values())
