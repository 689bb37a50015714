"""`python -m imagemint.server.healthcheck HOST:PORT`: is that server serving?

For the container's HEALTHCHECK and for people at a shell. The exit status is 0 when
`grpc.health.v1` answers SERVING, 1 when it answers anything else or nothing, 2 when the command
line is wrong. The module imports nothing heavy, because it is started anew at every probe. It never
uses a proxy of the environment.

With TLS, `--tls-ca` says whom to trust; the server's own certificate will do. There is no option to
trust anybody. Each TLS option has a variable, so that a container's HEALTHCHECK need not be
rewritten: IMAGEMINT_HEALTHCHECK_TLS_CA and so on. No API key is needed.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from imagemint.server.file_changes import read_file

_TLS_FILES = {
    "ca": "PEM file of whom to trust, such as the server's certificate; encrypts",
    "certificate": "PEM file of a certificate for the probe, where the server wants one",
    "key": "PEM file of its key",
}


def tls_credentials(
    ca: Path, certificate: Path | None = None, key: Path | None = None
) -> grpc.ChannelCredentials:
    """Returns how to encrypt.

    Args:
        ca: PEM file of whom to trust: an authority, or the server's certificate itself.
        certificate: PEM file of the probe's own certificate, where the server wants to see one.
        key: PEM file of its key.

    Raises:
        OSError: a file cannot be read.
    """
    return grpc.ssl_channel_credentials(
        read_file(ca),
        private_key=read_file(key) if key else None,
        certificate_chain=read_file(certificate) if certificate else None,
    )


def serving_status(
    target: str,
    *,
    service: str = "",
    timeout_s: float = 5.0,
    credentials: grpc.ChannelCredentials | None = None,
    server_name: str | None = None,
) -> str:
    """Returns the status that `target` reports for one service.

    Args:
        target: `HOST:PORT` of the gRPC listener.
        service: full name of a gRPC service, or `model/<name>`; empty for the server as a whole.
        timeout_s: seconds for connection and answer together; a server that is not listening yet
            is waited for that long.
        credentials: how to encrypt; None for not at all.
        server_name: name that the server's certificate must bear; None for the host of `target`.

    Returns:
        `SERVING`, `NOT_SERVING`, `SERVICE_UNKNOWN` or `UNKNOWN`.

    Raises:
        grpc.RpcError: no answer in time, or no such service (`NOT_FOUND`).
    """
    request = health_pb2.HealthCheckRequest(service=service)
    # A probe is about this server and no other: never through an http_proxy of the environment.
    options: list[tuple[str, int | str]] = [("grpc.enable_http_proxy", 0)]
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    with (
        grpc.secure_channel(target, credentials, options)
        if credentials
        else grpc.insecure_channel(target, options)
    ) as channel:
        response = health_pb2_grpc.HealthStub(channel).Check(
            request, timeout=timeout_s, wait_for_ready=True
        )
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))


def main(arguments: list[str] | None = None) -> int:
    """Prints the status and returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m imagemint.server.healthcheck", description="Ask a server for its health."
    )
    parser.add_argument("target", metavar="HOST:PORT", help="the gRPC listener")
    parser.add_argument("--service", default="", help="a gRPC service, or model/NAME; default: all")
    parser.add_argument("--timeout-s", type=float, default=5.0, help="default: 5")
    tls = parser.add_argument_group("TLS")
    for name, what in _TLS_FILES.items():
        tls.add_argument(f"--tls-{name}", type=Path, **_or_variable(name, what))
    tls.add_argument(
        "--tls-server-name", **_or_variable("server-name", "name that its certificate bears")
    )
    options = parser.parse_args(arguments)
    ca, own, key = options.tls_ca, options.tls_certificate, options.tls_key
    if (own is None) != (key is None) or (own is not None and ca is None):
        parser.error("--tls-certificate and --tls-key come together, and with --tls-ca")
    try:
        status = serving_status(
            options.target,
            service=options.service,
            timeout_s=options.timeout_s,
            credentials=None if ca is None else tls_credentials(ca, own, key),
            server_name=options.tls_server_name,
        )
    except OSError as error:
        parser.error(f"cannot read {error.filename}: {error.strerror}")
    except grpc.RpcError as error:
        status = f"{error.code().name}: {error.details()}"
    sys.stdout.write(f"{options.target} {status}\n")
    return 0 if status == "SERVING" else 1


def _or_variable(name: str, what: str) -> dict[str, Any]:
    """An option whose default is a variable of the environment; an empty one counts as absent."""
    variable = f"IMAGEMINT_HEALTHCHECK_TLS_{name.upper().replace('-', '_')}"
    return {"default": os.environ.get(variable) or None, "help": f"{what}; or {variable}"}


if __name__ == "__main__":
    sys.exit(main())
