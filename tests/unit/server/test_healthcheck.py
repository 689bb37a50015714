"""Tests of the container's health check against a real health service on loopback."""

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
    """A health service with the status of the server and of one model."""
    servicer = health.HealthServicer()
    servicer.set("", SERVING)
    servicer.set("mnist", NOT_SERVING)
    return servicer


@pytest.fixture
def target(servicer: health.HealthServicer) -> Iterator[str]:
    """The address of a gRPC server with that service."""
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_serving_server_exits_0(target: str, capsys: pytest.CaptureFixture[str]):
    """A healthy server gives exit status 0 and prints SERVING."""
    assert healthcheck.main([target]) == 0
    assert capsys.readouterr().out == f"{target} SERVING\n"


def test_draining_server_exits_1(target: str, servicer: health.HealthServicer):
    """A server in graceful shutdown is not healthy."""
    servicer.enter_graceful_shutdown()
    assert healthcheck.main([target]) == 1


def test_single_service_has_its_own_status(target: str, capsys: pytest.CaptureFixture[str]):
    """A model has its own status, whatever the status of the server is."""
    assert healthcheck.main([target, "--service", "mnist"]) == 1
    assert capsys.readouterr().out == f"{target} NOT_SERVING\n"


def test_unknown_service_exits_1(target: str, capsys: pytest.CaptureFixture[str]):
    """A service that is not registered is not healthy, and the output has the code."""
    assert healthcheck.main([target, "--service", "nobody"]) == 1
    assert "NOT_FOUND" in capsys.readouterr().out


def test_unreachable_server_exits_1(capsys: pytest.CaptureFixture[str]):
    """If no server listens, the check ends at its deadline and says so."""
    assert healthcheck.main(["127.0.0.1:1", "--timeout-s", "1"]) == 1
    assert "UNAVAILABLE: " in (said := capsys.readouterr().out)
    assert "Connection refused" in said


def test_silent_server_exits_1(
    target: str, servicer: health.HealthServicer, capsys: pytest.CaptureFixture[str]
):
    """A server that accepts the connection and does not answer has exceeded the deadline."""
    with servicer._lock:
        assert healthcheck.main([target, "--timeout-s", "1"]) == 1
    assert "DEADLINE_EXCEEDED" in capsys.readouterr().out


def test_proxy_of_the_environment_is_ignored(target: str, proxy_connections: Callable[[], int]):
    """The check must reach this server, and a proxy would answer for itself."""
    assert healthcheck.main([target]) == 0
    assert proxy_connections() == 0


def test_pipe_as_certificate_exits_2(target: str, tmp_path: Path):
    """A check ends at once even if one of its files is a pipe without a writer."""
    os.mkfifo(tmp_path / "ca.pem")
    with pytest.raises(SystemExit) as stopped:
        healthcheck.main([target, "--tls-ca", str(tmp_path / "ca.pem")])
    assert stopped.value.code == 2


def test_file_without_pem_exits_2(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """GRPC would only say that it cannot create a handshaker."""
    (tmp_path / "ca.pem").write_text("secret")
    with pytest.raises(SystemExit) as stopped:
        healthcheck.main([target, "--tls-ca", str(tmp_path / "ca.pem")])
    assert stopped.value.code == 2
    assert "ca.pem is not a PEM file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--timeout-s", "0"], ["--timeout-s", "nan"], ["--tls-server-name", "a"]]
)
def test_invalid_option_exits_2(target: str, arguments: list[str]):
    """A time that has passed, and a name without TLS, are no checks."""
    with pytest.raises(SystemExit) as stopped:
        healthcheck.main([target, *arguments])
    assert stopped.value.code == 2


def test_missing_target_exits_2():
    """The command line needs a target."""
    with pytest.raises(SystemExit) as stopped:
        healthcheck.main([])
    assert stopped.value.code == 2
