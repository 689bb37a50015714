"""The container's health check, against a real health service on loopback."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from imagemint.server import healthcheck

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def servicer() -> health.HealthServicer:
    """A health service that knows the server as a whole and one model."""
    servicer = health.HealthServicer()
    servicer.set("", SERVING)
    servicer.set("mnist", NOT_SERVING)
    return servicer


@pytest.fixture
def target(servicer: health.HealthServicer) -> Iterator[str]:
    """Address of a gRPC server with that service."""
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_serving_exits_0(target: str, capsys: pytest.CaptureFixture[str]):
    """A healthy server is exit status 0 and says so."""
    assert healthcheck.main([target]) == 0
    assert capsys.readouterr().out == f"{target} SERVING\n"


def test_draining_exits_1(target: str, servicer: health.HealthServicer):
    """A server that has entered graceful shutdown is not healthy."""
    servicer.enter_graceful_shutdown()
    assert healthcheck.main([target]) == 1


def test_one_service_is_asked_by_name(target: str, capsys: pytest.CaptureFixture[str]):
    """A model has its own status, whatever the server as a whole says."""
    assert healthcheck.main([target, "--service", "mnist"]) == 1
    assert capsys.readouterr().out == f"{target} NOT_SERVING\n"


def test_unknown_service_exits_1(target: str, capsys: pytest.CaptureFixture[str]):
    """A name that nobody registered is not healthy, and the code says why."""
    assert healthcheck.main([target, "--service", "nobody"]) == 1
    assert "NOT_FOUND" in capsys.readouterr().out


def test_silence_exits_1(capsys: pytest.CaptureFixture[str]):
    """Where nothing listens, the deadline ends the wait."""
    assert healthcheck.main(["127.0.0.1:1", "--timeout-s", "0.2"]) == 1
    assert "DEADLINE_EXCEEDED" in capsys.readouterr().out


def test_proxy_of_the_environment_is_not_used(target: str, proxy_connections: Callable[[], int]):
    """Health is about this server; a proxy in between would answer for itself."""
    assert healthcheck.main([target]) == 0
    assert proxy_connections() == 0


def test_pipe_for_a_certificate_exits_2(target: str, tmp_path: Path):
    """A probe ends at once, even if one of its files has no end."""
    os.mkfifo(tmp_path / "ca.pem")
    with pytest.raises(SystemExit) as stopped:
        healthcheck.main([target, "--tls-ca", str(tmp_path / "ca.pem")])
    assert stopped.value.code == 2


def test_wrong_command_line_exits_2():
    """Without a target there is nothing to ask."""
    with pytest.raises(SystemExit) as stopped:
        healthcheck.main([])
    assert stopped.value.code == 2
