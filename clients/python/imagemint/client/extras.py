"""Finds the extra to install for a missing module, in explicit tables."""

import json
from importlib import metadata
from urllib.parse import unquote, urlsplit

DISTRIBUTION = "imagemint"

_EXTRA_OF_MODULE = {
    "cryptography": "signing",
    "opentelemetry": "trace",
    "ray": "ray",
    "torch_fidelity": "inception",
    "torchvision": "inception",
}
_EXTRA_OF_PART = {
    "imagemint.server": "server",
    "imagemint.engine": "server",
    "imagemint.training": "train",
    "imagemint.exporter": "export",
    "imagemint.bench": "bench",
    "imagemint.dataset": "dataset",
}


class MissingExtra(Exception):  # noqa: N818 - it names what is missing
    """A command needs an extra that is not installed; the message says which."""


def find_extra(module: str, part: str) -> str | None:
    """Returns the extra that installs `module`; None if there is none.

    Args:
        module: the missing module, such as `onnxruntime` or `torch.utils`. A module of imagemint
            itself is missing because of a bug.
        part: the module that needs it, such as `imagemint.server.commands.serve`.
    """
    name = module.partition(".")[0]
    if name in ("", DISTRIBUTION):
        return None
    return _EXTRA_OF_MODULE.get(name) or _EXTRA_OF_PART.get(".".join(part.split(".")[:2]))


def install_command(extra: str) -> str:
    """Returns the command that installs an extra, from the clone if imagemint runs from one."""
    return f"pip install {_find_source(extra)}"


def _find_source(extra: str) -> str:
    origin = metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    found = json.loads(origin) if origin else {}
    url = urlsplit(found.get("url", ""))
    if url.scheme != "file":
        return f"'{DISTRIBUTION}[{extra}]'"
    editable = "-e " if found.get("dir_info", {}).get("editable") else ""
    return f"{editable}'{unquote(url.path)}[{extra}]'"
