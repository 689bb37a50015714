"""pyproject.toml, constraints.txt, the Makefile, the image and the wheel agree with each other."""

import importlib
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]


def constraints(file: str = "constraints.txt") -> dict[str, Requirement]:
    """The lines of a file of constraints by normalised name."""
    lines = (ROOT / file).read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in pins}


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs make on this Makefile."""
    command = ["make", "-C", ROOT, "--no-print-directory", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-triton.txt"])
def test_constraints_are_exact_and_portable(file: str):
    """Every line pins one release: no local build suffix, no address, no file."""
    for name, pin in constraints(file).items():
        assert re.fullmatch(r"==[0-9A-Za-z.]+", str(pin.specifier)), name
        assert pin.url is None
        # CUDA comes with the image for GPUs; nvidia-ml-py is Python that asks the driver.
        assert name == "nvidia-ml-py" or not name.startswith("nvidia")


def test_constraints_meet_every_direct_dependency():
    """What pyproject.toml asks for is pinned to a release that it accepts."""
    wanted = [*PYPROJECT["build-system"]["requires"], *PROJECT["dependencies"]]
    wanted += [line for extra in EXTRAS.values() for line in extra]
    pins = constraints()
    for requirement in map(Requirement, wanted):
        if requirement.name == "imagemint":
            continue
        (pin,) = pins[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(pin.version), f"{requirement} against {pin}"


def test_both_runtimes_are_the_same_release():
    """CPU and GPU images run one ONNX Runtime, for one set of parity figures."""
    pins = constraints()
    assert pins["onnxruntime"].specifier == pins["onnxruntime-gpu"].specifier


def test_serving_extras_hold_no_torch():
    """Neither image nor client installs it."""
    for extra in ("server", "gpu", "serving"):
        assert not any(Requirement(line).name == "torch" for line in EXTRAS[extra])
    assert not any(Requirement(line).name == "torch" for line in PROJECT["dependencies"])


def test_commands_of_the_design_are_registered():
    """Every part registers its own subcommands in the one entry-point group."""
    commands = PROJECT["entry-points"]["imagemint.commands"]
    assert {
        "serve",
        "models",
        "generate",
        "dataset",
        "train",
        "evaluate",
        "export",
        "bench",
    } <= commands.keys()
    assert PROJECT["scripts"] == {"imagemint": "imagemint.command:main"}


def test_every_entry_point_leads_somewhere():
    """What pyproject.toml registers, for commands and for sources, is there."""
    for group in PROJECT["entry-points"].values():
        for reference in group.values():
            module, _, name = reference.partition(":")
            assert hasattr(importlib.import_module(module), name), reference


@pytest.mark.parametrize("verb", ["demo", "test", "check", "fix", "proto", "bench"])
def test_makefile_knows_the_verb(verb: str):
    """Each verb is there, listed by help, and not taken for the folder of the same name."""
    assert f"make {verb} " in make("help").stdout
    done = make("--dry-run", verb)
    assert done.returncode == 0, done.stderr
    assert ".venv/bin/" in done.stdout or "scripts/" in done.stdout


def test_set_up_refuses_an_old_python(tmp_path: Path):
    """A Python that is too old, or none at all, is one clear line and no half-made .venv."""
    script = tmp_path / "scripts" / "venv.sh"
    script.parent.mkdir()
    script.write_text((ROOT / "scripts/venv.sh").read_text())
    old = tmp_path / "python-old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", script, "server"],
        env={"PYTHON": str(old), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "not a Python of version 3.11 or newer" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_image_label_says_the_version_of_the_project():
    """Both targets carry the version that pyproject.toml names."""
    versions = re.findall(r"^ARG VERSION=(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert versions == [PROJECT["version"]] * 2


def test_import_arrows_hold():
    """import-linter finds every contract kept."""
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [linter, "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"Contracts: [1-9]\d* kept, 0 broken", done.stdout)


def test_wheel_holds_every_part_the_stubs_and_one_model(tmp_path: Path):
    """The wheel holds the five roots, the stubs and one model, and is below 16 MB."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    (wheel,) = tmp_path.glob("imagemint-*.whl")
    assert wheel.stat().st_size < 16e6
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert "imagemint/__init__.py" not in names
    assert {
        "imagemint/v1/generation_service_pb2_grpc.py",
        "imagemint/v1/service_config.json",
        "imagemint/open_inference/grpc_service_pb2_grpc.py",
        "imagemint/engine/sampling.py",
        "imagemint/server/healthcheck.py",
        "imagemint/server/http/static/index.html",
        "imagemint/training/losses/adversarial.py",
        "imagemint/exporter/py.typed",
        "imagemint/client/errors.py",
    } <= names
    shipped = {
        f"imagemint/{path.relative_to(ROOT).as_posix()}"
        for path in (ROOT / "models/mnist/2").rglob("*")
        if path.is_file()
    }
    assert shipped == {name for name in names if name.startswith("imagemint/models/")}
    tops = {name.split("/")[0] for name in names}
    assert tops == {"imagemint", f"imagemint-{PROJECT['version']}.dist-info"}
