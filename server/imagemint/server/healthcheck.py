"""`python -m imagemint.server.healthcheck HOST:PORT`: checks whether a server is SERVING.

It is meant for the container's HEALTHCHECK and for the command line. The exit status is 0 if
`grpc.health.v1` answers SERVING, 1 for any other answer or none, and 2 if the command line is
wrong. The module imports nothing heavy, because every probe starts it anew. It ignores proxy
settings of the environment.

With TLS, `--tls-ca` names the trusted certificates; you can pass the server's own certificate.
Verification cannot be switched off. Each TLS option can be set by an environment variable, such as
IMAGEMINT_HEALTHCHECK_TLS_CA, so that you need not rewrite a container's HEALTHCHECK. The check
needs no API key.
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
    "ca": "PEM file with the trusted certificates, such as the server's; enables TLS",
    "certificate": "PEM file with a client certificate, if the server requires one",
    "key": "PEM file with the private key of the client certificate",
}


def make_tls_credentials(
    ca: Path, certificate: Path | None = None, key: Path | None = None
) -> grpc.ChannelCredentials:
    """Returns the credentials of a TLS channel.

    Args:
        ca: PEM file with the trusted certificates: an authority's, or the server's own.
        certificate: PEM file with the client certificate, if the server requires one.
        key: PEM file with the private key of the client certificate.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is not a PEM file, of which gRPC would not say which one it is.
    """
    return grpc.ssl_channel_credentials(
        _read_pem(ca),
        private_key=_read_pem(key) if key else None,
        certificate_chain=_read_pem(certificate) if certificate else None,
    )


def _read_pem(path: Path) -> bytes:
    content = read_file(path)
    if b"-----BEGIN " not in content:
        raise ValueError(f"{path} is not a PEM file")
    return content


def read_serving_status(
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
        timeout_s: seconds for connection and response together, including the wait for a server
            that does not listen yet.
        credentials: TLS credentials; None for a connection without encryption.
        server_name: name expected in the server's certificate; None for the host of `target`.

    Returns:
        `SERVING`, `NOT_SERVING`, `SERVICE_UNKNOWN` or `UNKNOWN`.

    Raises:
        grpc.RpcError: no connection in time (`UNAVAILABLE`, with the reason), no response in time
            (`DEADLINE_EXCEEDED`), or an unknown service (`NOT_FOUND`).
    """
    request = health_pb2.HealthCheckRequest(service=service)
    # A probe must reach this server itself, so it ignores http_proxy.
    options: list[tuple[str, int | str]] = [("grpc.enable_http_proxy", 0)]
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    with (
        grpc.secure_channel(target, credentials, options)
        if credentials
        else grpc.insecure_channel(target, options)
    ) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        # This call ends with the first attempt to connect, whose failure the other does not report.
        attempt = check.future(request, timeout=timeout_s)
        try:
            response = check(request, timeout=timeout_s, wait_for_ready=True)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and attempt.done():
                attempt.result()  # raises why there is no connection
            raise
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))


def main(arguments: list[str] | None = None) -> int:
    """Prints the status and returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m imagemint.server.healthcheck", description="Check the health of a server."
    )
    parser.add_argument("target", metavar="HOST:PORT", help="address of the gRPC services")
    parser.add_argument(
        "--service", default="", help="gRPC service, or model/NAME. Default: the server as a whole."
    )
    parser.add_argument(
        "--timeout-s", type=_parse_time, default=5.0, help="timeout in seconds. Default: 5."
    )
    tls = parser.add_argument_group("TLS")
    for name, what in _TLS_FILES.items():
        tls.add_argument(f"--tls-{name}", type=Path, **_make_option(name, what))
    tls.add_argument(
        "--tls-server-name",
        **_make_option("server-name", "name in the server's certificate"),
    )
    options = parser.parse_args(arguments)
    ca, own, key = options.tls_ca, options.tls_certificate, options.tls_key
    if (own is None) != (key is None) or (own is not None and ca is None):
        parser.error("set --tls-certificate and --tls-key together, and with --tls-ca")
    if options.tls_server_name and ca is None:
        parser.error("set --tls-server-name with --tls-ca")
    try:
        status = read_serving_status(
            options.target,
            service=options.service,
            timeout_s=options.timeout_s,
            credentials=None if ca is None else make_tls_credentials(ca, own, key),
            server_name=options.tls_server_name,
        )
    except OSError as error:
        parser.error(f"cannot read {error.filename}: {error.strerror}")
    except ValueError as error:
        parser.error(str(error))
    except grpc.RpcError as error:
        status = f"{error.code().name}: {error.details()}"
        if ca is None and "socket closed" in status.lower():
            status += ". If the server uses TLS, set --tls-ca; if not, is this its gRPC port?"
    sys.stdout.write(f"{options.target} {status}\n")
    return 0 if status == "SERVING" else 1


def _parse_time(text: str) -> float:
    seconds = float(text)
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return seconds


def _make_option(name: str, what: str) -> dict[str, Any]:
    """Returns an option whose default is an environment variable. An empty variable is ignored."""
    variable = f"IMAGEMINT_HEALTHCHECK_TLS_{name.upper().replace('-', '_')}"
    return {
        "default": os.environ.get(variable) or None,
        "help": f"{what}; environment variable {variable}",
    }


if __name__ == "__main__":
    sys.exit(main())
