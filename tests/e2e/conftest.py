"""Fixtures: one server for the programs of users, `imagemint serve` with the shipped digits."""

from pathlib import Path

import pytest_asyncio
from held_backend import WAIT_S
from server_process import line_of, process

ROOT = Path(__file__).parents[2]


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def mnist_server(tmp_path_factory):
    """The address of the server."""
    repository = tmp_path_factory.mktemp("models")
    (repository / "mnist").mkdir()
    (repository / "mnist/3").symlink_to(ROOT / "models/mnist/3")
    settings = (f"--repository={repository}", f"--start-timeout-s={WAIT_S}")
    async with process(*settings) as started:
        yield (await line_of(started, "ready"))["grpc_address"]
