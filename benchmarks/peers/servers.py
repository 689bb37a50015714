"""The compared servers: how to start each of them, and how to send requests.

Each has two workers or threads on two cores, one thread per ONNX Runtime session, and batches of at
most 64. The program of each peer and docs/performance.md have the details.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from peers.binary_http import BinaryHttp, Encoding
from peers.checking import Answers, make_own_answers, make_peer_answers
from peers.environments import ENVIRONMENTS, FOLDER
from peers.oip import Oip

from imagemint.bench.imagemint_target import ImagemintTarget
from imagemint.bench.target import Target
from imagemint.client.channel import parse_targets
from imagemint.engine.spec import ModelSpec

OURS = "imagemint"
_MODEL = "reference"  # name of the model in OIP peers, whatever the name of the bundle


@dataclass(frozen=True)
class Model:
    """The served model.

    Attributes:
        repository: model repository for imagemint.
        file: ONNX file for the peers.
        spec: spec of the model.
    """

    repository: Path
    file: Path
    spec: ModelSpec


@dataclass(frozen=True)
class Started:
    """How to start a server and send requests.

    Attributes:
        command: program and arguments.
        environment: additional variables.
        target: sends requests under load.
        answers: sends a single request.
    """

    command: Sequence[str | Path]
    environment: dict[str, str]
    target: Target
    answers: Answers


@dataclass(frozen=True)
class Server:
    """A server that can be measured.

    Attributes:
        name: name of its folder and environment.
        title: name in the tables.
        package: package whose version is recorded.
        protocol: protocol of the requests, for the tables.
        ports: number of ports.
        start: returns how to start it on the given ports.
    """

    name: str
    title: str
    package: str
    protocol: str
    ports: int
    start: Callable[[Model, list[int]], Started]


def make_own_server(processes: int, variant: str = "reference") -> Server:
    """Returns imagemint.

    Args:
        processes: number of workers.
        variant: variant of the model.
    """

    def start(model: Model, ports: list[int]) -> Started:
        grpc, metrics = (f"127.0.0.1:{port}" for port in ports)
        command: list[str | Path] = [
            *(Path(sys.executable).with_name("imagemint"), "serve"),
            *("--repository", model.repository, "--grpc-address", grpc),
            *("--metrics-address", metrics, "--processes", str(processes), "--variant", variant),
        ]
        target = ImagemintTarget(parse_targets(grpc), model.spec.name)
        return Started(command, {}, target, make_own_answers(grpc, model.spec.name))

    return Server(OURS, "imagemint", "imagemint", "gRPC", 2, start)


def _start_mlserver(model: Model, ports: list[int]) -> Started:
    variables = zip(("GRPC_PORT", "HTTP_PORT", "METRICS_PORT"), ports, strict=True)
    return Started(
        [_get_bin("mlserver") / "mlserver", "start", FOLDER / "mlserver"],
        _make_environment(
            "mlserver", model, **{f"MLSERVER_{key}": str(port) for key, port in variables}
        ),
        *_make_oip_target(ports[0], model),
    )


def _start_kserve(model: Model, ports: list[int]) -> Started:
    arguments = _make_options(ports, "--grpc-port", "--http-port")
    return Started(
        _make_command("kserve", *arguments),
        _make_environment("kserve", model),
        *_make_oip_target(ports[0], model),
    )


def _start_pytriton(model: Model, ports: list[int]) -> Started:
    arguments = _make_options(ports, "--grpc-port", "--http-port", "--metrics-port")
    return Started(
        _make_command("pytriton", *arguments),
        _make_environment("pytriton", model),
        *_make_oip_target(ports[0], model),
    )


def _start_bentoml(model: Model, ports: list[int]) -> Started:
    return Started(
        [
            *(_get_bin("bentoml") / "bentoml", "serve", "server:Images"),
            *("--working-dir", FOLDER / "bentoml", "--host", "127.0.0.1"),
            *_make_options(ports, "--port"),
        ],
        _make_environment("bentoml", model, BENTOML_DO_NOT_TRACK="True"),
        *_make_http_target(ports[0], model, encoding=Encoding.BASE64_JSON),
    )


def _start_ray(model: Model, ports: list[int]) -> Started:
    http, statistics, metrics = ports
    # The manual recommends the bundled HAProxy in front of the replicas for high throughput.
    return Started(
        _make_command("ray", "--port", str(http)),
        _make_environment(
            "ray",
            model,
            RAY_USAGE_STATS_ENABLED="0",
            RAY_SERVE_THROUGHPUT_OPTIMIZED="1",
            RAY_SERVE_ENABLE_HA_PROXY="1",
            RAY_SERVE_HAPROXY_NBTHREAD="2",  # not 4, on two cores
            RAY_SERVE_HAPROXY_STATS_PORT=str(statistics),
            RAY_SERVE_HAPROXY_METRICS_PORT=str(metrics),
        ),
        *_make_http_target(http, model),
    )


def _start_litserve(model: Model, ports: list[int]) -> Started:
    return Started(
        _make_command("litserve", *_make_options(ports, "--port")),
        _make_environment("litserve", model),
        *_make_http_target(ports[0], model, path="/images", encoding=Encoding.TAGGED),
    )


PEERS = {
    each.name: each
    for each in (
        Server("mlserver", "MLServer", "mlserver", "gRPC, OIP", 3, _start_mlserver),
        Server("kserve", "KServe", "kserve", "gRPC, OIP", 2, _start_kserve),
        Server("pytriton", "PyTriton", "nvidia-pytriton", "gRPC, OIP", 3, _start_pytriton),
        Server("bentoml", "BentoML", "bentoml", "HTTP, JSON of Base64", 1, _start_bentoml),
        Server("ray", "Ray Serve", "ray", "HTTP, bytes", 3, _start_ray),
        Server("litserve", "LitServe", "litserve", "HTTP, bytes", 1, _start_litserve),
    )
}


def _make_command(name: str, *arguments: str) -> list[str | Path]:
    return [_get_bin(name) / "python", FOLDER / name / "server.py", *arguments]


def _make_options(ports: list[int], *names: str) -> list[str]:
    return [text for name, port in zip(names, ports, strict=True) for text in (name, str(port))]


def _make_oip_target(port: int, model: Model) -> tuple[Target, Answers]:
    target = Oip(f"127.0.0.1:{port}", _MODEL, model.spec)
    return target, make_peer_answers(replace(target, pool=1), model.spec)


def _make_http_target(
    port: int, model: Model, *, path: str = "/{format}", encoding: Encoding = Encoding.RECORDS
) -> tuple[Target, Answers]:
    target = BinaryHttp(f"127.0.0.1:{port}", model.spec, path, encoding)
    return target, make_peer_answers(replace(target, pool=1), model.spec)


def _get_bin(name: str) -> Path:
    return ENVIRONMENTS / name / "bin"


def _make_environment(name: str, model: Model, **extra: str) -> dict[str, str]:
    """Returns the variables of the activated environment, with the path of the shared module."""
    return {
        "PATH": f"{_get_bin(name)}:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": f"{FOLDER / 'shared'}",
        "VIRTUAL_ENV": str(ENVIRONMENTS / name),
        "PEER_MODEL": str(model.file.resolve()),
        "ORT_DISABLE_TELEMETRY": "1",
        **extra,
    }
