"""Tests of rules for the tree of files."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCE_ROOTS = ("proto/gen", "server", "exporter", "training", "clients/python")
LARGEST_FILE = 8 * 1024 * 1024
# These are absolute paths of a developer's machine. Paths in the container image are allowed,
# /home/me is an example in tests, and KServe mounts the models in /mnt/models.
MACHINE_PATHS = re.compile(rb"/(?:home/(?!me\b)|Users/|root/|work/|mnt/(?!models\b))[\w.-]+")


def list_tracked_files() -> list[Path]:
    """Returns every file that git tracks. The test is skipped outside a git checkout."""
    listing = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z"],  # noqa: S607 - whichever git is on the PATH
        capture_output=True,
        check=False,
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    names = listing.stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def find_importers(folder: Path, module: str) -> set[str]:
    """Returns the files under `folder` that directly import `module` or a submodule."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if any(name == module or name.startswith(f"{module}.") for name in names):
                found.add(path.relative_to(folder).as_posix())
    return found


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_source_root_has_no_namespace_init(root: str):
    """An imagemint/__init__.py would hide all other roots."""
    assert (ROOT / root / "imagemint").is_dir()
    assert not (ROOT / root / "imagemint" / "__init__.py").exists()


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_every_part_is_typed(root: str):
    """Each part has a py.typed file, which enables its annotations for type checkers."""
    parts = [path for path in (ROOT / root / "imagemint").iterdir() if path.is_dir()]
    assert all((part / "py.typed").is_file() for part in parts if list(part.glob("*.py")))


def test_engine_imports_onnxruntime_in_one_module():
    """All other modules use the backend interface."""
    found = find_importers(ROOT / "server/imagemint", "onnxruntime")
    assert found == {"engine/onnx/session.py"}


def test_server_imports_grpc_in_one_package_and_the_health_check():
    """The engine, the batcher and the repository do not depend on gRPC."""
    found = find_importers(ROOT / "server/imagemint", "grpc")
    assert found
    strangers = {
        name
        for name in found
        if name != "server/healthcheck.py" and not name.startswith("server/rpc/")
    }
    assert not strangers


def test_tracked_files_are_small():
    """Data sets and checkpoints are stored elsewhere, so no tracked file exceeds 8 MB."""
    large = [path for path in list_tracked_files() if path.stat().st_size > LARGEST_FILE]
    assert not large


def test_tracked_files_contain_no_machine_path():
    """No file contains a path of the machine where it was made, including bundles and pictures."""
    telling = {
        path.relative_to(ROOT).as_posix(): match.group()
        for path in list_tracked_files()
        if (match := MACHINE_PATHS.search(path.read_bytes()))
    }
    assert not telling
