"""Options that programs of this folder have in common, and the check of earlier results."""

import argparse
import json
import os
from pathlib import Path
from typing import Any


def make_parser(description: str | None, out: str) -> argparse.ArgumentParser:
    """Returns a parser with the options of every program.

    Args:
        description: of the program.
        out: help of ``--out``.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, help=out)
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("IMAGEMINT_DATA"),
        help="folder of the data sets; default: IMAGEMINT_DATA, else the user's cache",
    )
    parser.add_argument("--seeds", type=int, default=5)
    return parser


def add_only_done(parser: argparse.ArgumentParser) -> None:
    """Adds the option that writes a record without training."""
    parser.add_argument(
        "--only-done", action="store_true", help="train nothing; write the record of what is done"
    )


def refuse_others(path: Path, found: dict[str, Any], settings: dict[str, Any]) -> None:
    """Ends the program if the settings of earlier results differ from those of this run.

    Args:
        path: of the earlier results, for the message.
        found: their settings.
        settings: those of this run.
    """
    if found != settings:
        raise SystemExit(f"{path} has results of other settings: {json.dumps(found)}")
