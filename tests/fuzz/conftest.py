"""Fixtures: real servers in threads, and the number of examples."""

import asyncio
import os
import threading

import grpc
import pytest
from hypothesis import HealthCheck, settings
from server_process import server_logs
from tiny_bundles import write_each_kind

from imagemint.server.access.api_keys import compute_digest
from imagemint.server.app import App
from imagemint.server.settings import ServeSettings

KEY = "imk_" + "f" * 43
_BUDGET = os.environ.get("IMAGEMINT_FUZZ_EXAMPLES")

settings.register_profile(
    "fuzz",
    settings.get_profile("imagemint"),
    max_examples=int(_BUDGET or 40),
    derandomize=_BUDGET is None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
FUZZ = settings.get_profile("fuzz")


@pytest.fixture(scope="session")
def fuzz():
    """The settings of hypothesis for generated inputs."""
    return FUZZ


class Served:
    """A server in a thread with its own event loop.

    Attributes:
        app: the server.
        channel: a plain connection to it.
        loop: the event loop of its thread.
    """

    def __init__(self, **options):
        self._options = options
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()))

    def __enter__(self):
        self._thread.start()
        self._ready.wait()
        options = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]
        self.channel = grpc.insecure_channel(self.app.grpc_address, options)
        return self

    def __exit__(self, *_):
        self.channel.close()
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    async def _live(self):
        self.loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        anywhere = {"grpc_address": "127.0.0.1:0", "metrics_address": "127.0.0.1:0"}
        self.app = App(ServeSettings(**anywhere, **self._options))
        await self.app.start()
        self._ready.set()
        await self._end.wait()
        await self.app.stop()


@pytest.fixture(scope="session", autouse=True)
def _redirect_logs():
    """Redirects the server's log lines to pytest."""
    with server_logs():
        yield


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A repository with one model of each kind."""
    directory = tmp_path_factory.mktemp("fuzzed")
    write_each_kind(directory)
    return directory


# Servers of a module and not of the session, because tests of other files look at the process.
@pytest.fixture(scope="module")
def served(models):
    """A server without keys."""
    with Served(repository=models, drain_grace_s=1.0) as served:
        yield served


@pytest.fixture(scope="module")
def locked(models, tmp_path_factory):
    """A server that requires KEY."""
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    path.write_text(f'[[key]]\nname = "known"\nsha256 = "{compute_digest(KEY)}"\n')
    with Served(repository=models, api_keys=path, drain_grace_s=1.0) as served:
        yield served
