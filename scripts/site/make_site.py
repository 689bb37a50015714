"""The documentation site: writes its generated pages, builds it, checks it, shows it.

    python scripts/site/make_site.py reference   # writes docs/reference from the code
    python scripts/site/make_site.py check       # fresh pages, strict build, links
    python scripts/site/make_site.py serve       # shows the site and follows changes of docs/

`make reference`, `make check` and `make docs` call it.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import errors_page
import grpc_page
import metrics_page
import python_page
import settings_pages
from links import find_faults
from stage import StageError, clear, stage
from watchfiles import watch

ROOT = Path(__file__).parents[2]
CONFIGURATION = ROOT / "zensical.toml"
_REFERENCE = ROOT / "docs/reference"
_PAGES = ROOT / "build/pages"
_ZENSICAL = Path(sys.executable).parent / "zensical"


def main() -> int:
    """Runs the verb that the command line names, and returns the exit status."""
    verbs: dict[str, Callable[[], int]] = {"reference": write, "check": check, "serve": serve}
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("verb", choices=verbs)
    return verbs[parser.parse_args().verb]()


def generate_pages() -> dict[Path, str]:
    """Returns every generated page by its file."""
    pages = grpc_page.render(ROOT) | python_page.render(ROOT) | settings_pages.render()
    pages |= metrics_page.render() | errors_page.render()
    return {_REFERENCE / name: text for name, text in pages.items()}


def write() -> int:
    """Writes the generated pages into docs/reference."""
    for path, text in generate_pages().items():
        path.write_text(text)
    return 0


def check() -> int:
    """Compares the generated pages, builds the site strictly, and checks its links."""
    stale = [
        f"{path.relative_to(ROOT)} is not what the code says: run `make reference`"
        for path, text in generate_pages().items()
        if not path.is_file() or path.read_text() != text
    ]
    faults = stale or _build() or sorted(find_faults(CONFIGURATION))
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


def _build() -> list[str]:
    clear(ROOT / "build/site")
    try:
        stage(ROOT, _PAGES)
    except StageError as error:
        return [str(error)]
    command: list[str | Path] = [
        _ZENSICAL,
        "build",
        "--strict",
        "--clean",
        "--config-file",
        CONFIGURATION,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return [] if done.returncode == 0 else [done.stdout + done.stderr.partition("Traceback")[0]]


def serve() -> int:
    """Shows the site at localhost:8008 until Ctrl-C, and gathers the pages again on each change."""
    stage(ROOT, _PAGES)
    command: list[str | Path] = [
        _ZENSICAL,
        "serve",
        "--config-file",
        CONFIGURATION,
        "--dev-addr",
        "localhost:8008",
    ]
    with subprocess.Popen(command, cwd=ROOT) as server:
        for _ in watch(ROOT / "docs", stop_event=None, raise_interrupt=False):
            try:
                stage(ROOT, _PAGES)
            except StageError as error:  # a page that is half written
                print(error, file=sys.stderr)
        server.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
