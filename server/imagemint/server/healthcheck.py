"""`python -m imagemint.server.healthcheck HOST:PORT`: is that server serving?

For the container's HEALTHCHECK and for people at a shell: exit status 0 when `grpc.health.v1`
answers SERVING, 1 when it answers anything else or nothing, 2 when the command line is wrong.
It imports nothing heavy, for it is started anew at every probe.
"""

import argparse
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def serving_status(target: str, *, service: str = "", timeout_s: float = 5.0) -> str:
    """Returns the status that `target` reports for one service.

    Args:
        target: `HOST:PORT` of the gRPC listener, without TLS.
        service: full name of a gRPC service, or `model/<name>`; empty for the server as a whole.
        timeout_s: seconds for connection and answer together; a server that is not listening yet
            is waited for that long.

    Returns:
        `SERVING`, `NOT_SERVING`, `SERVICE_UNKNOWN` or `UNKNOWN`.

    Raises:
        grpc.RpcError: no answer in time, or no such service (`NOT_FOUND`).
    """
    request = health_pb2.HealthCheckRequest(service=service)
    with grpc.insecure_channel(target) as channel:
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
    options = parser.parse_args(arguments)
    try:
        status = serving_status(
            options.target, service=options.service, timeout_s=options.timeout_s
        )
    except grpc.RpcError as error:
        status = f"{error.code().name}: {error.details()}"
    sys.stdout.write(f"{options.target} {status}\n")
    return 0 if status == "SERVING" else 1


if __name__ == "__main__":
    sys.exit(main())
