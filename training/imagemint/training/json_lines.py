"""Reads files of JSON objects, one in a line, of which a power cut may have torn the end."""

import json
import logging
from pathlib import Path
from typing import Any

from imagemint.training.errors import DamagedLog

_log = logging.getLogger(__name__)

_SHOWN = 60  # characters of an unreadable line in a message


def read_json_lines(path: Path, key: str) -> list[dict[str, Any]]:
    """Returns the objects in a file; [] if it does not exist.

    A kill or power cut while a line is written tears the end of the file. Unreadable lines at the
    end are left out, with a warning that shows them. Empty lines do not count.

    Args:
        path: path of the file.
        key: name of a number that each object has, which tells its position.

    Raises:
        DamagedLog: a line is unreadable, and a later one is not.
        OSError: the file cannot be read.
    """
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    broken: list[tuple[int, bytes]] = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        row = _parse(line, key)
        if row is None:
            broken.append((number, line))
        elif broken:
            first, shown = broken[0]
            raise DamagedLog(
                f"{path}, line {first}: {_show(shown)} is not a row of JSON with the key"
                f" {key!r}, and later lines are; correct the line or delete it"
            )
        else:
            rows.append(row)
    if broken:
        first, shown = broken[0]
        last = f" to {broken[-1][0]}" if len(broken) > 1 else ""
        _log.warning(
            "%s: line %d%s at the end is incomplete, as after a power cut, and is dropped: %s",
            *(path, first, last, _show(shown)),
        )
    return rows


def _parse(line: bytes, key: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get(key), int | float) else None


def _show(line: bytes) -> str:
    text = line.decode(errors="replace")
    return repr(text[:_SHOWN] + ("…" if len(text) > _SHOWN else ""))
