"""Runs the shell and Python blocks of the documentation in order, as a user does.

One server with the shipped models and HTTP replaces every `imagemint serve`. Counts are smaller,
addresses are those of the server, and commands of imagemint run in this process.
"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import pytest_asyncio
from held_backend import WAIT_S
from page_commands import PAGES, ROOT, blocks_of, split_commands
from PIL import Image
from server_process import line_of, process

from imagemint.client.cli import main

RUN = [
    page
    for page in PAGES
    if any(block.language == "sh" and not block.reason for block in blocks_of(page))
]
MOST_IMAGES = 20
# Without the option, an answer with an error is a success for curl.
STRICT_CURL = 'curl() { command curl --fail "$@"; }'


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def ports(tmp_path_factory):
    """Ports of a server with the models of the pages, by the port in the pages."""
    repository = tmp_path_factory.mktemp("models")
    for model in ("mnist", "digits", "avatars", "avatars-text"):
        (repository / model).symlink_to(ROOT / "models" / model)
    flags = (f"--repository={repository}", "--http-address=127.0.0.1:0", "--no-spread-alone")
    async with process(*flags, f"--start-timeout-s={WAIT_S}") as started:
        ready = await line_of(started, "ready")
        addresses = ("http_url", "grpc_address", "metrics_address")
        found = [re.search(r":(\d+)", ready[name])[1] for name in addresses]
        yield dict(zip(("8000", "8001", "8002"), found, strict=True))


def fit(text, ports):
    """Returns a block with the ports of the server and fewer images."""
    address = re.compile(r"\b(localhost|127\.0\.0\.1):(800[0-2])\b")
    text = address.sub(lambda found: f"{found[1]}:{ports[found[2]]}", text)
    count = re.compile(r"(--count |\"mnist\", )([\d_]+)")
    text = count.sub(lambda found: f"{found[1]}{min(int(found[2]), MOST_IMAGES)}", text)
    return text.replace("--frames 60", "--frames 4")


def run_line(line, folder):
    """Runs a line of shell: a command of imagemint in this process, anything else in a shell."""
    (words, *more) = split_commands(line)
    if words[:2] == ["imagemint", "serve"]:
        return
    if words[0] == "imagemint" and not more and not re.search(r"(^|\s)[<>]", line):
        assert main(shlex.split(line, comments=True)[1:]) == 0, line
        return
    done = subprocess.run(
        ["/bin/bash", "-o", "pipefail", "-c", f"{STRICT_CURL}\n{line}"],
        cwd=folder,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, line + done.stdout + done.stderr


@pytest.mark.parametrize("page", RUN)
def test_blocks_run(page, ports, tmp_path, monkeypatch):
    """The blocks run one after the other in one folder, beside the folders of the checkout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMAGEMINT_SERVER", f"127.0.0.1:{ports['8001']}")
    monkeypatch.setattr(Image.Image, "show", lambda _: None)  # opens no window
    names = {}
    for block in blocks_of(page):
        if block.reason:
            continue
        if block.language == "python":
            exec(fit(block.text, ports), names)  # noqa: S102 - our own page; running it is the test
            continue
        for line in block.lines:
            if line.startswith("curl") and shutil.which("curl") is None:
                continue
            run_line(fit(line, ports), tmp_path)
    for path in (*tmp_path.glob("*.png"), *tmp_path.glob("*.webp")):
        with Image.open(path) as picture:
            picture.load()
