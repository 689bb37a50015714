"""TLS of the listener: certificates that are read again when their files change.

Every handshake asks for the certificates, and looks at the files; what they hold is used only once
it is whole: a certificate whose key is not yet written beside it leaves the old pair in use.
Connections that are open keep what they began with, until their age ends them.
"""

import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import structlog

from imagemint.server.signatures import signature_of

_log = structlog.stdlib.get_logger(__name__)


class CertificateError(ValueError):
    """The files of a certificate cannot be used; says why, with paths and without contents."""


class Certificates:
    """The server's certificate and key, and the authorities that its clients must come from.

    Args:
        certificate: PEM file, the server's certificate first, then those that lead to its root.
        key: PEM file of its key, not encrypted.
        client_ca: PEM file of authorities; every client must then show a certificate of theirs.
        on_reload: told after every attempt but the first whether it worked.

    Raises:
        CertificateError: the files are bad from the start.
    """

    def __init__(
        self,
        certificate: Path,
        key: Path,
        client_ca: Path | None = None,
        on_reload: Callable[[bool], object] = lambda _: None,
    ) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._on_reload = on_reload
        self._lock = threading.Lock()
        self._paths = [path for path in (certificate, key, client_ca) if path is not None]
        self._signature = signature_of(self._paths)
        self._configuration = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """Returns what a listener wants to be told."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration,
            self.changed,  # type: ignore[arg-type] # the stub knows not that None means no change
            require_client_authentication=self._client_ca is not None,
        )

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Returns what the files hold if it is new and good; None to go on with what was.

        Called by gRPC's own threads, at every handshake. Never raises.
        """
        with self._lock:
            signature = signature_of(self._paths)
            if signature == self._signature:
                return None
            self._signature = signature
            try:
                self._configuration = self._read()
            except CertificateError as error:
                _log.error("certificate not reloaded, the old one stays", why=str(error))
                self._on_reload(False)
                return None
        _log.info("certificate reloaded", path=str(self._certificate))
        self._on_reload(True)
        return self._configuration

    def _read(self) -> grpc.ServerCertificateConfiguration:
        """What the files hold, checked as OpenSSL checks it: that the key belongs, above all."""
        certificate, key = _content(self._certificate), _content(self._key)
        client_ca = None if self._client_ca is None else _content(self._client_ca)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self._certificate, self._key, password=_no_password)
        except (ssl.SSLError, OSError, ValueError) as error:
            why = f"{self._certificate} and {self._key}: {_why(error)}"
            raise CertificateError(why) from None
        if client_ca is not None:
            try:
                context.load_verify_locations(cadata=client_ca.decode("ascii"))
            except (ssl.SSLError, ValueError) as error:
                raise CertificateError(f"{self._client_ca}: {_why(error)}") from None
        # OpenSSL reads paths only: what it has checked must be what was read before.
        if [certificate, key] != [_content(self._certificate), _content(self._key)]:
            raise CertificateError(f"{self._certificate} changed while it was read")
        return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"cannot read {path}: {error.strerror}") from None


def _no_password() -> str:
    """Without it OpenSSL would ask at the terminal for the password of an encrypted key."""
    raise ValueError("the key is encrypted, which is not supported")


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return str(error)
