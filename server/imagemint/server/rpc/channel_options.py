"""Configures gRPC's transport from the settings: limits and certificates."""

import resource

import grpc
import structlog

from imagemint.server.rpc.tls import Certificates
from imagemint.server.settings import ServeSettings, is_loopback, split_address
from imagemint.server.telemetry.metrics import Metrics

_log = structlog.stdlib.get_logger(__name__)

# gRPC's value for no limit.
_NEVER_MS = 2**31 - 1

MAX_METADATA_BYTES = 16 * 2**10
"""Maximum size of a call's metadata; calls with more are refused."""
_MAX_STREAMS = 256  # concurrent calls on one connection; the client queues further ones
# Calls of a connection that reached its age finish, however long they take.
_AGE_GRACE_MS = _NEVER_MS
_IDLE_MS = 300_000
# A client may ping this often while the server sends nothing, and more often twice.
_PING_INTERVAL_MS = 10_000
_PING_STRIKES = 2
# The server disconnects a client whose handshake takes longer.
_HANDSHAKE_MS = 20_000
_MAX_CONNECTIONS = 4_096
# File descriptors that are kept for the models, the metrics, the log and the workers.
_OTHER_DESCRIPTORS = 256


def compute_connection_limit(settings: ServeSettings) -> int:
    """Returns the number of connections to accept, so that enough file descriptors remain.

    First raises this process's limit on open files, as far as needed and permitted.
    """
    connections = settings.max_connections or _MAX_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    listeners = 1 if settings.http_address is None else 2
    needed = listeners * connections + _OTHER_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return connections
    allowed = (soft - min(_OTHER_DESCRIPTORS, soft // 2)) // listeners
    if settings.max_connections is not None:
        _log.warning("max_connections is above the limit of open files", limit=soft, used=allowed)
    return min(connections, allowed)


def build_channel_options(settings: ServeSettings, max_connections: int) -> list[tuple[str, int]]:
    """Returns the options of gRPC's core for the settings.

    Args:
        settings: settings of the server.
        max_connections: number of connections to accept, see `compute_connection_limit`.
    """
    return [
        ("grpc.max_receive_message_length", settings.max_request_bytes),
        # Between these two limits, gRPC refuses calls at random. Equal values make them one limit.
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.max_concurrent_streams", _MAX_STREAMS),
        ("grpc.max_allowed_incoming_connections", max_connections),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        ("grpc.max_connection_age_ms", _to_milliseconds(settings.connection_age_s)),
        ("grpc.max_connection_age_grace_ms", _AGE_GRACE_MS),
        ("grpc.max_connection_idle_ms", _IDLE_MS),
        # Clients with keepalive also ping while they have no calls. That alone is no abuse.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _PING_INTERVAL_MS),
        ("grpc.http2.max_ping_strikes", _PING_STRIKES),
    ]


def _to_milliseconds(seconds: float | None) -> int:
    return _NEVER_MS if seconds is None else round(1e3 * seconds)


def make_server_credentials(
    settings: ServeSettings, metrics: Metrics
) -> grpc.ServerCredentials | None:
    """Returns the TLS credentials of the listener; None for an unencrypted listener.

    Raises:
        CertificateError: the files cannot be used.
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        host, _ = split_address(settings.grpc_address)
        if settings.api_keys is not None and not is_loopback(host):
            _log.warning(
                "API keys are sent unencrypted: set tls_certificate, or use a proxy with TLS"
            )
        return None

    def count(succeeded: bool) -> None:
        metrics.reloads.labels("certificate", "ok" if succeeded else "failed").inc()

    certificates = Certificates(
        settings.tls_certificate, settings.tls_key, settings.tls_client_ca, count
    )
    certificates.export(metrics, "certificate")
    return certificates.make_credentials()
