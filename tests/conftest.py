"""Fixtures of all tests: a clean environment, hypothesis settings and tiny bundles."""

import contextlib
import os
import signal
import socket
from pathlib import Path

# Threads of OpenBLAS and OpenMP spin while they wait for work. On the small arrays of tests that
# costs several times the work itself, and takes the cores from other processes. Both libraries read
# the variable when they are loaded, and programs that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import trustme
from hypothesis import HealthCheck, settings
from tiny_bundles import write_bundle

# Every run has the same examples, and a busy machine causes no failure: neither a deadline nor the
# time that it takes to draw examples.
settings.register_profile(
    "imagemint",
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("imagemint")

# A program in the background or under nohup ignores signals that tests send, and so do the programs
# that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The folder of the real data sets, which tests marked `data` need.
KEPT = {"IMAGEMINT_DATA"}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    """Removes the settings of the user who runs the tests from the environment."""
    for name in set(os.environ) - KEPT:
        if name.startswith("IMAGEMINT_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def authority():
    """A certificate authority for the tests."""
    return trustme.CA()


@pytest.fixture(scope="session")
def write_certificate():
    """A function that writes `<folder>/<name>.pem` and `<name>.key` for a host and returns both."""

    def write(authority, folder, host="mint.test", name="server"):
        issued = authority.issue_cert(host)
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        key.write_bytes(issued.private_key_pem.bytes())
        certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        return certificate, key

    return write


@pytest.fixture
def real_data():
    """The directory of the real data sets."""
    folder = os.environ.get("IMAGEMINT_DATA")
    if not folder or not (Path(folder) / "mnist").is_dir():
        pytest.skip("IMAGEMINT_DATA names no folder with the real data sets")
    return Path(folder)


@pytest.fixture
def proxy_connections(monkeypatch):
    """Sets a proxy in the environment. The value is a function that counts its connections."""
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.setblocking(False)
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        for name in ("grpc_proxy", "http_proxy", "https_proxy"):
            monkeypatch.setenv(name, address)

        def count():
            connections = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    proxy.accept()[0].close()
                    connections += 1
            return connections

        yield count


@pytest.fixture
def tiny_bundle(tmp_path):
    """The directory of one conditional bundle: `<tmp>/models/tiny/1`."""
    return write_bundle(tmp_path / "models")
