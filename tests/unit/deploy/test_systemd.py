"""Tests of deploy/systemd: systemd accepts the unit, and its commands and variables exist."""

import shlex
import shutil
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path

import pytest
from manifests import DEPLOY, read_settings

UNIT = DEPLOY / "systemd/imagemint.service"
COMMAND = "/opt/imagemint/bin/imagemint"


@pytest.fixture(scope="module")
def service():
    """The section [Service] of the unit."""
    unit = RawConfigParser(strict=True)  # a key that stands twice is an error
    unit.optionxform = str
    unit.read_string(UNIT.read_text())
    return unit["Service"]


@pytest.fixture
def analyze(tmp_path):
    """A function that runs systemd-analyze with the unit, whose command exists here."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(COMMAND, str(Path(sys.executable).resolve())))

    def run(*arguments):
        command = ["systemd-analyze", *arguments, unit]
        return subprocess.run(command, check=False, capture_output=True, text=True)

    return run


def test_unit_is_valid(analyze):
    """Systemd knows every section, key and value."""
    done = analyze("verify", "--man=no")
    assert (done.returncode, done.stderr) == (0, "")


def test_service_is_confined(analyze):
    """Its exposure, of 0 to 10, is one that systemd calls OK. Without options it is 9."""
    done = analyze("security", "--offline=yes", "--no-pager", "--threshold=30")
    assert done.returncode == 0, done.stdout + done.stderr


def test_command_and_variables_are_those_of_the_server(service):
    """The unit starts `imagemint serve` with the settings file, and sets variables that exist."""
    assert shlex.split(service["ExecStart"]) == [
        *(COMMAND, "serve", "--config", "/etc/imagemint/serve.toml")
    ]
    pairs = [each.split("=", 1) for each in shlex.split(service["Environment"])]
    variables = {name: value.replace("%C", "/var/cache") for name, value in pairs}
    assert variables.pop("ORT_DISABLE_TELEMETRY") == "1"
    assert all(name.startswith("IMAGEMINT_") for name in variables)
    settings = read_settings(
        {"env": [{"name": name, "value": value} for name, value in variables.items()]}
    )
    assert settings.repository_cache == Path("/var/cache") / service["CacheDirectory"]


def test_only_the_main_process_gets_the_stop_signal(service):
    """The supervisor drains its workers, and outlives one that the kernel kills."""
    assert service["Type"] == "notify"
    assert service["KillMode"] == "mixed"
    assert service["OOMPolicy"] == "continue"
