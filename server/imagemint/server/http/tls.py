"""TLS of the HTTP listener, with the files of the gRPC listener."""

import ssl
from pathlib import Path

import structlog

from imagemint.server.rpc.tls import Certificates
from imagemint.server.settings import ServeSettings, is_loopback, split_address
from imagemint.server.telemetry.metrics import Metrics

_log = structlog.stdlib.get_logger(__name__)


def make_tls_context(settings: ServeSettings, metrics: Metrics) -> ssl.SSLContext | None:
    """Returns the TLS context of the listener; None for an unencrypted listener.

    Each handshake checks the files, and uses a new pair and new authorities for clients'
    certificates if all of them are valid.

    Raises:
        CertificateError: the files cannot be used.
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        host, _ = split_address(settings.http_address or ":0")
        if settings.api_keys is not None and not is_loopback(host):
            _log.warning("API keys are sent unencrypted over HTTP: set tls_certificate")
        return None
    pair = (settings.tls_certificate, settings.tls_key)

    def count(succeeded: bool) -> None:
        metrics.reloads.labels("http_certificate", "ok" if succeeded else "failed").inc()

    # It checks more than OpenSSL does, such as the dates of a certificate.
    certificates = Certificates(*pair, settings.tls_client_ca, count)
    certificates.export(metrics, "http_certificate")
    context = latest = _load(*pair, settings.tls_client_ca)

    def reload(connection: ssl.SSLObject, name: str | None, current: ssl.SSLContext) -> None:
        del name, current
        nonlocal latest
        if certificates.read_changes() is not None:
            latest = _load(*pair, settings.tls_client_ca)
        # The handshake uses the certificate and the authorities of this context.
        connection.context = latest

    context.sni_callback = reload  # OpenSSL calls it for clients that name no server, too
    return context


def _load(certificate: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(certificate, key)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
