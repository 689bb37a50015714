"""What holds for the tree as a whole, whatever the code says."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCE_ROOTS = ("proto/gen", "server", "exporter", "training", "clients/python")
LARGEST_FILE = 8 * 1024 * 1024
# Absolute paths of somebody's machine; the paths of the container image are not among them, and
# /home/me is nobody's: tests of path stripping need one. In /mnt/models KServe mounts the models.
MACHINE_PATHS = re.compile(rb"/(?:home/(?!me\b)|Users/|root/|work/|mnt/(?!models\b))[\w.-]+")


def tracked_files() -> list[Path]:
    """Every file that git tracks and that is there; in a tree without git, the test is skipped."""
    listing = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z"],  # noqa: S607 - whichever git is on the PATH
        capture_output=True,
        check=False,
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    names = listing.stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def importers(folder: Path, module: str) -> set[str]:
    """The files under `folder` that import `module` or something below it, directly."""
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
def test_source_root_holds_no_namespace_init(root: str):
    """An imagemint/__init__.py would hide every other root."""
    assert (ROOT / root / "imagemint").is_dir()
    assert not (ROOT / root / "imagemint" / "__init__.py").exists()


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_every_part_is_typed(root: str):
    """Each part tells type checkers that its annotations count."""
    parts = [path for path in (ROOT / root / "imagemint").iterdir() if path.is_dir()]
    assert all((part / "py.typed").is_file() for part in parts if list(part.glob("*.py")))


def test_engine_imports_onnxruntime_in_one_module():
    """Everything else speaks to the backend interface."""
    found = importers(ROOT / "server/imagemint", "onnxruntime")
    assert found == {"engine/onnx/session.py"}


def test_server_imports_grpc_in_one_package_and_the_health_check():
    """The engine, the batcher and the repository know nothing of gRPC."""
    found = importers(ROOT / "server/imagemint", "grpc")
    assert found
    strangers = {
        name
        for name in found
        if name != "server/healthcheck.py" and not name.startswith("server/rpc/")
    }
    assert not strangers


def test_tracked_files_are_small():
    """Nothing above 8 MB is tracked: data sets and checkpoints live elsewhere."""
    large = [path for path in tracked_files() if path.stat().st_size > LARGEST_FILE]
    assert not large


def test_tracked_files_name_no_machine():
    """No file tells where it was made, bundles and pictures included."""
    telling = {
        path.relative_to(ROOT).as_posix(): match.group()
        for path in tracked_files()
        if (match := MACHINE_PATHS.search(path.read_bytes()))
    }
    assert not telling
