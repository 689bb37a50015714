"""Functions for the Node packages, which are installed once from their lock files."""

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CLIENT = ROOT / "clients/typescript"
_OLDEST_NODE = 20
_INSTALL_TIMEOUT_S = 100


def require_node(package: Path = CLIENT) -> None:
    """Installs the dependencies of a package with `npm ci`, unless its lock file is installed.

    Skips the test, with the reason, if Node is missing or too old, or if no registry answers.
    """
    with hold_package(package):
        reason = _install(package)
    if reason:
        pytest.skip(reason)


@contextlib.contextmanager
def hold_package(package: Path = CLIENT) -> Iterator[None]:
    """Keeps other processes of pytest away from a package while its files are built or read.

    A build deletes `dist` first, and an installation deletes `node_modules`.
    """
    digest = hashlib.sha256(f"{os.getuid()} {package}".encode()).hexdigest()
    with (Path(tempfile.gettempdir()) / f"imagemint-node-{digest}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run_node(*command: str | Path, cwd: Path = CLIENT, **environment: str) -> str:
    """Returns the output of a command, and fails with it if its status is not 0."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=_INSTALL_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@functools.cache
def _install(package: Path) -> str:
    """Returns why the package cannot be installed; empty if it is installed."""
    if not (shutil.which("node") and shutil.which("npm")):
        return "Node and npm are not installed"
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)  # noqa: S607 - whichever is on the PATH
    if int(version.stdout.strip().lstrip("v").split(".")[0]) < _OLDEST_NODE:
        return f"Node is {version.stdout.strip()}; the package needs {_OLDEST_NODE}"
    digest = hashlib.sha256((package / "package-lock.json").read_bytes()).hexdigest()
    stamp = package / "node_modules/.stamp"
    if stamp.is_file() and stamp.read_text() == digest:
        return ""
    try:
        done = subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],  # noqa: S607 - whichever is on the PATH
            cwd=package,
            capture_output=True,
            text=True,
            check=False,
            timeout=_INSTALL_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return f"npm ci did not finish within {_INSTALL_TIMEOUT_S} s"
    if done.returncode:
        return f"npm ci failed: {done.stderr.strip()[-300:]}"
    stamp.write_text(digest)
    return ""
