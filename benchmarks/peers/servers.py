"""The servers that are compared: how each is started, and how it is asked."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from peers.binary_http import BinaryHttp, Encoding
from peers.oip import Oip

from imagemint.client.bench.mint import Mint
from imagemint.client.bench.target import Target
from imagemint.client.channel import targets_of
from imagemint.engine.spec import ModelSpec

FOLDER = Path(__file__).resolve().parent
ENVIRONMENTS = FOLDER.parents[1] / ".venv-peers"
OURS = "imagemint"


@dataclass(frozen=True)
class Started:
    """What it takes to start a server, and to ask it.

    Attributes:
        command: program and arguments.
        environment: variables, on top of those at hand.
        target: asks it.
    """

    command: Sequence[str | Path]
    environment: dict[str, str]
    target: Target


@dataclass(frozen=True)
class Server:
    """A server that can be measured.

    Attributes:
        name: of its folder and environment.
        title: as its makers write it.
        package: distribution whose version counts.
        protocol: how it is asked, in words.
        ports: how many it listens on.
        start: tells how to start it: repository, spec and ports go in.
    """

    name: str
    title: str
    package: str
    protocol: str
    ports: int
    start: Callable[[Path, ModelSpec, list[int]], Started]


def _mint(repository: Path, spec: ModelSpec, ports: list[int]) -> Started:
    grpc, metrics = (f"127.0.0.1:{port}" for port in ports)
    tool = Path(sys.executable).with_name("imagemint")
    command = [tool, "serve", "--repository", repository, "--grpc-address", grpc]
    return Started(
        [*command, "--metrics-address", metrics], {}, Mint(targets_of(grpc), spec.name)
    )


def _oip(name: str, port: int, spec: ModelSpec, *arguments: str | Path, **more: str) -> Started:
    return Started(
        [_bin(name) / "python", FOLDER / name / "server.py", *arguments],
        _environment(name) | more,
        Oip(f"127.0.0.1:{port}", "reference", spec),
    )


def _kserve(_: Path, spec: ModelSpec, ports: list[int]) -> Started:
    grpc, http = ports
    return _oip("kserve", grpc, spec, "--grpc-port", str(grpc), "--http-port", str(http))


def _pytriton(_: Path, spec: ModelSpec, ports: list[int]) -> Started:
    grpc, http, metrics = ports
    arguments = ("--grpc-port", str(grpc), "--http-port", str(http), "--metrics-port", str(metrics))
    return _oip("pytriton", grpc, spec, *arguments)


def _mlserver(_: Path, spec: ModelSpec, ports: list[int]) -> Started:
    grpc, http, metrics = ports
    told = {"GRPC_PORT": grpc, "HTTP_PORT": http, "METRICS_PORT": metrics}
    return Started(
        [_bin("mlserver") / "mlserver", "start", FOLDER / "mlserver"],
        _environment("mlserver") | {f"MLSERVER_{key}": str(port) for key, port in told.items()},
        Oip(f"127.0.0.1:{grpc}", "reference", spec),
    )


def _litserve(_: Path, spec: ModelSpec, ports: list[int]) -> Started:
    return Started(
        [_bin("litserve") / "python", FOLDER / "litserve/server.py", "--port", str(ports[0])],
        _environment("litserve"),
        BinaryHttp(f"127.0.0.1:{ports[0]}", spec, "/images", Encoding.TAGGED),
    )


def _ray(_: Path, spec: ModelSpec, ports: list[int]) -> Started:
    return Started(
        [_bin("ray") / "python", FOLDER / "ray/server.py", "--port", str(ports[0])],
        _environment("ray")
        | {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",  # as its manual says for speed
        },
        BinaryHttp(f"127.0.0.1:{ports[0]}", spec),
    )


def _bentoml(_: Path, spec: ModelSpec, ports: list[int]) -> Started:
    tool, folder = _bin("bentoml") / "bentoml", FOLDER / "bentoml"
    return Started(
        [tool, "serve", "server:Images", "--working-dir", folder, "--host", "127.0.0.1"]
        + ["--port", str(ports[0])],
        _environment("bentoml") | {"BENTOML_DO_NOT_TRACK": "True"},
        BinaryHttp(f"127.0.0.1:{ports[0]}", spec, encoding=Encoding.BASE64_JSON),
    )


def _bin(name: str) -> Path:
    return ENVIRONMENTS / name / "bin"


def _environment(name: str) -> dict[str, str]:
    """As if the environment were activated, with what the programs of all peers import."""
    folders = (FOLDER / "shared", FOLDER / name)
    return {
        "PATH": f"{_bin(name)}:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": ":".join(map(str, folders)),
        "VIRTUAL_ENV": str(ENVIRONMENTS / name),
        "ORT_DISABLE_TELEMETRY": "1",
    }


SERVERS = {
    each.name: each
    for each in (
        Server(OURS, "imagemint", "imagemint", "gRPC, its own", 2, _mint),
        Server("mlserver", "MLServer", "mlserver", "gRPC, OIP", 3, _mlserver),
        Server("kserve", "KServe", "kserve", "gRPC, OIP", 2, _kserve),
        Server("pytriton", "PyTriton", "nvidia-pytriton", "gRPC, OIP", 3, _pytriton),
        Server("bentoml", "BentoML", "bentoml", "HTTP, JSON in, bytes out", 1, _bentoml),
        Server("ray", "Ray Serve", "ray", "HTTP, bytes", 1, _ray),
        Server("litserve", "LitServe", "litserve", "HTTP, bytes", 1, _litserve),
    )
}
