"""Tests of the connection: targets, retries, round robin and TLS."""

import asyncio

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization

from imagemint import client
from imagemint.client import AsyncClient, Client, Tls, channel


@pytest.mark.parametrize(
    ("target", "targets"),
    [
        ("localhost:8001", ("localhost:8001",)),
        ("a:1, b:2", ("a:1", "b:2")),
        (["a:1", "b:2"], ("a:1", "b:2")),
        ("[::1]:8001", ("[::1]:8001",)),
        ("unix:/run/mint.sock", ("unix:/run/mint.sock",)),
    ],
)
def test_targets_are_parsed(target, targets):
    """There may be one or several targets, as text or as a sequence."""
    assert channel.parse_targets(target) == targets


@pytest.mark.parametrize(
    "target", ["", [], "a:1,", "localhost", ":8001", "a:x", "a:70000", "::1", "a:1,unix:/x"]
)
def test_invalid_target_is_refused(target):
    """A target without host or port raises at once."""
    with pytest.raises(ValueError, match=r"server|HOST:PORT"):
        Client(target)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("target", {"target": None}),
        ("target", {"target": b"a:1"}),
        ("target", {"target": ("a", 1)}),
        ("timeout_s", {"timeout_s": "3"}),
        ("timeout_s", {"timeout_s": True}),
        ("tls", {"tls": True}),
        ("metadata", {"metadata": None}),
        ("metadata", {"metadata": "key"}),
        ("metadata", {"metadata": [("key", "secret", "secret")]}),
        ("metadata", {"metadata": [(3, "secret")]}),
        ("metadata", {"metadata": {"key": 3}}),
        ("metadata", {"metadata": {"key-bin": "secret"}}),
    ],
)
def test_argument_of_another_type_is_refused(name, arguments):
    """The error names the argument, and shows no value of the metadata."""
    with pytest.raises(TypeError, match=f"^{name}: ") as caught:
        Client(**{"target": "127.0.0.1:1"} | arguments)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan")])
def test_default_timeout_is_above_0(timeout_s):
    """Any other one raises when the client is made, not with each call."""
    with pytest.raises(ValueError, match=r"^timeout_s: .* is not above 0"):
        Client("127.0.0.1:1", timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("root_certificates_path", {"root_certificates_path": b"ca.pem"}),
        ("certificate_chain_path", {"private_key_path": "a", "certificate_chain_path": 3}),
        ("server_name", {"server_name": 3}),
    ],
)
def test_tls_setting_of_another_type_is_refused(name, arguments):
    """GRPC would log an internal error and never connect."""
    with pytest.raises(TypeError, match=f"^{name}: "):
        channel.Tls(**arguments)


@pytest.mark.parametrize(
    "code",
    [getattr(grpc.StatusCode, name) for name in ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED")],
    ids=lambda code: code.name,
)
async def test_service_config_retries(address, mint, fault, code):
    """The service config repeats a first attempt that fails."""
    mint.faults.append(fault(code))
    async with AsyncClient(address) as asynchronous:
        assert len(await asynchronous.generate("tiny")) == 1
    assert len(mint.requests) == 2


async def test_large_request_is_retried(address, mint, fault):
    """The size of a request, such as of a photo, does not decide whether it is retried."""
    mint.faults.append(fault(grpc.StatusCode.UNAVAILABLE))
    latents = np.zeros((1, 500_000), np.float32)  # 2 MB
    async with AsyncClient(address) as asynchronous:
        assert len(await asynchronous.generate("tiny", latents=latents)) == 1
    assert len(mint.requests) == 2


async def test_burst_of_refusals_leaves_later_calls_their_retries(address, mint, fault):
    """The limit of gRPC on retries is far off, as the server says when to try again."""
    refused = 60
    mint.faults.extend([fault(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_s=0.01)] * 4 * refused)
    async with AsyncClient(address) as asynchronous:
        found = await asyncio.gather(
            *(asynchronous.generate("tiny") for _ in range(refused)), return_exceptions=True
        )
        assert all(isinstance(each, client.QueueFull) for each in found)
        mint.faults.append(fault(grpc.StatusCode.RESOURCE_EXHAUSTED))
        assert len(await asynchronous.generate("tiny")) == 1


async def test_other_codes_are_not_retried(address, mint, fault):
    """An error that a retry cannot fix is not repeated."""
    mint.faults.append(fault(grpc.StatusCode.INVALID_ARGUMENT))
    async with AsyncClient(address) as asynchronous:
        with pytest.raises(client.InvalidRequest):
            await asynchronous.generate("tiny")
    assert len(mint.requests) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_several_targets_share_calls(serve, make_mint, host):
    """Calls go to all addresses in turn, also if host names must be resolved."""
    mints = [make_mint(), make_mint()]
    addresses = [serve(mint).replace("127.0.0.1", host) for mint in mints]
    async with AsyncClient(addresses) as asynchronous:
        # Round robin uses a server as soon as it is connected. Until then the other one answers.
        while not all(mint.requests for mint in mints):
            await asynchronous.generate("tiny")
        for mint in mints:
            mint.requests.clear()
        for _ in range(10):
            await asynchronous.generate("tiny")
    assert [len(mint.requests) for mint in mints] == [5, 5]


async def test_unreachable_server_is_skipped(serve, make_mint):
    """With one of two addresses unreachable, every call is answered."""
    mint = make_mint()
    async with AsyncClient(f"127.0.0.1:1,{serve(mint)}") as asynchronous:
        for _ in range(5):
            await asynchronous.generate("tiny")
    assert len(mint.requests) == 5


async def test_proxy_is_ignored_for_loopback(address, monkeypatch):
    """A proxy in the environment is not used for the own machine."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with AsyncClient(address.replace("127.0.0.1", "localhost")) as asynchronous:
        assert len(await asynchronous.generate("tiny")) == 1


@pytest.fixture(scope="session")
def certificate(authority, write_certificate, tmp_path_factory):
    """Paths of a certificate for `mint.test`, its key and its authority."""
    folder = tmp_path_factory.mktemp("tls")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return *write_certificate(authority, folder), folder / "ca.pem"


@pytest.fixture
def tls_address(serve, make_mint, certificate):
    """The address of a TLS server that requires a client certificate."""
    chain, key, roots = (path.read_bytes() for path in certificate)
    credentials = grpc.ssl_server_credentials(
        [(key, chain)], root_certificates=roots, require_client_auth=True
    )
    return serve(make_mint(), credentials)


def test_tls_options_work_together(tls_address, certificate):
    """A trusted authority, a client certificate and an expected name are used together."""
    path, key, roots = certificate
    tls = Tls(
        root_certificates_path=roots,
        private_key_path=key,
        certificate_chain_path=path,
        server_name="mint.test",
    )
    with Client(tls_address, tls=tls) as blocking:
        assert len(blocking.generate("tiny")) == 1


@pytest.mark.parametrize("server_name", [None, "other.test"])
def test_tls_checks_the_name(tls_address, certificate, server_name):
    """A server whose certificate has another name is refused."""
    path, key, roots = certificate
    tls = Tls(roots, key, path, server_name)
    with Client(tls_address, tls=tls) as blocking, pytest.raises(client.Unavailable):
        blocking.generate("tiny")


def test_missing_tls_file_is_an_error(address, tmp_path):
    """A path that does not exist raises FileNotFoundError with the path."""
    with (
        Client(address, tls=Tls(tmp_path / "none.pem")) as blocking,
        pytest.raises(FileNotFoundError, match=r"none\.pem"),
    ):
        blocking.models()


@pytest.mark.parametrize("part", ["private_key_path", "certificate_chain_path"])
def test_key_and_certificate_belong_together(part):
    """Half a pair raises at once. gRPC would abort the process."""
    with pytest.raises(ValueError, match="set the private key and the certificate chain together"):
        Tls(**{part: "a.pem"})


def test_key_of_another_certificate_is_an_error(
    address, certificate, authority, write_certificate, tmp_path
):
    """The error names both files, instead of a failed connection. An encrypted key is one, too."""
    path, key, roots = certificate
    _, other = write_certificate(authority, tmp_path)
    read = serialization.load_pem_private_key(key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        read.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    for wrong in (other, locked):
        tls = Tls(roots, wrong, path)
        with (
            Client(address, tls=tls) as blocking,
            pytest.raises(OSError, match="is not the key of"),
        ):
            blocking.models()


def test_server_that_needs_tls_is_asked_about(tls_address):
    """A plain connection to a TLS server fails with a hint."""
    with Client(tls_address) as blocking, pytest.raises(client.Unavailable, match="TLS settings"):
        blocking.models()


async def test_port_of_http_is_asked_about():
    """A server that answers with HTTP/1.1 has another port for gRPC."""

    async def answer(reader, writer):
        await reader.read(99)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        async with AsyncClient(f"{host}:{port}") as asynchronous:
            with pytest.raises(client.Unavailable, match="gRPC port"):
                await asynchronous.model("tiny")


def test_file_without_pem_is_an_error(address, tmp_path):
    """A file of another format raises an OSError with its path, instead of a failed connection."""
    (tmp_path / "roots.der").write_bytes(b"\x30\x82")
    tls = Tls(tmp_path / "roots.der")
    with Client(address, tls=tls) as blocking, pytest.raises(OSError, match=r"roots\.der is not a"):
        blocking.models()


async def test_metadata_names_are_lower_case(address, mint):
    """HTTP spells names as it likes; gRPC demands lower case."""
    pairs = [("Authorization", "Bearer a"), ("trace-bin", b"\0\n")]
    async with AsyncClient(address, metadata=pairs) as asynchronous:
        await asynchronous.models()
    assert mint.metadata[-1]["authorization"] == "Bearer a"
    assert mint.metadata[-1]["trace-bin"] == b"\0\n"


async def test_metadata_may_be_a_mapping(address, mint):
    """A mapping is sent as its pairs."""
    async with AsyncClient(address, metadata={"X-Key": "a"}) as asynchronous:
        await asynchronous.model("tiny")
    assert mint.metadata[-1]["x-key"] == "a"


@pytest.mark.parametrize(
    "pair",
    [
        ("a b", "x"),
        (":path", "x"),
        ("", "x"),
        ("key", "secret\n"),
        ("key", "s\u00e9cret"),
        ("k", b"\0"),
    ],
)
def test_metadata_that_cannot_be_sent_is_refused(pair):
    """The error names the pair, and never shows its value."""
    with pytest.raises(ValueError, match="metadata: ") as caught:
        Client("127.0.0.1:1", metadata=[pair])
    assert "cret" not in str(caught.value)


def test_api_key_is_sent_as_a_bearer(address, mint):
    """It needs no knowledge of the header."""
    with Client(address, api_key="imk_1", metadata={"x-tenant": "a"}) as blocking:
        blocking.models()
    assert (mint.metadata[-1]["authorization"], mint.metadata[-1]["x-tenant"]) == (
        "Bearer imk_1",
        "a",
    )


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (TypeError, {"api_key": b"cret"}),
        (ValueError, {"api_key": "s\u00e9cret"}),
        (ValueError, {"api_key": "secret", "metadata": {"Authorization": "Bearer secret"}}),
    ],
)
def test_wrong_api_key_is_refused(kind, arguments):
    """The error does not show the key."""
    with pytest.raises(kind) as caught:
        Client("127.0.0.1:1", **arguments)
    assert "cret" not in str(caught.value)


async def test_client_with_other_options_shares_the_connection(address, mint):
    """Metadata of a request is added, or replaces that of the client, which keeps its own."""
    async with AsyncClient(address, metadata={"x-tenant": "a", "x-key": "k"}) as asynchronous:
        other = asynchronous.with_options(timeout_s=300, metadata={"X-Tenant": "b", "x-id": "1"})
        await other.generate("tiny")
        assert mint.deadlines_s[-1] > 200
        assert mint.metadata_names[-1].count("x-tenant") == 1
        await asynchronous.generate("tiny")
        assert mint.deadlines_s[-1] < 40
        assert other._connection is asynchronous._connection
    sent = [
        {name: each.get(name) for name in ("x-tenant", "x-key", "x-id")} for each in mint.metadata
    ]
    assert sent == [
        {"x-tenant": "b", "x-key": "k", "x-id": "1"},
        {"x-tenant": "a", "x-key": "k", "x-id": None},
    ]
    with pytest.raises(client.ClientClosed):
        await other.generate("tiny")


def test_blocking_client_has_other_options(address, mint):
    """The derived client works on its own, and refuses what the constructor refuses."""
    with Client(address).with_options(metadata={"x-request-id": "1"}) as blocking:
        blocking.generate("tiny")
        with pytest.raises(ValueError, match="timeout_s: 0 is not above 0"):
            blocking.with_options(timeout_s=0)
    assert mint.metadata[-1]["x-request-id"] == "1"
