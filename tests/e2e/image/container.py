"""The images that build.sh builds, and the containers that start.sh starts."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# Time to build the base, an environment and their downloads on two busy cores.
BUILD_TIMEOUT_S = 1800
RUN_TIMEOUT_S = 180
_NO_REGISTRY = 69  # EX_UNAVAILABLE


class RegistryMissingError(Exception):
    """The base image cannot be built, because no package can be downloaded."""


class Image:
    """A target of the Dockerfile, built into `folder`.

    Attributes:
        config: User, environment, entry point and the like, as `docker inspect` names them.
        size_mb: All layers, uncompressed, in 10^6 bytes, as `docker images` counts them.
    """

    def __init__(self, folder: Path, target: str) -> None:
        self._folder = folder
        self._tag = f"imagemint:test-{target}"
        done = subprocess.run(
            [HERE / "build.sh", folder, target, self._tag], check=False, timeout=BUILD_TIMEOUT_S
        )
        if done.returncode == _NO_REGISTRY:
            raise RegistryMissingError("no registry of Debian's packages answers")
        log = folder / f"logs/build-{target}.log"
        assert done.returncode == 0, log.read_text()[-4000:]
        inspected = json.loads(self._buildah("inspect", "--type", "image", self._tag))
        self.config: dict[str, Any] = inspected["Docker"]["config"]
        # A line for each name of the image.
        sizes = self._buildah("images", "--noheading", "--format", "{{.Size}}", self._tag)
        size, unit = sizes.splitlines()[0].split()
        self.size_mb = float(size) * {"MB": 1, "GB": 1000}[unit]

    @contextmanager
    def start(self, **environment: str) -> Iterator["Container"]:
        """A container that runs the image's command with more variables; killed at the end."""
        name = self._buildah("from", "--pull-never", self._tag)
        try:
            root = self._buildah("mount", name)
            own = ["--mount", "--pid", "--net", "--ipc", "--uts"]
            variables = [*self.config["Env"], *(f"{k}={v}" for k, v in environment.items())]
            entry = [*self.config["Entrypoint"], *self.config["Cmd"]]
            begin = [HERE / "start.sh", root, self.config["User"]]
            place = f"--chdir={self.config['WorkingDir']}"
            command = ["/usr/bin/env", place, "-i", *variables, *entry]
            started = subprocess.Popen(
                ["unshare", *own, "--fork", *begin, *command],  # noqa: S607 - whichever is on the PATH
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            container = Container(self, started)
            try:
                yield container
            finally:
                container.kill()
        finally:
            self._buildah("rm", name)

    def _buildah(self, *arguments: str) -> str:
        """Returns the output of a command of buildah, without the last line break."""
        storage = ("--root", self._folder / "storage", "--runroot", self._folder / "runroot")
        done = subprocess.run(
            ["buildah", *storage, *arguments],  # noqa: S607 - whichever is on the PATH
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=RUN_TIMEOUT_S,
        )
        return done.stdout.strip()


class Container:
    """A running container, in its own network, which has only the loopback interface."""

    def __init__(self, image: Image, started: subprocess.Popen[str]) -> None:
        self._image = image
        self._started = started
        self.log: list[str] = []

    def read_until(self, event: str) -> dict[str, Any]:
        """Reads the log up to an event and returns its fields."""
        for line in self._started.stdout:
            self.log.append(line)
            if line.startswith("{") and (fields := json.loads(line))["event"] == event:
                return fields
        raise AssertionError(f"it ended without {event!r}:\n" + "".join(self.log))

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in the container, as the user of the image."""
        user, group = self._image.config["User"].split(":")
        enter = [f"--target={self.pid}", "--all", "--root", "--wd=/"]
        credentials = [f"--setuid={user}", f"--setgid={group}"]
        environment = ["/usr/bin/env", "-i", *self._image.config["Env"]]
        return subprocess.run(
            ["nsenter", *enter, *credentials, *environment, *command],  # noqa: S607 - whichever is on the PATH
            check=False,
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
        )

    def read_status(self) -> dict[str, str]:
        """Returns the status of the first process from /proc/1/status."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return dict(re.split(r":\s*", line, maxsplit=1) for line in lines)

    def stop(self) -> int:
        """Sends the image's stop signal; returns the exit status of the entry point."""
        os.kill(self.pid, getattr(signal, self._image.config["StopSignal"]))
        output, _ = self._started.communicate(timeout=RUN_TIMEOUT_S)
        self.log += output.splitlines(keepends=True)
        return self._started.returncode

    def kill(self) -> None:
        """Ends the container if it runs. Killing `unshare` alone would leave its child."""
        if self._started.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self._started.communicate()

    @property
    def pid(self) -> int:
        """Process id of the first process of the container, on this machine."""
        parent = self._started.pid
        return int(Path(f"/proc/{parent}/task/{parent}/children").read_text())
