"""What every test shares: a clean environment, calm hypothesis, tiny bundles."""

import contextlib
import os
import socket

import pytest
import trustme
from hypothesis import settings
from tiny_bundles import write_bundle

# The same examples on every run, and no verdict on how busy the machine is.
settings.register_profile("imagemint", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("imagemint")

# Tells where the real data sets lie; tests marked `data` need it.
KEPT = {"IMAGEMINT_DATA"}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    """No setting of the person who runs the tests reaches the code under test."""
    for name in set(os.environ) - KEPT:
        if name.startswith("IMAGEMINT_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def authority():
    """A certificate authority of the tests' own."""
    return trustme.CA()


@pytest.fixture(scope="session")
def write_certificate():
    """Writes `<folder>/<name>.pem` and `<name>.key` for a host; returns both paths."""

    def write(authority, folder, host="mint.test", name="server"):
        issued = authority.issue_cert(host)
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        key.write_bytes(issued.private_key_pem.bytes())
        certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        return certificate, key

    return write


@pytest.fixture
def proxy_connections(monkeypatch):
    """Names a proxy in the environment; returns a function that counts its connections so far."""
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
