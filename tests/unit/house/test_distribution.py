"""Tests that pyproject.toml, constraints.txt, the Makefile, the image and the wheel agree."""

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


def read_constraints(file: str = "constraints.txt") -> dict[str, Requirement]:
    """Returns the lines of a file of constraints by normalized name."""
    lines = (ROOT / file).read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in pins}


def run_make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs make on this Makefile."""
    command = ["make", "-C", ROOT, "--no-print-directory", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "file", ["constraints.txt", "constraints-stores.txt", "constraints-triton.txt"]
)
def test_constraints_are_exact_and_portable(file: str):
    """Every line pins one release without a local suffix, an address or a file."""
    for name, pin in read_constraints(file).items():
        assert re.fullmatch(r"==[0-9A-Za-z.]+", str(pin.specifier)), name
        assert pin.url is None
        # The image for GPUs contains CUDA. The package nvidia-ml-py is Python that queries the
        # driver.
        assert name == "nvidia-ml-py" or not name.startswith("nvidia")


def test_constraints_pin_every_direct_dependency():
    """Each dependency of pyproject.toml is pinned to a release in its range."""
    wanted = [*PYPROJECT["build-system"]["requires"], *PROJECT["dependencies"]]
    wanted += [line for extra in EXTRAS.values() for line in extra]
    pins = read_constraints()
    for requirement in map(Requirement, wanted):
        if requirement.name == "imagemint":
            continue
        (pin,) = pins[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(pin.version), f"{requirement} against {pin}"


def test_both_runtimes_have_the_same_release():
    """CPU and GPU images run one release of ONNX Runtime.

    One set of measurements is valid for both.
    """
    pins = read_constraints()
    assert pins["onnxruntime"].specifier == pins["onnxruntime-gpu"].specifier


def test_serving_extras_do_not_require_torch():
    """Neither the image nor the client installs PyTorch."""
    for extra in ("server", "gpu", "serving"):
        assert not any(Requirement(line).name == "torch" for line in EXTRAS[extra])
    assert not any(Requirement(line).name == "torch" for line in PROJECT["dependencies"])


def test_commands_of_the_design_are_registered():
    """Every part registers its commands in the one entry-point group."""
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


def test_every_entry_point_exists():
    """Every entry point of pyproject.toml, for commands and sources, can be imported."""
    for group in PROJECT["entry-points"].values():
        for reference in group.values():
            module, _, name = reference.partition(":")
            assert hasattr(importlib.import_module(module), name), reference


@pytest.mark.parametrize(
    "verb",
    [
        "demo",
        "test",
        "check",
        "fix",
        "proto",
        "bench",
        "store-test",
        "image-test",
        "sbom",
        "release",
    ],
)
def test_makefile_has_the_verb(verb: str):
    """Each verb is in the help and is not mistaken for a folder of the same name."""
    assert f"make {verb} " in run_make("help").stdout
    done = run_make("--dry-run", verb)
    assert done.returncode == 0, done.stderr
    assert ".venv/bin/" in done.stdout or "scripts/" in done.stdout


def test_setup_refuses_an_old_python(tmp_path: Path):
    """A missing or old Python gives one clear line and no incomplete .venv."""
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


def test_import_contracts_are_kept():
    """The tool import-linter finds no broken contract."""
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [linter, "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"Contracts: [1-9]\d* kept, 0 broken", done.stdout)


def test_wheel_has_every_part_the_stubs_and_one_model(tmp_path: Path):
    """The wheel has the five roots, the stubs and one model, and is below 16 MB."""
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
        for path in (ROOT / "models/mnist/3").rglob("*")
        if path.is_file()
    }
    assert shipped == {name for name in names if name.startswith("imagemint/models/")}
    tops = {name.split("/")[0] for name in names}
    assert tops == {"imagemint", f"imagemint-{PROJECT['version']}.dist-info"}
