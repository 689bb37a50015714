"""Builds the Dockerfile, and starts its images as a container runtime does.

The tests take several minutes and 3 GB of disk, so `make test` does not run them: `make image-test`
does. The base, the layers and the logs stay in .image-test for the next run.
"""

import datetime as dt
import os
import re
import shutil
from pathlib import Path

import pytest
from image.container import BUILD_TIMEOUT_S, RUN_TIMEOUT_S, Image, RegistryMissingError

ROOT = Path(__file__).parents[2]
WORK = ROOT / ".image-test"
LARGEST_CPU_MB = 500
LARGEST_GPU_MB = 1000
# Programs that run inside the image, with its Python.
SIZE_OF_PNG = """
import pathlib, sys
from PIL import Image
with Image.open(next(pathlib.Path(sys.argv[1]).rglob("*.png"))) as png:
    print(png.format, "%dx%d" % png.size)
"""
STATUS_OF_GET = """
import http.client, sys, urllib.parse
address = urllib.parse.urlsplit(sys.argv[1])
connection = http.client.HTTPConnection(address.netloc, timeout=30)
connection.request("GET", address.path)
print(connection.getresponse().status)
"""
PROVIDERS = "import onnxruntime; print(onnxruntime.get_available_providers())"

pytestmark = [pytest.mark.image, pytest.mark.timeout(BUILD_TIMEOUT_S)]


@pytest.fixture(scope="module")
def build():
    """Builds a target; skips, with the reason, where nothing can be built."""
    tools = ("buildah", "debootstrap", "ip", "nsenter", "setpriv", "unshare")
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("debootstrap and the mounts need root")

    def build(target):
        try:
            return Image(WORK, target)
        except RegistryMissingError as error:
            pytest.skip(str(error))

    return build


@pytest.fixture(scope="module")
def cpu(build):
    """The image for CPUs."""
    return build("cpu")


@pytest.fixture(scope="module")
def server(cpu):
    """A container of the image, when it serves all models."""
    with cpu.start(IMAGEMINT_START_TIMEOUT_S=str(RUN_TIMEOUT_S)) as container:
        container.read_until("ready")
        yield container


def record_size(target, image):
    """Writes the size of an image to the logs."""
    with (WORK / "logs/sizes.txt").open("a") as sizes:
        print(f"{dt.datetime.now(dt.UTC).date()}: {target}: {image.size_mb:.0f} MB", file=sizes)


def test_cpu_image_is_small(cpu):
    """The layers, including the base, are below the limit."""
    record_size("cpu", cpu)
    assert cpu.size_mb < LARGEST_CPU_MB


def test_server_has_no_privileges(server):
    """The server runs as a user without a name and without capabilities, and cannot get any."""
    status = server.read_status()
    assert status["Uid"].split() == status["Gid"].split() == ["65532"] * 4
    assert not status["Groups"].strip()
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert status["NoNewPrivs"] == "1"


def test_root_is_read_only(server):
    """Only /tmp is writable, and the server works."""
    refused = server.run("touch", "/opt/imagemint/x")
    assert "Read-only file system" in refused.stderr
    assert server.run("touch", "/tmp/x").returncode == 0  # noqa: S108 - the container's own


def test_working_directory_is_empty(server, cpu):
    """No file can be read by a path that is relative to it."""
    listed = server.run("ls", "-A", cpu.config["WorkingDir"])
    assert (listed.returncode, listed.stdout) == (0, "")
    assert cpu.config["WorkingDir"] != "/"


def test_health_check_passes(server, cpu):
    """The command of HEALTHCHECK succeeds."""
    kind, *command = cpu.config["Healthcheck"]["Test"]
    assert kind == "CMD"
    done = server.run(*command)
    assert done.returncode == 0, done.stderr


def test_every_model_makes_an_image(server):
    """The client inside asks each model of /models for an image by gRPC, and writes a PNG.

    Models that translate get a digit as their source.
    """
    cards = {path.parts[-3]: path.read_text() for path in (ROOT / "models").glob("*/1/card.md")}
    translators = [model for model, card in cards.items() if "imagemint translate" in card]
    source = ("--source=/tmp/mnist", "--fit=stretch")
    for model in sorted(cards, key=lambda model: model in translators):
        folder = f"/tmp/{model}"  # noqa: S108 - the container's own
        command = ("translate", *source) if model in translators else ("generate",)
        done = server.run("imagemint", *command, f"--model={model}", f"--out={folder}")
        assert done.returncode == 0, done.stderr
        size = server.run("python", "-c", SIZE_OF_PNG, folder).stdout
        assert re.fullmatch(r"PNG \d+x\d+\n", size)


def test_http_answers(server):
    """The port that the image exposes serves the health over HTTP, and the page."""
    for path, expected in (("/readyz", "200"), ("/", "200")):
        done = server.run("python", "-c", STATUS_OF_GET, f"http://127.0.0.1:8000{path}")
        assert done.stdout.strip() == expected, done.stderr


def test_image_holds_no_torch_and_no_installer(server):
    """Neither Python of the image can import pip, and the environment has no torch."""
    for module in ("torch", "pip", "setuptools"):
        assert "No module named" in server.run("python", "-c", f"import {module}").stderr
    assert "No module named" in server.run("/usr/local/bin/python", "-c", "import pip").stderr


def test_server_stops_on_its_signal(server):
    """This is the last test of the container: as the first process, it ends with status 0."""
    assert server.stop() == 0
    assert not [line for line in server.log if '"level": "error"' in line]


@pytest.fixture(scope="module")
def gpu(build):
    """The image for GPUs. Its base here is Debian without CUDA, so no model runs on a GPU."""
    return build("gpu")


def test_gpu_image_has_a_known_size(gpu):
    """The size is recorded, without CUDA, which the base of the real image has."""
    record_size("gpu, without CUDA", gpu)
    assert gpu.size_mb < LARGEST_GPU_MB


def test_gpu_image_serves_on_the_cpu_without_gpu(gpu):
    """By default the server says that CUDA does not work, and serves every model on the CPU."""
    with gpu.start(IMAGEMINT_START_TIMEOUT_S=str(RUN_TIMEOUT_S)) as container:
        served = container.read_until("ready")["models"]
        assert served.keys() == {path.name for path in (ROOT / "models").iterdir() if path.is_dir()}
        done = container.run("imagemint", "generate", "--model=mnist", "--out=/tmp/digits")
        assert done.returncode == 0, done.stderr
        assert container.run("python", "-c", SIZE_OF_PNG, "/tmp/digits").stdout == "PNG 28x28\n"  # noqa: S108 - the container's own
        health = container.run(*gpu.config["Healthcheck"]["Test"][1:])
        assert health.returncode == 0, health.stderr
        assert container.stop() == 0


def test_gpu_image_refuses_models_if_cuda_is_required(gpu):
    """The image has the CUDA provider. With `device = "cuda"` it refuses models without a GPU."""
    settings = {"IMAGEMINT_DEVICE": "cuda", "IMAGEMINT_START_TIMEOUT_S": str(RUN_TIMEOUT_S)}
    with gpu.start(**settings) as container:
        assert not any(container.read_until("ready")["models"].values())
        assert any("version refused: CUDA does not work" in line for line in container.log)
        assert "NOT_SERVING" in container.run(*gpu.config["Healthcheck"]["Test"][1:]).stdout
        providers = container.run("python", "-c", PROVIDERS)
        assert "CUDAExecutionProvider" in providers.stdout, providers.stderr
