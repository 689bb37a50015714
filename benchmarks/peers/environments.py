"""Creates an environment for each peer from its requirements, and measures its size.

If a peer cannot be installed, the comparison continues: the reason is recorded and printed beside
the figures of the others. An environment is created again when its requirements change.

    python benchmarks/peers/environments.py             # all
    python benchmarks/peers/environments.py mlserver ray
"""

import argparse
import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

FOLDER = Path(__file__).resolve().parent
ENVIRONMENTS = FOLDER.parents[1] / ".venv-peers"
PEERS = tuple(sorted(path.parent.name for path in FOLDER.glob("*/requirements.txt")))
_INSTALL_S = 1200.0
_REASON_LINES = 3


@dataclass(frozen=True)
class Environment:
    """The result of installing a peer's requirements.

    Attributes:
        digest: digest of the requirements and the Python, to know when they change.
        packages: versions of those that the requirements name.
        install_bytes: bytes of everything in its site-packages; 0 where it could not be made.
        reason: why it could not be made, in words; None if it was.
    """

    digest: str
    packages: dict[str, str]
    install_bytes: int
    reason: str | None


def prepare_environment(name: str) -> Environment:
    """Returns a peer's environment, and creates it if needed."""
    requirements = FOLDER / name / "requirements.txt"
    digest = hashlib.sha256(requirements.read_bytes() + platform.python_version().encode())
    note = ENVIRONMENTS / f"{name}.json"
    if note.exists():
        found = Environment(**json.loads(note.read_text()))
        if found.digest == digest.hexdigest() and found.reason is None:
            return found
    environment = _make_environment(ENVIRONMENTS / name, requirements, digest.hexdigest())
    note.write_text(json.dumps(asdict(environment), indent=2) + "\n")
    return environment


def _make_environment(directory: Path, requirements: Path, digest: str) -> Environment:
    print(f"== .venv-peers/{directory.name}", file=sys.stderr, flush=True)
    shutil.rmtree(directory, ignore_errors=True)
    # Without pip, whose size does not belong to the peer. Our pip installs into it.
    venv.create(directory, symlinks=True)
    python = directory / "bin/python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    try:
        done = subprocess.run(  # noqa: S603 - commands are ours
            [*pip, "install", "--quiet", "--no-input", "--requirement", str(requirements)],
            capture_output=True,
            text=True,
            timeout=_INSTALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Environment(digest, {}, 0, f"not installed within {_INSTALL_S:.0f} s")
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        return Environment(digest, {}, 0, " ".join(errors[-_REASON_LINES:]) or "pip failed")
    (site,) = (directory / "lib").glob("python*/site-packages")
    names = re.findall(r"^([A-Za-z0-9_.-]+)", requirements.read_text(), re.MULTILINE)
    versions = {
        distribution.name.lower(): distribution.version
        for distribution in metadata.distributions(path=[str(site)])
    }
    packages = {name: versions[name.lower()] for name in names}
    return Environment(digest, packages, count_bytes(site), None)


def count_bytes(directory: Path) -> int:
    """Returns the total size of the files in a folder."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def count_distribution_bytes(requirement: str) -> int:
    """Returns the size of a distribution of this environment, with all its requirements.

    Args:
        requirement: requirement of the package, with its extras.
    """
    distributions = {each.name: each for each in _list_required(Requirement(requirement), set())}
    return sum(
        Path(str(file.locate())).stat().st_size
        for distribution in distributions.values()
        for file in distribution.files or ()
        if Path(str(file.locate())).is_file()
    )


def _list_required(requirement: Requirement, visited: set[str]) -> Iterator[metadata.Distribution]:
    if str(requirement) in visited:
        return
    visited.add(str(requirement))
    found = metadata.distribution(requirement.name)
    yield found
    for line in found.requires or ():
        needed = Requirement(line)
        extras = [{"extra": extra} for extra in ("", *requirement.extras)]
        if needed.marker is None or any(needed.marker.evaluate(extra) for extra in extras):
            yield from _list_required(needed, visited)


def main() -> None:
    """Creates the named environments. Default: all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", default=PEERS, help="of peers; all without")
    for name in parser.parse_args().names:
        environment = prepare_environment(name)
        weight = f"{environment.install_bytes / 1e6:.0f} MB"
        print(f"{name}: {environment.reason or weight}")


if __name__ == "__main__":
    main()
