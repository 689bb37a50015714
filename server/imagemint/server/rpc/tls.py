"""TLS of the listener, with certificates that are reloaded when their files change.

Every handshake checks the files. New contents are used only if they are valid together: the key
belongs to the certificate, and the certificate is valid today. Until then the old pair stays in
use. Open connections keep the pair of their handshake.
"""

import contextlib
import os
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import structlog

from imagemint.server.file_changes import WatchedFiles
from imagemint.server.telemetry.metrics import Metrics

_log = structlog.stdlib.get_logger(__name__)

# A refused pair is tried again after this time, although its files have not changed: the
# certificate may have become valid since.
_RETRY_S = 10.0


class CertificateError(ValueError):
    """The files of a certificate cannot be used. The message has paths and no contents."""


class Certificates:
    """The server's certificate and key, and the authorities for client certificates.

    Args:
        certificate: PEM file: the server's certificate first, then the chain to its root.
        key: PEM file of its unencrypted key.
        client_ca: PEM file of authorities. With it, every client must present a certificate of one
            of them.
        on_reload: called after each change of the files with whether the change was applied. A
            lasting failure is reported once.
        clock: returns seconds; tests replace it.

    Raises:
        CertificateError: the files are invalid at the start.
    """

    def __init__(
        self,
        certificate: Path,
        key: Path,
        client_ca: Path | None = None,
        on_reload: Callable[[bool], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._paths = [path for path in (certificate, key, client_ca) if path is not None]
        self._has_client_ca = client_ca is not None
        self._on_reload = on_reload
        self._clock = clock
        self._lock = threading.Lock()
        self._files = WatchedFiles(self._paths)
        self._last_failure = ""
        self._retry_at_s = 0.0
        self.expires_s = 0.0
        """Unix time at which the certificate in use expires."""
        first = self._read()
        assert first is not None  # noqa: S101 - for the type checker: the first read is a change
        self._configuration = first

    @property
    def is_refused(self) -> bool:
        """Whether the newest files were refused at the latest handshake."""
        return bool(self._last_failure)

    def export(self, metrics: Metrics, what: str) -> None:
        """Shows the state of the files in metrics.

        Args:
            metrics: the server's metrics.
            what: names the files, as in `imagemint_reloads_total`.
        """
        metrics.watch(metrics.file_refused, (what,), lambda: self.is_refused)
        metrics.watch(metrics.certificate_expiry, (what,), lambda: self.expires_s)

    def make_credentials(self) -> grpc.ServerCredentials:
        """Returns the credentials for a listener."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration,
            self.read_changes,  # type: ignore[arg-type] # the stub does not know that None means no change
            require_client_authentication=self._has_client_ca,
        )

    def read_changes(self) -> grpc.ServerCertificateConfiguration | None:
        """Returns the new contents of the files if they are valid; None keeps the current pair.

        gRPC's threads call it at every handshake. It never raises.
        """
        with self._lock:
            try:
                configuration = self._read()
            except CertificateError as error:
                self._report_failure(str(error))
                return None
            if configuration is None:
                return None
            self._configuration, self._last_failure = configuration, ""
        _log.info("certificate reloaded", path=str(self._paths[0]))
        self._on_reload(True)
        return configuration

    def _report_failure(self, message: str) -> None:
        if message != self._last_failure:
            self._last_failure = message
            _log.error("certificate not reloaded, the old one stays in use", why=message)
            self._on_reload(False)

    def _read(self) -> grpc.ServerCertificateConfiguration | None:
        """Reads and checks the files if they have changed; returns None if not."""
        if self._last_failure and self._clock() >= self._retry_at_s:
            self._files.forget()
        try:
            contents = self._files.read_changed()
        except OSError as error:
            raise CertificateError(f"cannot read {error.filename}: {error.strerror}") from None
        if contents is None:
            return None
        self._retry_at_s = self._clock() + _RETRY_S
        certificate, key = contents[:2]
        client_ca = contents[2] if self._has_client_ca else None
        expires_s = _check_pair(self._paths[0], self._paths[1], certificate, key)
        if client_ca is not None:
            _check_authorities(self._paths[2], client_ca)
        self.expires_s = expires_s
        return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)


def _check_pair(certificate_path: Path, key_path: Path, certificate: bytes, key: bytes) -> float:
    """Returns the Unix time at which the certificate expires.

    Raises:
        CertificateError: the key does not belong to the certificate, or the certificate is not
            valid today.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        with (
            _expose_as_file(certificate, certificate_path) as chain,
            _expose_as_file(key, key_path) as private,
        ):
            server.load_cert_chain(chain, private, password=_refuse_password)
        return _run_handshake(server, certificate.decode("ascii"))
    except ssl.SSLCertVerificationError as error:
        raise CertificateError(f"{certificate_path}: {error.verify_message}") from None
    except (ssl.SSLError, OSError, ValueError) as error:
        raise CertificateError(
            f"{certificate_path} and {key_path}: {_describe_error(error)}"
        ) from None


def _run_handshake(server: ssl.SSLContext, certificate: str) -> float:
    """Runs a handshake in memory with a client that trusts the server's own certificate.

    The standard library cannot read a certificate, but its handshake checks the dates, and its
    client then knows them.

    Returns:
        The Unix time at which the certificate expires.

    Raises:
        ssl.SSLCertVerificationError: the certificate has expired, or is not valid yet.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cadata=certificate)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for end in [*ends, *ends]:
        with contextlib.suppress(ssl.SSLWantReadError):
            end.do_handshake()
    verified = ends[0].getpeercert() or {}
    return float(ssl.cert_time_to_seconds(str(verified["notAfter"])))


def _check_authorities(path: Path, content: bytes) -> None:
    """Checks that the file has at least one authority that has not expired."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=content.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise CertificateError(f"{path}: {_describe_error(error)}") from None
    ends = [str(ca_cert["notAfter"]) for ca_cert in context.get_ca_certs()]
    if ends and all(ssl.cert_time_to_seconds(end) < time.time() for end in ends):
        raise CertificateError(f"{path}: every certificate in it has expired")


@contextlib.contextmanager
def _expose_as_file(content: bytes, path: Path) -> Iterator[str]:
    """Yields the path of a file in memory, because OpenSSL reads only files.

    The check therefore uses the contents that were read, even if the file at `path` has changed
    since. On systems other than Linux, it yields `path` itself.
    """
    if sys.platform != "linux":
        yield str(path)
        return
    with os.fdopen(os.memfd_create(path.name, os.MFD_CLOEXEC), "wb", buffering=0) as file:
        file.write(content)
        yield f"/proc/self/fd/{file.fileno()}"


def _refuse_password() -> str:
    """Raises. Without it, OpenSSL asks at the terminal for the password of an encrypted key."""
    raise ValueError("the key is encrypted, which is not supported")


def _describe_error(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return str(error)
