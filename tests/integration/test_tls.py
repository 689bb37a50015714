"""Tests of TLS: encryption, client certificates and renewal without a restart."""

import asyncio
import time

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from held_backend import WAIT_S

from imagemint.client import AsyncClient, Tls, Unavailable, forks
from imagemint.server import healthcheck

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def files(authority, write_certificate, tmp_path):
    """The settings of a server with a certificate for `mint.test`."""
    certificate, key = write_certificate(authority, tmp_path)
    return {"tls_certificate": certificate, "tls_key": key}


@pytest.fixture
def trust(tmp_path):
    """A function that returns TLS options with a trusted authority."""

    def make(authority, **options):
        path = tmp_path / "roots.pem"
        authority.cert_pem.write_to_path(path)
        return Tls(path, server_name="mint.test", **options)

    return make


async def is_served(app, authority):
    """Returns whether a new connection that trusts this authority is answered."""
    roots = authority.cert_pem.bytes()
    options = [
        ("grpc.ssl_target_name_override", "mint.test"),
        ("grpc.use_local_subchannel_pool", 1),  # a new handshake
    ]
    credentials = grpc.ssl_channel_credentials(roots)
    async with grpc.aio.secure_channel(app.grpc_address, credentials, options) as channel:
        try:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        except grpc.aio.AioRpcError as error:
            return error.code() is not grpc.StatusCode.UNAVAILABLE
        return True


async def test_calls_are_encrypted(serve, models, files, authority, trust):
    """A client that trusts the authority is answered, and a client without TLS is not."""
    app = await serve(models, **files)
    async with AsyncClient(app.grpc_address, tls=trust(authority)) as client:
        assert len(await client.generate("digits", 2)) == 2
    async with AsyncClient(app.grpc_address, timeout_s=WAIT_S) as client:
        with pytest.raises(Unavailable):
            await client.models()


async def test_calls_of_a_forked_process_are_encrypted(  # noqa: PLR0917 - fixtures
    serve, models, files, authority, trust, monkeypatch
):
    """The helper process of the client gets the certificates."""
    monkeypatch.setattr(forks, "is_grpc_broken", lambda: True)
    app = await serve(models, **files)
    async with AsyncClient(app.grpc_address, tls=trust(authority)) as client:
        assert len(await client.generate("digits", 2)) == 2


async def test_mutual_tls_requires_a_certificate(  # noqa: PLR0917 - fixtures
    serve, models, files, authority, trust, write_certificate, tmp_path
):
    """The certificate must be of the configured authority."""
    authority.cert_pem.write_to_path(tmp_path / "clients.pem")
    app = await serve(models, **files, tls_client_ca=tmp_path / "clients.pem")

    def of(issuer, name):
        chain, key = write_certificate(issuer, tmp_path, "caller.test", name)
        return trust(authority, private_key_path=key, certificate_chain_path=chain)

    async with AsyncClient(app.grpc_address, tls=of(authority, "ours")) as client:
        assert len(await client.generate("digits", 1)) == 1
    for tls in (trust(authority), of(trustme.CA(), "theirs")):
        async with AsyncClient(app.grpc_address, tls=tls, timeout_s=WAIT_S) as client:
            with pytest.raises(Unavailable):
                await client.models()


async def test_certificate_is_renewed_without_restart(  # noqa: PLR0917 - fixtures
    serve, models, files, authority, trust, write_certificate, tmp_path, scrape, total
):
    """New handshakes use the new pair and open connections stay.

    An invalid pair changes nothing.
    """
    app = await serve(models, **files)
    renewed = trustme.CA()
    async with AsyncClient(app.grpc_address, tls=trust(authority)) as client:
        assert len(await client.generate("digits", 1)) == 1
        write_certificate(renewed, tmp_path)
        assert await is_served(app, renewed)
        assert not await is_served(app, authority)
        files["tls_key"].write_text("half a k")
        assert await is_served(app, renewed)
        assert len(await client.generate("digits", 1)) == 1
    samples = await scrape(app.metrics_address)
    name = "imagemint_certificate_expiry_timestamp_seconds"
    assert total(samples, name, what="certificate") > time.time()
    assert total(samples, "imagemint_file_refused", what="certificate") == 1
    for outcome in ("ok", "failed"):
        labels = {"what": "certificate", "outcome": outcome}
        assert total(samples, "imagemint_reloads_total", **labels) == 1


async def test_health_check_uses_tls(serve, models, files, authority, capsys, monkeypatch):  # noqa: PLR0917 - fixtures
    """The server's own certificate may be the trusted one, by option or by variable."""
    app = await serve(models, **files)
    arguments = ["--tls-ca", str(files["tls_certificate"]), "--tls-server-name", "mint.test"]
    assert await asyncio.to_thread(healthcheck.main, [app.grpc_address, *arguments]) == 0
    monkeypatch.setenv("IMAGEMINT_HEALTHCHECK_TLS_CA", str(files["tls_certificate"]))
    monkeypatch.setenv("IMAGEMINT_HEALTHCHECK_TLS_SERVER_NAME", "other.test")
    quick = [app.grpc_address, "--timeout-s", "2"]
    assert await asyncio.to_thread(healthcheck.main, quick) == 1
    assert "Hostname Verification" in capsys.readouterr().out
    monkeypatch.setenv("IMAGEMINT_HEALTHCHECK_TLS_SERVER_NAME", "mint.test")
    assert await asyncio.to_thread(healthcheck.main, quick) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("SERVING")


async def test_health_check_says_why_tls_fails(serve, models, files, tmp_path, capsys):
    """A certificate of another authority, and a check without TLS, are named as the cause."""
    app = await serve(models, **files)
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    quick = [app.grpc_address, "--timeout-s", "2"]
    wrong = [*quick, "--tls-ca", str(tmp_path / "other.pem")]
    assert await asyncio.to_thread(healthcheck.main, wrong) == 1
    assert "CERTIFICATE_VERIFY_FAILED" in capsys.readouterr().out
    assert await asyncio.to_thread(healthcheck.main, quick) == 1
    assert "If the server uses TLS, set --tls-ca" in capsys.readouterr().out
