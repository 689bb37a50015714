"""Options that programs of this folder have in common, and the check of earlier results."""

import argparse
import json
import os
from collections.abc import Collection
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


def add_record(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the options of a program that continues a record.

    Args:
        parser: of the program.
        name: file name of the record in ``--out``.
    """
    parser.add_argument(
        "--record",
        type=Path,
        help="record to continue: the figures in it are not measured again, so that no folder of"
        f" an earlier machine is needed; default: {name} in --out",
    )
    parser.add_argument(
        "--only-done", action="store_true", help="train nothing; write the record of what is done"
    )


def read_record(path: Path, settings: dict[str, Any], free: Collection[str] = ()) -> dict[str, Any]:
    """Returns the record in a file; {} if there is none.

    Args:
        path: of the record.
        settings: those of this run, as JSON has them.
        free: names of settings that may differ, since they only say how much is measured.

    Raises:
        SystemExit: the record has other settings.
    """
    if not path.is_file():
        return {}
    record: dict[str, Any] = json.loads(path.read_text())
    found, expected = (
        {name: value for name, value in each.items() if name not in free}
        for each in (record["settings"], settings)
    )
    refuse_others(path, found, expected)
    return record


def refuse_others(path: Path, found: dict[str, Any], settings: dict[str, Any]) -> None:
    """Ends the program if the settings of earlier results differ from those of this run.

    Args:
        path: of the earlier results, for the message.
        found: their settings.
        settings: those of this run.
    """
    if found != settings:
        raise SystemExit(f"{path} has results of other settings: {json.dumps(found)}")
