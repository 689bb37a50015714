"""`make release VERSION=0.3.0`: everything of a release but publishing it.

1. Writes the version wherever it stands, and gives it what CHANGELOG.md has as unreleased.
2. Builds the sdist, the wheel from it, and checks both with twine.
3. Installs the wheel in a new environment for each extra, and runs a command that needs the extra.

It leaves commit, tag and upload to you, and says how. A second run with the same version repeats
the steps 2 and 3.
"""

import argparse
import datetime as dt
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist/release"
# pyproject.toml has the version; what cannot read it there repeats it. VERSION stands for it.
PLACES = {
    "pyproject.toml": ['\nversion = "VERSION"\n'],
    "Dockerfile": ["\nARG VERSION=VERSION\n"],
    "deploy/compose/compose.yaml": ["image: imagemint:VERSION\n"],
    "deploy/kserve/kustomization.yaml": ["newTag: VERSION\n"],
    "deploy/kubernetes/overlays/cpu/kustomization.yaml": ["newTag: VERSION\n"],
    "deploy/kubernetes/overlays/gpu/kustomization.yaml": ["newTag: VERSION-gpu\n"],
    "docs/deployment.md": ["imagemint:VERSION", "newTag: VERSION\n", "`VERSION-gpu`"],
    "clients/typescript/README.md": ["imagemint-VERSION.tgz"],
    "clients/typescript/package.json": ['\n  "version": "VERSION",\n'],
    "clients/typescript/package-lock.json": [
        '^{\n  "name": "imagemint",\n  "version": "VERSION",\n',
        '\n      "name": "imagemint",\n      "version": "VERSION",\n',
    ],
}
_NUMBER = r"(\d+\.\d+\.\d+)"
_UNRELEASED = "## [Unreleased]\n"
# What needs each extra. `server` is tried with a real server; `dev` is what `make check` uses.
SMOKE = {
    "": "import imagemint.client, imagemint.v1",
    "server": "",
    "gpu": "import imagemint.server.app, onnxruntime, pynvml",
    "serving": "import imagemint.server.settings, starlette, grpc_health",
    "trace": "import opentelemetry.sdk.trace, opentelemetry.exporter.otlp.proto.grpc",
    "train": "import imagemint.training.loop, imagemint.training.recipes",
    "inception": "import torch_fidelity",
    "bench": "import imagemint.bench.plot, hdrh.histogram",
    "dataset": "import imagemint.dataset.command, pyarrow",
    "store": "import s3fs",
    "signing": "import cryptography.hazmat.primitives.asymmetric.ed25519",
    "ray": "import ray",
    "export": "import imagemint.exporter.export",
}
_START_TIMEOUT_S = 300


class ReleaseError(Exception):
    """The release cannot be made; the message says why."""


def find_versions(root: Path) -> dict[str, set[str]]:
    """The versions that each file of `PLACES` names; a pattern without a match is an error."""
    found: dict[str, set[str]] = {}
    for name, patterns in PLACES.items():
        text = (root / name).read_text()
        for pattern in patterns:
            versions = re.findall(_compile(pattern), text)
            if not versions:
                raise ReleaseError(f"{name} has no {pattern.strip()!r}. Mend PLACES.")
            found.setdefault(name, set()).update(versions)
    return found


def write_version(root: Path, version: str) -> None:
    """Writes a version into every file of `PLACES`."""
    find_versions(root)
    for name, patterns in PLACES.items():
        path = root / name
        text = path.read_text()
        for pattern in patterns:
            text = re.sub(_compile(pattern), lambda match: _replace(match, version), text)
        path.write_text(text)


def cut_changelog(text: str, version: str, date: dt.date) -> str:
    """The changelog with the unreleased changes under the version and its date.

    Raises:
        ReleaseError: There are none, or the version is in it already.
    """
    if f"## [{version}]" in text:
        raise ReleaseError(f"CHANGELOG.md has {version} already.")
    before, heading, after = text.partition(_UNRELEASED)
    if not heading or not after.partition("\n## [")[0].strip():
        raise ReleaseError("CHANGELOG.md has no changes under Unreleased.")
    return f"{before}{heading}\n## [{version}] - {date.isoformat()}\n{after}"


def build() -> Path:
    """Builds the sdist and, from it, the wheel; checks both. Returns the wheel."""
    for archive in DIST.glob("imagemint-*"):
        archive.unlink()
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", DIST, ROOT)
    _run(sys.executable, "-m", "twine", "check", "--strict", *sorted(DIST.glob("imagemint-*")))
    (wheel,) = DIST.glob("imagemint-*.whl")
    return wheel


def try_extra(wheel: Path, extra: str) -> None:
    """Installs the wheel with an extra in a new environment, and runs what needs the extra."""
    with tempfile.TemporaryDirectory() as folder:
        _run(sys.executable, "-m", "venv", folder)
        python = Path(folder, "bin/python")
        requirement = f"imagemint[{extra}] @ {wheel.as_uri()}"
        constraints = ("--constraint", ROOT / "constraints.txt")
        _run(python, "-m", "pip", "install", "--quiet", *constraints, requirement)
        _run(python, "-m", "pip", "check")
        # Outside the checkout, so that nothing is imported from there.
        _run(python.with_name("imagemint"), "--version", at=folder)
        if extra == "server":
            _try_server(Path(folder))
        else:
            _run(python, "-c", SMOKE[extra], at=folder)


def _try_server(folder: Path) -> None:
    """Serves the model of the wheel and requests an image."""
    command = folder / "bin/imagemint"
    free = [f"--{name}-address=127.0.0.1:0" for name in ("grpc", "metrics")]
    started = subprocess.Popen(
        [command, "serve", *free, f"--start-timeout-s={_START_TIMEOUT_S}"],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = started.stderr or ()
        ready = next((line for line in lines if '"event": "ready"' in line), "")
        address = re.search(r'"grpc_address": "([^"]+)"', ready)
        if address is None:
            raise ReleaseError("the server of the wheel ended before it was ready.")
        server = f"--server={address[1]}"
        _run(command, "generate", server, "--model=mnist", "--out=made", at=folder)
    finally:
        started.terminate()
        started.communicate()


def _run(*command: str | Path, at: str | Path = ROOT) -> None:
    """Runs a command in a folder.

    Raises:
        ReleaseError: Its status is not 0.
    """
    if status := subprocess.run(command, cwd=at, check=False).returncode:
        raise ReleaseError(f"status {status} of: {' '.join(map(str, command))}")


def _compile(pattern: str) -> re.Pattern[str]:
    """A pattern of `PLACES`, with a group for the version. Its last VERSION is the placeholder."""
    start = "^" if pattern.startswith("^") else ""
    before, _, after = pattern.removeprefix("^").rpartition("VERSION")
    return re.compile(start + re.escape(before) + _NUMBER + re.escape(after))


def _replace(match: re.Match[str], version: str) -> str:
    """The matched text with another version."""
    first, last = match.start(1) - match.start(), match.end(1) - match.start()
    return match[0][:first] + version + match[0][last:]


def main() -> None:
    """Makes the release that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("version")
    parser.add_argument("--extras", nargs="*", choices=SMOKE, default=list(SMOKE))
    options = parser.parse_args()
    try:
        release(options.version, options.extras)
    except ReleaseError as error:
        sys.exit(f"make release: {error}")


def release(version: str, extras: list[str]) -> None:
    """Writes the version unless it is there, builds, and tries the extras."""
    (present,) = find_versions(ROOT)["pyproject.toml"]
    try:
        if Version(version) < Version(present) or not re.fullmatch(_NUMBER, version):
            raise ReleaseError(f"{version} is not MAJOR.MINOR.PATCH from {present} on.")
    except InvalidVersion as error:
        raise ReleaseError(str(error)) from error
    if version != present:
        changelog = ROOT / "CHANGELOG.md"
        today = dt.datetime.now(dt.UTC).date()
        changes = cut_changelog(changelog.read_text(), version, today)
        write_version(ROOT, version)
        changelog.write_text(changes)
    wheel = build()
    for extra in extras:
        print(f"== imagemint[{extra}]", flush=True)
        try_extra(wheel, extra)
    print(
        f"{version} is built in {DIST.relative_to(ROOT)}. Next:\n"
        f"  git commit --all --message 'CHANGELOG: {version}' && git tag v{version}\n"
        f"  twine upload {DIST.relative_to(ROOT)}/*"
    )


if __name__ == "__main__":
    main()
