"""Tests of the access log that a server process writes, as JSON and as text."""

import json
import re
import signal
import subprocess
import sys

import grpc
import pytest
from held_backend import WAIT_S
from tiny_bundles import write_bundle

from imagemint.server.rpc.interceptor import is_logged
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import generation_service_pb2_grpc

SERVE = "import sys; from imagemint.client.cli import main; sys.exit(main())"
SHARE = 0.5
IDS = [f"call-{number}" for number in range(8)]
LOGGED = [id_ for id_ in IDS if is_logged(id_, SHARE)]


def make_calls(address):
    """Makes a call with each id, and a failing one with an id outside the share."""
    unlucky = next(name for name in map(str, range(99)) if not is_logged(name, SHARE))
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        for id_ in IDS:
            request = pb.GenerateRequest(images={"model": "tiny", "count": 2})
            stub.Generate(request, metadata=[("x-request-id", id_)])
        with pytest.raises(grpc.RpcError):
            stub.Generate(
                pb.GenerateRequest(images={"model": "nobody", "count": 1}),
                metadata=[("x-request-id", unlucky)],
            )
    return unlucky


def read_log(repository, log_format):
    """Returns the lines that a server wrote to stderr until its end."""
    command = [sys.executable, "-c", SERVE, "serve", "--repository", repository]
    command += ["--grpc-address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0"]
    command += ["--log-format", log_format, "--access-log", str(SHARE)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            address = re.search(r"grpc_address\W+(127[\d.:]+\d)", line)
            if "ready" in line and address:
                break
        unlucky = make_calls(address[1])
        process.send_signal(signal.SIGTERM)
        lines += process.stderr.read().splitlines()
        assert process.wait(WAIT_S) == 0
    finally:
        process.kill()
        process.wait(WAIT_S)
        process.stderr.close()
    return lines, unlucky


def test_json_log_has_the_share_and_every_failure(tmp_path):
    """Each line is an object. The calls are those of the sampled ids, and the failed one."""
    write_bundle(tmp_path, "tiny")
    lines, unlucky = read_log(tmp_path, "json")
    calls = [each for each in map(json.loads, lines) if each["event"] == "call"]
    assert [call["request_id"] for call in calls] == [*LOGGED, unlucky]
    first, failed = calls[0], calls[-1]
    assert first["duration_ms"] > 0
    assert {key: first[key] for key in ("level", "service", "method", "model", "code")} == {
        "level": "info",
        "service": "imagemint.v1.GenerationService",
        "method": "Generate",
        "model": "tiny",
        "code": "OK",
    }
    assert (first["images"], failed["images"]) == (2, 0)
    assert (failed["model"], failed["code"]) == ("", "NOT_FOUND")


def test_console_log_is_text(tmp_path):
    """The same calls are lines of text, without colours outside a terminal."""
    write_bundle(tmp_path, "tiny")
    lines, unlucky = read_log(tmp_path, "console")
    calls = [line for line in lines if re.search(r"\] call ", line)]
    assert [re.search(r"request_id=(\S+)", call)[1] for call in calls] == [*LOGGED, unlucky]
    assert "code=NOT_FOUND" in calls[-1]
    assert not any("\x1b" in line for line in lines)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_share_of_logged_ids_is_the_configured_one(share):
    """This also holds for numbered ids. An id in a share is in every larger one."""
    ids = [f"call-{number}" for number in range(20_000)]
    chosen = {id_ for id_ in ids if is_logged(id_, share)}
    assert len(chosen) / len(ids) == pytest.approx(share, abs=0.01)
    assert chosen >= {id_ for id_ in ids if is_logged(id_, share / 2)}
